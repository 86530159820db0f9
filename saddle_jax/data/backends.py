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
    count: Callable[[Any, int], Any]  # (index (B, Q), size) -> (B, size): how often each image has each index
    # (chosen_B, change, images, columns) -> images, the chosen ones as change(images, columns) makes them
    on_chosen: Callable[[Any, Callable[[Any, Any], Any], Any, Any], Any]


def _take(table: np.ndarray, index_BQ: np.ndarray) -> np.ndarray:
    return table[np.arange(len(table))[:, None], index_BQ]


def _count(index_BQ: np.ndarray, size: int) -> np.ndarray:
    batch = len(index_BQ)
    own_BQ = index_BQ + size * np.arange(batch, dtype=np.int32)[:, None]
    return np.bincount(own_BQ.ravel(), minlength=batch * size).reshape(batch, size).astype(np.int32)


def _on_chosen(chosen_B: np.ndarray, change: Callable[..., Any], images: np.ndarray, columns: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(chosen_B)
    if not rows.size:
        return images
    changed = images.copy()
    changed[rows] = change(images[rows], columns[rows])
    return changed


NUMPY = Backend(np, _take, _count, _on_chosen)


def traced(jnp: Any, cond: Callable[..., Any] | None = None) -> Backend:
    """Return the backend of arrays inside a jitted step: what an operation makes of every image is selected from.

    Args:
      jnp: `jax.numpy`.
      cond: `jax.lax.cond`, to compute an operation only where a batch has an image for it. That is also a border that
        XLA does not fuse across: on CPUs a chain of moves is else computed anew for every pixel that one reads. vmap
        makes a selection of a branch: this is lost then. On accelerators the host would have to wait for each answer.
    """

    def take(table: Any, index_BQ: Any) -> Any:
        return table[jnp.arange(table.shape[0])[:, None], index_BQ]

    def count(index_BQ: Any, size: int) -> Any:
        batch = index_BQ.shape[0]
        return jnp.zeros((batch, size), np.int32).at[jnp.arange(batch)[:, None], index_BQ].add(1)

    def on_chosen(chosen_B: Any, change: Callable[..., Any], images: Any, columns: Any) -> Any:
        def select(images: Any) -> Any:
            return jnp.where(chosen_B[:, None, None, None], change(images, columns), images)

        return select(images) if cond is None else cond(chosen_B.any(), select, lambda images: images, images)

    return Backend(jnp, take, count, on_chosen)
