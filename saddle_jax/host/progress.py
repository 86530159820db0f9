"""Progress lines for long computations."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO


class Progress:
    """One live line on a terminal. In a log, one plain line per minute, plus the first and the last."""

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
        """Take the length of the work. With unit "", lines show the percentage done, but no count and no speed."""
        self._stream = stream or sys.stdout
        self._total, self._batch_size, self._unit = total_steps, batch_size, unit
        self._quiet, self._live = quiet, self._stream.isatty()
        self._label = label and f"{label}  "
        self._first_step, self._began = start, time.monotonic()
        self._written: float | None = None
        self._shown_step: int | None = None
        self.shows_steps = True  # False if several runs go in step and another one shows their progress

    def begin(self, step: int) -> None:
        """Start measuring the speed here: `step` steps are done and everything is compiled."""
        self._first_step, self._began = step, time.monotonic()

    def images_per_second(self, step: int) -> float | None:
        """Return the mean speed since `begin`, including evaluations and saves. None before the first step."""
        if step == self._first_step:
            return None
        return (step - self._first_step) * self._batch_size / max(time.monotonic() - self._began, 1e-9)

    def update(self, step: int, text: str) -> None:
        """Report that `step` steps are done; `text` adds details."""
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
        if self._live:  # a line that wraps could not be overwritten
            line = f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}"
        self._stream.write(line if self._live else f"{line}\n")
        self._stream.flush()

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if not self._quiet:
            self._stream.write(f"\r\x1b[2K{self._label}{line}\n" if self._live else f"{self._label}{line}\n")
            self._stream.flush()


def duration(seconds: float) -> str:
    """Format seconds as 42s, 3m10s, or 2h05m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
