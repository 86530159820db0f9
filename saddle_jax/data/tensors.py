"""TensorFlow for image operations: the functions that they use, by NumPy's names, and its backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from saddle_jax.data.backends import Backend


class _Functions:
    """A namespace: no function here has a state."""

    where = staticmethod(tf.where)
    minimum, maximum = staticmethod(tf.minimum), staticmethod(tf.maximum)
    min, max = staticmethod(tf.reduce_min), staticmethod(tf.reduce_max)
    clip = staticmethod(tf.clip_by_value)
    cumsum, stack, concatenate = staticmethod(tf.cumsum), staticmethod(tf.stack), staticmethod(tf.concat)
    reshape, astype, right_shift = staticmethod(tf.reshape), staticmethod(tf.cast), staticmethod(tf.bitwise.right_shift)

    @staticmethod
    def sum(tensor: Any, axis: Any, dtype: Any) -> Any:
        return tf.reduce_sum(tf.cast(tensor, dtype), axis)

    @staticmethod
    def pad(tensor: Any, widths: Any) -> Any:
        return tf.pad(tensor, widths)


def _take(table: Any, index_BQ: Any) -> Any:
    return tf.gather(table, index_BQ, batch_dims=1)


def _count(index_BQ: Any, size: int) -> Any:
    return tf.math.bincount(index_BQ, minlength=size, maxlength=size, axis=-1)


def _on_chosen(chosen_B: Any, change: Callable[..., Any], images: Any, columns: Any) -> Any:
    rows = tf.where(chosen_B)
    changed = change(tf.gather_nd(images, rows), tf.gather_nd(columns, rows))
    return tf.tensor_scatter_nd_update(images, rows, changed)


def _on_the_one(chosen_B: Any, change: Callable[..., Any], images: Any, columns: Any) -> Any:
    return tf.cond(chosen_B[0], lambda: change(images, columns), lambda: images)


BATCH = Backend(_Functions, _take, _count, _on_chosen)
ONE_IMAGE = Backend(_Functions, _take, _count, _on_the_one)  # a batch of one: what is not chosen is not computed
