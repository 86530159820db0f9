"""All that a run continues from."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from saddle_jax.host.signals import StopRequest


class TrainState(NamedTuple):
    """The same on every device; saved whole, restored whole."""

    step: jax.Array  # (), int32: steps taken
    params: Any
    model_state: Any  # opaque: see `models.base.Network`
    opt_state: Any
    method_state: Any
    key: (
        jax.Array
    )  # uint32, raw random key of the network's draws, of which and of the step they are a function; constant
    finite: jax.Array  # (), bool: every step so far was; once it is False nothing changes any more


def stack(trees: Sequence[Any]) -> Any:
    """Return trees of host arrays as one tree with a leading axis for them; a single tree as it is."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees) if len(trees) > 1 else trees[0]


def unstack(tree: Any, number: int) -> list[Any]:
    """Return the `number` trees that `stack` was given, on the host; a single tree as it is."""
    if number == 1:
        return [tree]
    host = jax.device_get(tree)
    return [jax.tree.map(lambda x, k=k: x[k], host) for k in range(number)]


class Observer(NamedTuple):
    """A look at a run at some of its steps; the run does not depend on it."""

    steps: frozenset[int]
    # (state, workdir, stop, quiet) -> what to say; raises Preempted where a signal cut it short
    look: Callable[[TrainState, pathlib.Path, StopRequest, bool], str]
