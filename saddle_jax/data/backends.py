"""The array libraries that image operations run on: NumPy, JAX inside a jitted step, TensorFlow inside tf.data.

Operations are written once, in whole numbers of 32 bits, so that all three make the same bytes. TensorFlow's backends
are in `tensors`, which alone imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Backend(NamedTuple):
    """What an operation computes with."""

    xp: Any  # functions by NumPy's names
    take: Callable[[Any, Any], Any]  # (table (B, P, ...), index (B, Q)) -> (B, Q, ...): rows of each image's own table
    # (chosen_B, change, images, columns) -> images, the chosen ones as change(images, columns) makes them
    on_chosen: Callable[[Any, Callable[[Any, Any], Any], Any, Any], Any]


def _take(table: np.ndarray, index_BQ: np.ndarray) -> np.ndarray:
    return table[np.arange(len(table))[:, None], index_BQ]


def _on_chosen(chosen_B: np.ndarray, change: Callable[..., Any], images: np.ndarray, columns: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(chosen_B)
    if not rows.size:
        return images
    changed = images.copy()
    changed[rows] = change(images[rows], columns[rows])
    return changed


NUMPY = Backend(np, _take, _on_chosen)


def traced(jnp: Any) -> Backend:
    """Return the backend of arrays inside a jitted step: every image is changed, then the right result is selected."""

    def take(table: Any, index_BQ: Any) -> Any:
        return table[jnp.arange(table.shape[0])[:, None], index_BQ]

    def on_chosen(chosen_B: Any, change: Callable[..., Any], images: Any, columns: Any) -> Any:
        return jnp.where(chosen_B[:, None, None, None], change(images, columns), images)

    return Backend(jnp, take, on_chosen)
