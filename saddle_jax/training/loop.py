"""The training loop: feed, step, observe, evaluate, save, log, stop."""

from __future__ import annotations

import contextlib
import pathlib
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from saddle_jax.data.sources import Splits
from saddle_jax.errors import Preempted
from saddle_jax.host import devices
from saddle_jax.host.signals import StopRequest
from saddle_jax.training.cohort import Cohort
from saddle_jax.training.pending import PendingMetrics
from saddle_jax.training.program import Program
from saddle_jax.training.run import Member, Run, open_runs
from saddle_jax.training.state import Observer


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
      command: the command line, for run.json.
      quiet: print nothing.
      stop: the caller's watch for signals, if it has begun one.
      observer: looks at the state at its steps.

    Raises:
      ConfigError, DataError: the directory holds another run.
      WorkdirInUse: another process trains there.
      Preempted: SIGTERM or SIGINT arrived; the state is saved.
      NonFiniteError: loss or update stopped being finite; the last good checkpoint is kept.
    """
    member = Member(config, workdir, splits, observer)
    with (
        contextlib.nullcontext(stop) if stop else StopRequest() as stop,
        open_runs([member], program, command, quiet=quiet) as (run,),
    ):
        take_steps(run, program, stop)
        return run.finish()


def take_steps(run: Run | Cohort, program: Program, stop: StopRequest) -> None:
    """Take the steps from `run.start` to the last one.

    A segment is one step, or several that the devices take without returning to the host. It ends at every event: a
    step after which the run is evaluated, saved or observed. The host queues a segment while the devices compute the
    one before it, and logs metrics later. At an event it first logs all of them, which raises NonFiniteError after a
    step that was not finite.

    Raises:
      Preempted, NonFiniteError: see `train`.
    """
    when, state = run.timetable, run.take_state()
    # The observer may look at the first weights, or finish a look that was cut short at this step.
    if when.observes(run.start) and not run.observe(state, stop):
        raise _stopped_before_a_step(stop)
    if run.start == when.total:
        return

    began = time.monotonic()
    feed = run.prepare(program)
    state = devices.replicate(state)
    pending = PendingMetrics(run.log, when.log_every)
    for segment in feed.segments(run.start, when.total, when.is_event):
        is_first, step = segment.start == run.start, segment.stop
        if is_first and stop.signal_name:  # do not make the user wait for the compilation
            raise _stopped_before_a_step(stop)
        state, metrics = feed.advance(state, segment)  # returns at once, the devices compute
        pending.add(segment, metrics)
        if is_first:
            jax.block_until_ready(metrics)  # from here on everything is compiled, and speed is measured
            run.begin(step, time.monotonic() - began)

        observed = True
        if when.observes(step):
            pending.read_all()
            observed = run.observe(state, stop)

        stopping = stop.agreed()  # asked once a segment, since a signal may come at any line
        improved = False
        if when.evaluates(step):
            pending.read_all()
            improved = run.evaluate(state, step)
        if improved or stopping or when.saves(step):
            pending.read_all()
            run.save(state, step)
        if stopping and (step < when.total or not observed):
            raise Preempted(f"{stopping}: saved step {step:,} of {when.total:,}; the same command continues")

        pending.read_older()
        run.reached(segment.start)


def _stopped_before_a_step(stop: StopRequest) -> Preempted:
    return Preempted(f"{stop.signal_name}: stopped before a step was taken; the same command continues")
