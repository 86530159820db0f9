"""Progress of long computations: a live bar on a terminal, and one line a minute in a log."""

from __future__ import annotations

import time

from saddle_jax.host import console
from saddle_jax.host.console import duration


class Progress:
    """A live bar on a terminal. Elsewhere one plain line per minute, plus the first and the last."""

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        start: int,
        *,
        unit: str = "step",
        label: str = "",
        quiet: bool = False,
        steps_per_epoch: int = 0,
    ):
        """Set the length of the work. With unit "", lines show the percentage done, but no count and no speed."""
        self._total, self._batch_size, self._unit = total_steps, batch_size, unit
        self._quiet, self._label, self._steps_per_epoch = quiet, label, steps_per_epoch
        self._first_step, self._began = start, time.monotonic()
        self._lap_step, self._lap_began, self._lap_speed = start, self._began, None
        self._step, self._details, self._last_evaluation = start, "", ""
        self._speed_then: list[str] = []  # the speed, when `_step` was reached
        self._doing: tuple[str, float] | None = None  # what, and since when
        self._written: float | None = None
        self._shown_step: int | None = None
        self.shows_steps = True  # False if several runs go in step and another one shows their progress

    def begin(self, step: int) -> None:
        """Start measuring the speed here: `step` steps are done and everything is compiled."""
        self._first_step, self._began = step, time.monotonic()
        self._lap_step, self._lap_began = step, self._began
        self.at(step)

    def lap(self, step: int) -> float | None:
        """Return the images per second since the last lap, or since `begin`, including evaluations and saves.

        A call at the step of the last lap returns that lap's speed. Before the first step there is none.
        """
        if step > self._lap_step:
            now = time.monotonic()
            self._lap_speed = (step - self._lap_step) * self._batch_size / max(now - self._lap_began, 1e-9)
            self._lap_step, self._lap_began = step, now
        return self._lap_speed

    def _mean_speed(self, step: int) -> float | None:
        """Return the images per second since `begin`, including evaluations and saves. None before the first step."""
        if step == self._first_step:
            return None
        return (step - self._first_step) * self._batch_size / max(time.monotonic() - self._began, 1e-9)

    def doing(self, what: str) -> None:
        """Show below the bar what is being done, until the next step or the next call."""
        self._doing = (what, time.monotonic())
        if not self._quiet:
            console.show(self._bar)

    def at(self, step: int) -> None:
        """Move the bar: `step` steps are done."""
        if step > self._step:
            self._step, self._speed_then = step, self._speed(step)
        self._doing = None
        if not self._quiet and self.shows_steps:
            console.show(self._bar)

    def update(self, step: int, *details: str) -> None:
        """Report that `step` steps are done, with details from the most to the least important one."""
        self.at(step)
        self._details = "  ".join(details)
        now = time.monotonic()
        due = self._written is None or step == self._total or now - self._written >= 60
        if self._quiet or not self.shows_steps or not due or step == self._shown_step or console.is_live():
            return
        self._written, self._shown_step = now, step
        print(self._line(step, details), flush=True)

    def evaluated(self, text: str) -> None:
        """Keep the last evaluation in view."""
        self._last_evaluation, self._doing = text, None

    def say(self, word: str, text: str) -> None:
        """Print a separate line."""
        if not self._quiet:
            console.say(word, text, self._label)

    def show_table(self, content: console.Table) -> None:
        """Print a table."""
        if not self._quiet:
            console.table(content if not self._label else content._replace(title=f"{self._label}: {content.title}"))

    def _line(self, step: int, details: tuple[str, ...]) -> str:
        """Return the line of a log, with as many details as it has room for."""
        count = f"{self._unit} {step:,}/{self._total:,} " if self._unit else ""
        start = [time.strftime("%H:%M"), *([self._label] if self._label else [])]
        start.append(f"{count}{100 * step / self._total:.1f}%")
        for shown in range(len(details), -1, -1):
            line = "  ".join([*start, *details[:shown], *self._speed(step)])
            if len(line) <= console.columns():
                break
        return line

    def _speed(self, step: int) -> list[str]:
        """Return the speed and the remaining time, as far as they are known."""
        if not (rate := self._mean_speed(step)):
            return []
        speed = [f"{rate:,.0f} img/s"] if self._unit else []
        return [*speed, f"ETA {duration((self._total - step) * self._batch_size / rate)}"]

    def _bar(self) -> console.Bar:
        """Return what the terminal shows now. Another thread calls this."""
        step, doing = self._step, self._doing
        title = f"{self._unit} {step:,}/{self._total:,}" if self._unit else ""
        if self._steps_per_epoch:
            epochs = -(-self._total // self._steps_per_epoch)
            title = f"epoch {max(1, -(-step // self._steps_per_epoch))}/{epochs}"
        *speed, left = self._speed_then or [""]
        below = ["  ".join(part for part in (self._details, *speed) if part), self._last_evaluation]
        if doing:
            below.append(console.clock(*doing))
        shown = " ".join(part for part in (self._label, title) if part)
        right = f"{100 * step / self._total:.0f}%  {left}".rstrip()
        return console.Bar(shown, step / self._total, right, [line for line in below if line])
