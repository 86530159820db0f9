"""Measured spectra on disk: spectra/<step>/<target>.npz and summary.json. Needs no JAX.

What a spectrum was measured with is part of it. The first settings at a step own spectra/<step>/; others get
spectra/<step>-<fingerprint>/, so that no result is mixed with another's or lost.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from saddle_jax.errors import DataError
from saddle_jax.files import write_atomically

SUMMARY = "summary.json"


class Header(NamedTuple):
    """What all of a folder's spectra share."""

    step: int
    epoch: float
    settings: dict[str, Any]  # what the numbers depend on


def folder_for(workdir: pathlib.Path, header: Header) -> pathlib.Path:
    """Return the folder of these settings at a step; it may not be there yet."""
    digest = hashlib.sha256(json.dumps(header.settings, sort_keys=True).encode()).hexdigest()[:8]
    first, other = workdir / "spectra" / str(header.step), workdir / "spectra" / f"{header.step}-{digest}"
    if not (first / SUMMARY).is_file() or read_summary(first)["settings"] == header.settings:
        return first
    return other


def stored_summary(folder: pathlib.Path, target: str) -> dict[str, Any] | None:
    """Return a finished target's summary, or None where it is not finished or can't be read."""
    try:
        with np.load(folder / f"{target}.npz") as stored:
            return json.loads(str(stored["summary"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def save(
    folder: pathlib.Path, header: Header, target: str, summary: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a target's file, whole or not at all, and enter it into the folder's summary."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, summary=np.array(_json(summary)), **arrays)
    write_atomically(folder / f"{target}.npz", buffer.getvalue())
    enter(folder, header, {target: summary})


def enter(folder: pathlib.Path, header: Header, summaries: Mapping[str, Any]) -> None:
    """Enter finished targets into the folder's summary, making it if it is not there."""
    stored = {**header._asdict(), "targets": {}}
    if (folder / SUMMARY).is_file():
        stored = read_summary(folder)
    stored["targets"] |= summaries
    write_atomically(folder / SUMMARY, _json(stored))


def read_summary(folder: pathlib.Path) -> dict[str, Any]:
    """Return a folder's summary.

    Raises:
      DataError: it is not there or can't be read.
    """
    try:
        stored = json.loads((folder / SUMMARY).read_bytes())
        return {key: stored[key] for key in ("step", "epoch", "settings", "targets")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / SUMMARY} can't be read ({error!r}). Fix: move that folder away, measure again"
        ) from error


def folders(workdir: pathlib.Path) -> dict[int, pathlib.Path]:
    """Return {step: folder} of the first settings of every step that was measured, in order."""
    found = (workdir / "spectra").iterdir() if (workdir / "spectra").is_dir() else ()
    steps = {int(path.name): path for path in found if path.name.isdecimal() and (path / SUMMARY).is_file()}
    return dict(sorted(steps.items()))


def folder_at(workdir: pathlib.Path, step: int | None) -> pathlib.Path:
    """Return the folder of a run's spectra at a step, or at the last one measured.

    Raises:
      DataError: nothing was measured there.
    """
    found = folders(workdir)
    if not found or (step is not None and step not in found):
        where = f"at step {step} (found steps {', '.join(map(str, found))})" if found else "yet"
        raise DataError(f"{workdir} has no spectra {where}. Fix: python main.py --mode spectra --workdir {workdir}")
    return found[max(found) if step is None else step]


def _json(value: Any) -> str:
    return json.dumps(_finite(value), indent=1, sort_keys=False)


def _finite(value: Any) -> Any:
    """Return the value with null for what is no number: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
