"""The state that a run continues from."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from saddle_jax.host.signals import StopRequest


class Weights(NamedTuple):
    """What a network computes with."""

    params: Any
    model_state: Any


class TrainState(NamedTuple):
    """The state of training. It is the same on every device, and is saved and restored as a whole."""

    step: jax.Array  # (), int32: steps taken
    params: Any
    model_state: Any  # opaque: see `models.base.Network`
    opt_state: Any
    method_state: Any
    key: jax.Array  # uint32, constant: raw random key; the network's draws are a function of it and the step
    finite: jax.Array  # (), bool: whether every step so far was finite; once False, nothing changes anymore
    average: Weights | tuple[()] = ()  # exponential moving average over the steps; () without one

    def evaluated(self) -> TrainState:
        """Return the state with the weights that are evaluated and used: the average, if there is one."""
        return self._replace(**self.average._asdict()) if isinstance(self.average, Weights) else self

    def averaged_from_here(self) -> TrainState:
        """Return the state with an average that starts at the current weights, if there is one."""
        return self._replace(average=Weights(self.params, self.model_state)) if self.average else self


def stack(trees: Sequence[Any]) -> Any:
    """Return trees of host arrays as one tree with a leading axis for them. A single tree is returned as it is."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees) if len(trees) > 1 else trees[0]


def unstack(tree: Any, number: int) -> list[Any]:
    """Return the `number` trees that `stack` was given, on the host. A single tree is returned as it is."""
    if number == 1:
        return [tree]
    host = jax.device_get(tree)
    return [jax.tree.map(lambda x, k=k: x[k], host) for k in range(number)]


class Observer(NamedTuple):
    """Looks at a run at some of its steps. The run does not depend on it."""

    steps: frozenset[int]
    # (state, workdir, stop, quiet) -> a line to print; raises Preempted if a signal cut it short
    look: Callable[[TrainState, pathlib.Path, StopRequest, bool], tuple[str, str]]
