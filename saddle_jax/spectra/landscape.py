"""Loss on a plane through the weights, along the directions of most negative and most positive curvature.

A run's other weights are projected onto the plane. Most of the way between two sets of weights lies outside of it, so
the share of the distance inside is part of the result.

Shapes: P parameters, T places along an axis, K sets of weights of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from saddle_jax.spectra.classwise import Extreme
from saddle_jax.spectra.hvp import DifferentiableLoss

POINTS = 25  # along an axis
_MARGIN = 1.25  # how far the plane reaches beyond the end points


class Stop(NamedTuple):
    """Weights that a run passed."""

    step: int
    params_P: jax.Array
    loss: float  # at these weights, with their own BatchNorm statistics


class Path(NamedTuple):
    """A run's weights, seen from the origin of the plane."""

    steps_K: np.ndarray
    places_K2: np.ndarray  # projections onto the two directions
    distances_K: np.ndarray  # from the origin, in all parameters
    losses_K: np.ndarray  # at the weights themselves, not at their projections

    @property
    def shares_K(self) -> np.ndarray:
        """Share of each distance that lies in the plane; NaN at the origin."""
        inside_K = np.linalg.norm(self.places_K2, axis=1)
        return np.divide(inside_K, self.distances_K, out=np.full(len(inside_K), np.nan), where=self.distances_K > 0)


class Landscape(NamedTuple):
    """Loss at w + a v1 + b v2, for v1 and v2 of length 1 and at right angles."""

    a_T: np.ndarray
    b_T: np.ndarray
    losses_TT: np.ndarray  # [b, a]
    paths: dict[str, Path]  # by the runs' names

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the plane and the paths."""
        kept = {"landscape_a": self.a_T, "landscape_b": self.b_T, "landscape_losses": self.losses_TT}
        for name, path in self.paths.items():
            table = [path.steps_K, *path.places_K2.T, path.distances_K, path.shares_K, path.losses_K]
            kept[f"path_{name}"] = np.stack(table, axis=1).astype(float)  # step, a, b, distance, share, loss
        return kept


def measure_landscape(
    whole: DifferentiableLoss,
    smallest: Extreme,
    largest: Extreme,
    stops: Mapping[str, Iterable[Stop]],
    *,
    radius: float,
    points: int = POINTS,
    on_step: Callable[[], Any] = lambda: None,
) -> Landscape:
    """Measure the loss on the plane that two eigenvectors span.

    Args:
      whole: loss whose weights are the origin.
      smallest: the smallest eigenvalue and its eigenvector.
      largest: the largest ones. The vector's part along the smallest one's, which is rounding, is subtracted.
      stops: maps the name of a run to weights that it passed. The plane reaches beyond the projection of the last one,
        but not of all.
      radius: the plane reaches at least this far along the first direction. Along the second one, this is multiplied by
        the root of |smallest / largest|, so that both change the loss by about the same.
      points: places along each axis. Their square is the number of losses that are computed.
      on_step: called before each loss.
    """
    first_P = smallest.vector_P / jnp.linalg.norm(smallest.vector_P)
    second_P = largest.vector_P - jnp.vdot(first_P, largest.vector_P) * first_P
    second_P = second_P / jnp.linalg.norm(second_P)
    paths = {name: _project(run, whole.params_P, (first_P, second_P)) for name, run in stops.items()}
    ends_N2 = np.concatenate([np.zeros((1, 2)), *(path.places_K2[-1:] for path in paths.values())])
    narrow = (-smallest.value / largest.value) ** 0.5 if smallest.value < 0 < largest.value else 1.0
    reach_2 = np.maximum(_MARGIN * np.abs(ends_N2).max(0), (radius, radius * narrow))
    a_T, b_T = (np.linspace(-reach, reach, points) for reach in reach_2)

    def loss_at(a: float, b: float) -> float:
        on_step()
        return whole.loss(whole.params_P + a * first_P + b * second_P)

    return Landscape(a_T, b_T, np.array([[loss_at(a, b) for a in a_T] for b in b_T]), paths)


def _project(stops: Iterable[Stop], origin_P: jax.Array, directions: tuple[jax.Array, jax.Array]) -> Path:
    steps, places, distances, losses = [], [], [], []
    for stop in stops:
        away_P = stop.params_P - origin_P
        steps.append(stop.step)
        places.append([float(jnp.vdot(direction_P, away_P)) for direction_P in directions])
        distances.append(float(jnp.linalg.norm(away_P)))
        losses.append(stop.loss)
    return Path(np.array(steps), np.array(places).reshape(-1, 2), np.array(distances), np.array(losses))
