"""Several runs that take their steps together and look like one run to the training loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from saddle_jax.errors import NonFiniteError
from saddle_jax.host.signals import StopRequest
from saddle_jax.training.feed import Feed
from saddle_jax.training.program import Program
from saddle_jax.training.run import Run
from saddle_jax.training.state import TrainState, stack, unstack
from saddle_jax.training.steps import StepMetrics


class Cohort:
    """Runs at the same step that differ in nothing but seeds and images.

    Their state is one tree of arrays with a leading axis for the runs, and so are the metrics of a step. A run whose
    loss or update stops being finite ends; the others continue.
    """

    def __init__(self, runs: Sequence[Run]):
        self._runs = runs
        self.start, self.timetable = runs[0].start, runs[0].timetable
        self._show_one()

    def prepare(self, program: Program) -> Feed:
        """Return the feed of all runs; those with the same images also share the evaluators."""
        feed = Feed([run.config for run in self._runs], [run.splits for run in self._runs], program)
        shared = {}
        for run in self._runs:
            if id(run.splits) not in shared:
                shared[id(run.splits)] = run.make_evaluators(program, feed.pipeline)
            run.evaluators = shared[id(run.splits)]
        return feed

    def take_state(self) -> TrainState:
        """Return the runs' states, on the host; no run keeps its own."""
        return stack([run.take_state() for run in self._runs])

    def begin(self, step: int, seconds: float) -> None:
        """Measure every run's speed from `step` on; the first run reports that `seconds` have passed."""
        for run in self._runs[1:]:
            run.progress.begin(step)
        self._runs[0].begin(step, seconds)

    def log(self, step: int, metrics: StepMetrics, done: int) -> None:
        """Log a step of every run.

        Raises:
          NonFiniteError: no run is left.
        """
        for run, values in self._each(metrics):
            try:
                run.log(step, values, done)
            except NonFiniteError as error:
                self._end(run, error)

    def reached(self, step: int) -> None:
        """Show that the devices have taken at least `step` steps."""
        for run in self._runs:
            run.reached(step)

    def observe(self, state: TrainState, stop: StopRequest) -> bool:
        """Let every run's observer look; return whether all finished, with none cut short by a signal."""
        done = True
        for run, one in self._each(state):
            done &= run.observe(one, stop)
        return done

    def evaluate(self, state: TrainState, step: int) -> bool:
        """Evaluate every run; return whether any of them is the best so far.

        Raises:
          NonFiniteError: no run is left.
        """
        improved = False
        for run, one in self._each(state):
            try:
                improved |= run.evaluate(one, step)
            except NonFiniteError as error:
                self._end(run, error)
        return improved

    def save(self, state: TrainState, step: int) -> None:
        """Save every run, so that after an interruption all continue from the same step."""
        for run, one in self._each(state):
            run.save(one, step)

    def _each(self, tree: Any) -> Iterator[tuple[Run, Any]]:
        """Yield the runs that have not ended, each with its own part of a tree."""
        for run, part in zip(self._runs, unstack(tree, len(self._runs)), strict=True):
            if run.error is None:
                yield run, part

    def _end(self, run: Run, error: NonFiniteError) -> None:
        """Report that a run has ended early; raise its error if it was the last."""
        run.progress.say("error", str(error))
        if all(run.error for run in self._runs):
            raise error
        self._show_one()

    def _show_one(self) -> None:
        """Let the first run that has not ended show the progress of all."""
        going_on = [run for run in self._runs if run.error is None]
        for run in self._runs:
            run.progress.shows_steps = run is going_on[0]
