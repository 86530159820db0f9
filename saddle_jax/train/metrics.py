"""Where numbers go while a run trains: metrics.jsonl always, TensorBoard through clu, one progress line for people."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from absl import logging

from saddle_jax.faults import fault_point
from saddle_jax.files import write_atomically, writing


class MetricWriter:
    """Append scalars to metrics.jsonl and, where TensorFlow is installed, to TensorBoard; without a workdir to none."""

    def __init__(self, workdir: pathlib.Path | None, *, tensorboard: bool, resumed_step: int):
        self._file = self._clu = None
        if workdir is None:
            return
        self._path = workdir / "metrics.jsonl"
        _drop_after(self._path, resumed_step)
        self._file = self._path.open("a")
        self._clu = _make_clu_writer(workdir / "tensorboard") if tensorboard else None

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Record `scalars` (None where there is nothing to measure) at `step`."""
        if self._file is None:
            return
        line = json.dumps({"step": step, **scalars}) + "\n"
        with writing(self._path, len(line)):
            self._file.write(line)
            fault_point("metrics")
            self._file.flush()
        if self._clu is not None:
            self._clu.write_scalars(step, {k: v for k, v in scalars.items() if isinstance(v, (int, float))})

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # every record was flushed, or its failure has ended the run
            if self._file is not None:
                self._file.close()
        if self._clu is not None:
            self._clu.close()


class RunningMean:
    """Means of a step's scalars since the last log record; its state is saved, so that a resumed run logs the same."""

    def __init__(self, count: int = 0, sums: Mapping[str, float] | None = None):
        self._count, self._sums = count, dict(sums or {})

    def add(self, scalars: Mapping[str, Any]) -> None:
        """Count one more step."""
        self._count += 1
        self._sums = {name: self._sums.get(name, 0.0) + float(value) for name, value in scalars.items()}

    def take(self) -> dict[str, float]:
        """Return the means and start anew."""
        means = {name: total / self._count for name, total in self._sums.items()}
        self._count, self._sums = 0, {}
        return means

    def state(self) -> dict[str, Any]:
        """Return what the constructor takes."""
        return {"count": self._count, "sums": self._sums}


class Progress:
    """One live line on a terminal; in a log one plain line a minute, and the first and the last."""

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        start: int,
        *,
        unit: str = "step",
        label: str = "",
        quiet: bool = False,
        stream: TextIO | None = None,
    ):
        """Take the length of the work; with unit "" only the part that is done is shown, with no count and no speed."""
        self._stream = stream or sys.stdout
        self._total, self._batch_size, self._unit = total_steps, batch_size, unit
        self._quiet, self._live = quiet, self._stream.isatty()
        self._label = label and f"{label}  "
        self._first_step, self._began = start, time.monotonic()
        self._written: float | None = None
        self._shown_step: int | None = None
        self.shows_steps = True  # False: of several runs in step, another shows how far they are

    def begin(self, step: int) -> None:
        """Measure speed from here: `step` steps are done and everything is compiled."""
        self._first_step, self._began = step, time.monotonic()

    def images_per_second(self, step: int) -> float | None:
        """Return the mean speed since `begin`, evaluations and saves included; None as long as nothing was done."""
        if step == self._first_step:
            return None
        return (step - self._first_step) * self._batch_size / max(time.monotonic() - self._began, 1e-9)

    def update(self, step: int, text: str) -> None:
        """Tell that `step` steps are done; `text` holds what is worth seeing."""
        now = time.monotonic()
        due = self._live or self._written is None or step == self._total or now - self._written >= 60
        if self._quiet or not self.shows_steps or not due or step == self._shown_step:
            return
        self._written, self._shown_step = now, step
        count = f"{self._unit} {step:,}/{self._total:,} " if self._unit else ""
        speed = ""
        if rate := self.images_per_second(step):
            left = (self._total - step) * self._batch_size / rate
            speed = f"  {rate:,.0f} img/s" * bool(self._unit) + f"  ETA {duration(left)}"
        line = f"{time.strftime('%H:%M')}  {self._label}{count}{100 * step / self._total:.1f}%  {text}{speed}"
        if self._live:  # a line that wraps could not be written over
            line = f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}"
        self._stream.write(line if self._live else f"{line}\n")
        self._stream.flush()

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if not self._quiet:
            self._stream.write(f"\r\x1b[2K{self._label}{line}\n" if self._live else f"{self._label}{line}\n")
            self._stream.flush()


def duration(seconds: float) -> str:
    """Return 42s, 3m10s or 2h05m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Return the records of metrics.jsonl; a torn last line is left out."""
    path = workdir / "metrics.jsonl"
    return [record for line in _lines(path) if (record := _parse(line)) is not None]


def _drop_after(path: pathlib.Path, step: int) -> None:
    """Remove records later than `step` and a torn last line: a resumed run writes them again."""
    if not path.exists():
        return
    kept = [line for line in _lines(path) if (r := _parse(line)) is not None and r["step"] <= step]
    write_atomically(path, "".join(f"{line}\n" for line in kept))


def _lines(path: pathlib.Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()  # a power cut may leave anything at the end


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and "step" in record else None


def _make_clu_writer(logdir: pathlib.Path):
    try:
        import tensorflow as tf
        from clu import metric_writers
    except ImportError as error:  # clu's writers need TensorFlow; metrics.jsonl carries on without
        logging.info("no TensorBoard events: %s", error)
        return None
    tf.config.set_visible_devices([], "GPU")  # TensorFlow must not take the accelerator's memory
    return metric_writers.AsyncMultiWriter([metric_writers.SummaryWriter(str(logdir))])
