"""The training loop on runs that only note their calls: the order of events, stops, a cohort's broken runs."""

import types

import numpy as np
import pytest

from saddle_jax.errors import NonFiniteError, Preempted
from saddle_jax.host.signals import StopRequest
from saddle_jax.training import loop
from saddle_jax.training.cohort import Cohort
from saddle_jax.training.feed import Segment
from saddle_jax.training.state import stack
from saddle_jax.training.timetable import Timetable


class Run:
    """A run of 6 steps: evaluated every 3, saved every 4, observed at 0 and 5; its state is the number of steps."""

    def __init__(self, start=0, *, breaks_at=None, better_at=(), signal_at=None, stop=None):
        self.start, self.timetable = start, Timetable(6, 2, 3, 4, frozenset({0, 5}))
        self.error, self.calls = None, []
        self.progress = types.SimpleNamespace(
            say=lambda *said: self.calls.append("  ".join(said)), begin=lambda _: None, shows_steps=True
        )
        self._breaks_at, self._better_at, self._signal_at, self._stop = breaks_at, better_at, signal_at, stop

    def take_state(self):
        return np.array(self.start)

    def prepare(self, _):
        def segments(start, total, _):
            for step in range(start, total):
                yield Segment(step, step + 1, None)

        def advance(state, segment):
            assert np.all(np.asarray(state) == segment.start)
            return state + 1, np.zeros(np.shape(state))

        return types.SimpleNamespace(segments=segments, advance=advance)

    def reached(self, step):
        assert step >= self.start

    def begin(self, step, _):
        self.calls.append(f"begin {step}")

    def log(self, step, metrics, done):
        assert np.shape(metrics) == ()
        if step == self._breaks_at:
            self.error = NonFiniteError(f"broken at {step}")
            raise self.error
        self.calls.append(f"log {step}/{done}")

    def observe(self, state, _):
        self.calls.append(f"observe {int(state)}")
        if int(state) == self._signal_at:
            self._stop.signal_name = "SIGTERM"
            return False
        return True

    def evaluate(self, state, step):
        assert int(state) == step
        self.calls.append(f"evaluate {step}")
        return step in self._better_at

    def save(self, state, step):
        assert int(state) == step
        self.calls.append(f"save {step}")


class TwoRuns(Cohort):
    """A cohort with the feed of its first run, whose state has an axis for runs."""

    def prepare(self, program):
        return self._runs[0].prepare(program)


WHOLE = (
    *("observe 0", "begin 1", "log 1/3", "log 2/3", "log 3/3", "evaluate 3", "save 3", "log 4/4", "save 4"),
    *("log 5/5", "observe 5", "log 6/6", "evaluate 6", "save 6"),
)


def test_metrics_are_read_before_every_event_and_the_best_is_saved():
    run = Run(better_at=[3])
    loop.take_steps(run, None, StopRequest())
    assert run.calls == list(WHOLE)


def test_metrics_of_older_steps_are_read_once_in_a_logging_interval():
    run = Run()
    run.timetable = Timetable(6, 2, 6, 6, frozenset())
    loop.take_steps(run, None, StopRequest())
    assert run.calls[1:] == ["log 1/2", "log 2/2", "log 3/4", "log 4/4", "log 5/6", "log 6/6", "evaluate 6", "save 6"]


def test_a_finished_run_takes_no_step():
    run = Run(start=6)
    loop.take_steps(run, None, StopRequest())
    assert run.calls == []


def test_a_signal_is_answered_by_a_save_and_an_observation_is_made_again():
    stop = StopRequest()
    run = Run(signal_at=5, stop=stop)
    with pytest.raises(Preempted, match="SIGTERM: saved step 5 of 6"):
        loop.take_steps(run, None, stop)
    assert run.calls[-3:] == ["log 5/5", "observe 5", "save 5"]
    again = Run(start=5)
    again.timetable = again.timetable._replace(observed=frozenset({5}))
    loop.take_steps(again, None, StopRequest())
    assert again.calls == ["observe 5", "begin 6", "log 6/6", "evaluate 6", "save 6"]


def test_a_signal_before_the_first_step_leaves_nothing():
    stop = StopRequest()
    run = Run(signal_at=0, stop=stop)
    with pytest.raises(Preempted, match="stopped before a step was taken"):
        loop.take_steps(run, None, stop)
    assert run.calls == ["observe 0"]


def test_a_cohort_saves_all_runs_if_one_is_better():
    runs = [Run(better_at=[3]), Run()]
    loop.take_steps(TwoRuns(runs), None, StopRequest())
    assert runs[0].calls == list(WHOLE)
    assert runs[1].calls == [call for call in WHOLE if not call.startswith("begin")]


def test_a_broken_run_ends_alone_and_the_last_one_ends_the_cohort():
    runs = [Run(breaks_at=2), Run()]
    loop.take_steps(TwoRuns(runs), None, StopRequest())
    assert runs[0].calls == ["observe 0", "begin 1", "log 1/3", "error  broken at 2"]
    assert runs[1].calls[-1] == "save 6"
    assert [run.progress.shows_steps for run in runs] == [False, True]
    runs = [Run(breaks_at=2), Run(breaks_at=5)]
    with pytest.raises(NonFiniteError, match="broken at 5"):
        loop.take_steps(TwoRuns(runs), None, StopRequest())
    assert runs[1].calls[-3:] == ["log 4/4", "save 4", "error  broken at 5"]


def test_a_cohorts_state_has_an_axis_for_the_runs():
    state = TwoRuns([Run(start=3), Run(start=3)]).take_state()
    np.testing.assert_array_equal(state, stack([np.array(3), np.array(3)]))
