"""Runs from their first step, or from their last checkpoint, to their last step: one, or several at once."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.sources import Images, Splits
from saddle_jax.errors import NonFiniteError, Preempted
from saddle_jax.host import devices, processes, watchdog
from saddle_jax.host.lock import exclusive
from saddle_jax.host.progress import duration
from saddle_jax.host.signals import StopRequest
from saddle_jax.train.directory import require_same_run
from saddle_jax.train.evaluate import Evaluator
from saddle_jax.train.feed import Feed, Segment
from saddle_jax.train.metrics import MetricWriter
from saddle_jax.train.program import Program
from saddle_jax.train.run import Member, Run
from saddle_jax.train.state import Observer, TrainState, stack, unstack
from saddle_jax.train.steps import StepMetrics


def train(
    config: ConfigDict,
    workdir: pathlib.Path,
    splits: Splits,
    program: Program,
    command: list[str],
    *,
    quiet: bool = False,
    stop: StopRequest | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Train the run in `workdir` from its start, or from its last checkpoint, to its end; return its reports.

    The reports, {"last": ..., "best": ...}, are also in results.json. A finished run is not trained again.

    Args:
      command: what was typed, for run.json.
      quiet: print nothing.
      stop: the caller's watch for signals, if it has begun one.
      observer: looks at the state at its steps.

    Raises:
      ConfigError, DataError: the directory holds another run.
      WorkdirInUse: another process trains there.
      Preempted: SIGTERM or SIGINT came; the state is saved.
      NonFiniteError: loss or update stopped being finite; the last good checkpoint is kept.
    """
    members = [Member(config, workdir, splits, observer)]
    return train_at_once(members, program, command, quiet=quiet, stop=stop)[0]


def train_at_once(
    members: Sequence[Member],
    program: Program,
    command: list[str],
    *,
    quiet: bool = False,
    stop: StopRequest | None = None,
) -> list[dict[str, Any]]:
    """Train several runs in step, each as it would train alone; return their reports. Raises what `train` does.

    A run that stops being finite ends; the others go on, and its error is raised when they have finished.
    """
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(StopRequest())
        notes = [processes.on_first(lambda m=member: stack.enter_context(exclusive(m.workdir))) for member in members]
        stack.enter_context(watchdog.watch(members[0].config.watchdog_secs))
        for member in members:
            processes.on_first(lambda m=member: require_same_run(m.workdir, m.config, m.splits))
        runs = [Run(member, program, command, quiet=quiet or not processes.is_first()) for member in members]
        for run, told in zip(runs, notes, strict=True):
            run.say_notes(told)
            tensorboard = run.config.tensorboard and run.start < run.total
            folder = run.workdir if processes.is_first() else None
            run.writer = stack.enter_context(MetricWriter(folder, tensorboard=tensorboard, resumed_step=run.start))
        # An interruption may have come between two runs' saves: those at the same step go together.
        for _, group in itertools.groupby(sorted(runs, key=_start), key=_start):
            _Group(list(group), program).train(stop)
        reports = [run.finish() for run in runs if run.error is None]
        if errors := [run.error for run in runs if run.error]:
            raise NonFiniteError("\n".join(map(str, errors)))
        return reports


def _start(run: Run) -> int:
    return run.start


_UNREAD_STEPS = 1000  # at most, before their metrics are looked at


class _Group:
    """Runs at the same step, whose states are one tree of arrays on the devices."""

    def __init__(self, runs: list[Run], program: Program):
        self._runs, self._lead = runs, runs[0]
        self._began = time.monotonic()
        self._show_one()
        if self._lead.start == self._lead.total:
            return
        splits = [run.splits for run in runs]
        self._feed = Feed([run.config for run in runs], splits, program)
        evaluators: dict[int, Evaluator] = {}

        def evaluator(run: Run, images: Images) -> Evaluator:
            if id(images) not in evaluators:
                evaluators[id(images)] = Evaluator(run.config, program, images, run.splits.stats, self._feed.pipeline)
            return evaluators[id(images)]

        for run in runs:
            parts = {"validation": run.splits.validation, "test": run.splits.test}
            run.evaluators = {split: evaluator(run, images) for split, images in parts.items() if images is not None}

    def train(self, stop: StopRequest) -> None:
        """Take the steps that are left."""
        start, total = self._lead.start, self._lead.total
        # The first weights are observed, or what was cut short when this step was reached.
        if not all([run.observe(run.state, start, stop) for run in self._runs]):
            raise Preempted(f"{stop.signal_name}: stopped before a step was taken; the same command continues")
        if start == total:
            return
        state = devices.replicate(stack([jax.device_get(run.state) for run in self._runs]))
        for run in self._runs:
            del run.state  # the memory is the steps'
        queue: list[tuple[Segment, StepMetrics]] = []  # segments whose metrics have not been looked at
        for segment in self._feed.segments(start, total, self._lead.is_event):
            if stop.signal_name and segment.start == start:
                raise Preempted(f"{stop.signal_name}: stopped before a step was taken; the same command continues")
            state, metrics = self._feed.advance(state, segment)
            queue.append((segment._replace(inputs=None), metrics))
            if segment.start == start:
                self._begin(segment, metrics)
            step, observed = segment.stop, True
            if self._lead.observes(step):
                self._look(queue)
                observed = all([run.observe(one, step, stop) for run, one in self._each(state)])
            stopping = stop.agreed()  # asked once: a signal may come at any line
            if self._lead.is_event(step) or stopping:
                self._look(queue)
                self._settle(state, step, stopping=bool(stopping))
            else:
                self._wait(queue)
            if stopping and (step < total or not observed):
                raise Preempted(f"{stopping}: saved step {step:,} of {total:,}; the same command continues")
            if not self._alive:
                return

    def _settle(self, state: TrainState, step: int, *, stopping: bool) -> None:
        """Evaluate and save if it is time; save if a run is stopping, or one is better than ever.

        All are saved if one is, so that after an interruption they can go on in step.
        """
        each = self._each(state)
        improved = [self._unless_broken(run, lambda r=run, s=one: r.evaluate(s, step)) for run, one in each]
        if any(improved) or stopping or self._lead.saves(step):
            for run, one in each:
                if run.error is None:
                    run.save(one, step)

    def _unless_broken(self, run: Run, act: Callable[[], Any]) -> Any:
        """Return what `act` does; if it finds the run not finite, end the run, or the only run with its error."""
        try:
            return act()
        except NonFiniteError as error:
            if len(self._runs) == 1:
                raise
            run.error = error
            run.progress.say(f"error  {error}")
            self._show_one()
            return None

    def _show_one(self) -> None:
        """Let the first run that goes on show how far all are."""
        for run in self._runs:
            run.progress.shows_steps = run in self._alive[:1]

    @property
    def _alive(self) -> list[Run]:
        return [run for run in self._runs if run.error is None]

    def _each(self, state: TrainState) -> list[tuple[Run, TrainState]]:
        """Return the runs that go on, each with its own state."""
        states = unstack(state, len(self._runs))
        return [(run, one) for run, one in zip(self._runs, states, strict=True) if run.error is None]

    def _begin(self, segment: Segment, metrics: StepMetrics) -> None:
        """Wait for the first steps, with which everything is compiled, and measure speed from here."""
        jax.block_until_ready(metrics)
        for run in self._runs:
            run.progress.begin(segment.stop)
        self._lead.progress.say(f"ready  first steps after {duration(time.monotonic() - self._began)}")

    def _wait(self, queue: list[tuple[Segment, StepMetrics]]) -> None:
        """Keep one segment under way beside the newest; look at the older ones once in a logging interval."""
        if len(queue) < 2:
            return
        oldest, done = queue[0][0].start, queue[-2][0].stop
        if done // self._lead.log_every > oldest // self._lead.log_every or done - oldest >= _UNREAD_STEPS:
            older, queue[:] = queue[:-1], queue[-1:]
            self._look(older)
        else:
            jax.block_until_ready(queue[-2][1])
            watchdog.alive()

    def _look(self, queue: list[tuple[Segment, StepMetrics]]) -> None:
        """Read the metrics of queued segments and empty the queue."""
        if not queue:
            return
        done = queue[-1][0].stop
        host = jax.device_get([metrics for _, metrics in queue])
        for (segment, _), metrics in zip(queue, host, strict=True):
            steps = segment.stop - segment.start
            values = jax.tree.map(lambda x, n=steps: np.reshape(x, (n, len(self._runs))), metrics)
            for i, k in itertools.product(range(steps), range(len(self._runs))):
                run, one = self._runs[k], jax.tree.map(lambda x, at=(i, k): x[at], values)
                if run.error is None:
                    self._unless_broken(run, lambda r=run, v=one, n=segment.start + i + 1: r.look(n, v, done))
        queue.clear()
        watchdog.alive()
