"""The metrics of a training run: records in metrics.jsonl, and means over steps."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from saddle_jax.host.faults import fault_point
from saddle_jax.host.files import write_atomically, writing


class MetricWriter:
    """Appends scalars to metrics.jsonl, or drops them if there is no workdir."""

    def __init__(self, workdir: pathlib.Path | None, *, resumed_step: int):
        self._file = None
        if workdir is None:
            return
        self._path = workdir / "metrics.jsonl"
        _drop_after(self._path, resumed_step)
        self._file = self._path.open("a")

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Record `scalars` at `step`; None stands for a quantity that does not exist."""
        if self._file is None:
            return
        line = json.dumps({"step": step, **scalars}) + "\n"
        with writing(self._path, len(line)):
            self._file.write(line)
            fault_point("metrics")
            self._file.flush()

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # every record was flushed, or its failure has ended the run
            if self._file is not None:
                self._file.close()


class RunningMean:
    """Means of scalars over the steps since the last record. They are saved, so that a resumed run logs the same."""

    def __init__(self, count: int = 0, sums: Mapping[str, float] | None = None, skipped: int = 0):
        self._count, self._sums, self._skipped = count, dict(sums or {}), skipped

    def add(self, scalars: Mapping[str, Any]) -> None:
        """Add a step."""
        self._count += 1
        self._sums = {name: self._sums.get(name, 0.0) + float(value) for name, value in scalars.items()}

    def skip(self) -> None:
        """Count a step that has no scalars."""
        self._skipped += 1

    def take(self) -> dict[str, float]:
        """Return the means, and the number of steps without scalars if there were any, and start over."""
        means = {name: total / self._count for name, total in self._sums.items()}
        means |= {"skipped_steps": self._skipped} if self._skipped else {}
        self._count, self._sums, self._skipped = 0, {}, 0
        return means

    def state(self) -> dict[str, Any]:
        """Return the arguments with which the constructor rebuilds this object."""
        return {"count": self._count, "sums": self._sums, "skipped": self._skipped}


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Return the records of metrics.jsonl, without a torn last line."""
    path = workdir / "metrics.jsonl"
    return [record for line in _lines(path) if (record := parse(line)) is not None]


def _drop_after(path: pathlib.Path, step: int) -> None:
    """Remove records later than `step` and a torn last line, which a resumed run writes again."""
    if not path.exists():
        return
    kept = [line for line in _lines(path) if (r := parse(line)) is not None and r["step"] <= step]
    write_atomically(path, "".join(f"{line}\n" for line in kept))


def _lines(path: pathlib.Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()  # a power cut may leave anything at the end


def parse(line: str) -> dict[str, Any] | None:
    """Return the record in a line, or None if the line is damaged."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and "step" in record else None
