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

    step: jax.Array  # (), int32: steps taken; after a step that was not finite negative, and nothing changes any more
    params: Any
    batch_stats: Any
    opt_state: Any
    method_state: Any


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
