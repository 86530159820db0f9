"""The steps at which a run does something other than train."""

from __future__ import annotations

from typing import NamedTuple

from ml_collections import ConfigDict

from saddle_jax.experiment.durations import parse_duration
from saddle_jax.schedules import Schedules
from saddle_jax.training.state import Observer


class Timetable(NamedTuple):
    """When a run is logged, evaluated, saved and observed; all numbers are steps."""

    total: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    observed: frozenset[int]
    keep_every: int | None = None

    def logs(self, step: int) -> bool:
        """Return whether the metrics since the last record are logged after `step` steps."""
        return step % self.log_every == 0 or step == self.total

    def evaluates(self, step: int) -> bool:
        """Return whether the state after `step` steps is evaluated."""
        return step % self.eval_every == 0 or step == self.total

    def saves(self, step: int) -> bool:
        """Return whether the state after `step` steps is saved, however good it is."""
        return step % self.checkpoint_every == 0 or step == self.total or self.keeps(step)

    def keeps(self, step: int) -> bool:
        """Return whether the checkpoint after `step` steps is never deleted."""
        return self.keep_every is not None and step % self.keep_every == 0

    def observes(self, step: int) -> bool:
        """Return whether the observer looks at the state after `step` steps."""
        return step in self.observed

    def is_event(self, step: int) -> bool:
        """Return whether the state after `step` steps is wanted for anything but the next step."""
        return self.evaluates(step) or self.saves(step) or self.observes(step)


def make_timetable(config: ConfigDict, schedules: Schedules, observer: Observer | None) -> Timetable:
    """Return the timetable that a config's durations describe."""

    def steps(duration: str) -> int:
        return max(1, parse_duration(duration).steps(schedules.steps_per_epoch, schedules.total_steps))

    return Timetable(
        total=schedules.total_steps,
        log_every=steps(config.log_every),
        eval_every=steps(config.eval.every),
        checkpoint_every=steps(config.checkpoint_every),
        keep_every=steps(config.keep_every) if config.keep_every else None,
        observed=observer.steps if observer else frozenset(),
    )
