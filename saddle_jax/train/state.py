"""All that a run continues from."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from saddle_jax.train.runtime import StopRequest


class TrainState(NamedTuple):
    """The same on every device; saved whole, restored whole."""

    step: jax.Array  # (), int32: steps taken
    params: Any
    batch_stats: Any
    opt_state: Any
    method_state: Any


class Observer(NamedTuple):
    """What looks at a run at some of its steps; the run does not depend on it."""

    steps: frozenset[int]
    # (state, workdir, stop, quiet) -> what to say; raises Preempted where a signal cut it short
    look: Callable[[TrainState, pathlib.Path, StopRequest, bool], str]
