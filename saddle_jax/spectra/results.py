"""Store measured spectra in spectra/<step>/<target>.npz and spectra/<step>/summary.json. Does not need JAX.

The settings of a measurement are part of its result. spectra/<step>/ holds the results for the settings that were used
last. Results for other settings move to spectra/<step>-<fingerprint>/, so none are mixed or lost.
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
from saddle_jax.host.files import write_atomically

SUMMARY = "summary.json"


class Header(NamedTuple):
    """Facts that all spectra in a folder share."""

    step: int
    epoch: float
    settings: dict[str, Any]  # everything that the numbers depend on


def open_folder(workdir: pathlib.Path, header: Header) -> tuple[pathlib.Path, dict[str, Any]]:
    """Return the folder of a step and {target: summary} of the targets that were already measured with these settings.

    Results for other settings are moved aside first, and earlier results for these settings are moved back.
    """
    folder = workdir / "spectra" / str(header.step)
    stored = read_summary(folder)["settings"] if (folder / SUMMARY).is_file() else None
    if stored != header.settings:
        if stored is not None:
            _replace(folder, folder.with_name(f"{header.step}-{_fingerprint(stored)}"))
        earlier = folder.with_name(f"{header.step}-{_fingerprint(header.settings)}")
        if (earlier / SUMMARY).is_file() and not folder.exists():
            earlier.rename(folder)
    if not (folder / SUMMARY).is_file():
        return folder, {}
    finished = {path.stem: stored_summary(folder, path.stem) for path in folder.glob("*.npz")}
    readable = {name: summary for name, summary in finished.items() if summary is not None}
    # The process may have been killed after it wrote a target's file and before the summary. A file may be damaged.
    listed = read_summary(folder)["targets"]
    order = [*(name for name in listed if name in readable), *sorted(readable.keys() - listed.keys())]
    _write_summary(folder, header, {name: readable[name] for name in order})
    return folder, readable


def _replace(source: pathlib.Path, target: pathlib.Path) -> None:
    """Rename a folder. If the target exists, it holds older results for the same settings: move the files into it."""
    if target.exists():
        for path in source.iterdir():
            path.replace(target / path.name)
        source.rmdir()
    else:
        source.rename(target)


def conditions(settings: Mapping[str, Any]) -> str:
    """Return a one-line description of the measured loss."""
    weights = ", class weights of the step" if settings["class_weights"] == "training" else ""
    of = " of the trained parameters" if settings.get("parameters") == "trained" else ""
    return (
        f"{settings['loss']} loss{of}, logit scale {settings['logit_scale']:g}{weights}, BatchNorm in "
        f"{settings['batch_norm']} mode, {settings['dtype']}"
    )


def stored_summary(folder: pathlib.Path, target: str) -> dict[str, Any] | None:
    """Return a target's summary, or None if the target is not finished or its file can't be read."""
    try:
        with np.load(folder / f"{target}.npz") as stored:
            return json.loads(str(stored["summary"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def save(
    folder: pathlib.Path, header: Header, target: str, summary: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a target's file atomically and add it to the folder's summary."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / SUMMARY).is_file():  # record the settings before any result
        _write_summary(folder, header, {})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, summary=np.array(_json(summary)), **arrays)
    write_atomically(folder / f"{target}.npz", buffer.getvalue())
    _write_summary(folder, header, {**read_summary(folder)["targets"], target: summary})


def _write_summary(folder: pathlib.Path, header: Header, targets: Mapping[str, Any]) -> None:
    write_atomically(folder / SUMMARY, _json({**header._asdict(), "targets": targets}))


def _fingerprint(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def read_summary(folder: pathlib.Path) -> dict[str, Any]:
    """Return a folder's summary.

    Raises:
      DataError: the summary is missing or can't be read.
    """
    try:
        stored = json.loads((folder / SUMMARY).read_bytes())
        return {key: stored[key] for key in ("step", "epoch", "settings", "targets")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / SUMMARY} can't be read ({error!r}). Fix: move that folder away and measure again"
        ) from error


def folders(workdir: pathlib.Path) -> dict[int, pathlib.Path]:
    """Return {step: folder} for every measured step, in ascending order."""
    found = (workdir / "spectra").iterdir() if (workdir / "spectra").is_dir() else ()
    steps = {int(path.name): path for path in found if path.name.isdecimal() and (path / SUMMARY).is_file()}
    return dict(sorted(steps.items()))


def folder_at(workdir: pathlib.Path, step: int | None) -> pathlib.Path:
    """Return the folder of a run's spectra at a step, or at the last measured step if `step` is None.

    Raises:
      DataError: the run has no spectra at that step.
    """
    found = folders(workdir)
    if not found or (step is not None and step not in found):
        where = f"at step {step} (found steps {', '.join(map(str, found))})" if found else "yet"
        raise DataError(f"{workdir} has no spectra {where}. Fix: --mode spectra --workdir {workdir}")
    return found[max(found) if step is None else step]


def _json(value: Any) -> str:
    return json.dumps(_finite(value), indent=1, sort_keys=False)


def _finite(value: Any) -> Any:
    """Return the value with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
