"""Training batches through tf.data, parallel and prefetched: from an array or from encoded images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.encoded import Encoded
from saddle_jax.data.feeds import streaming
from saddle_jax.data.feeds.decoding import by_workers
from saddle_jax.data.images import Batch
from saddle_jax.data.order import Slots


def as_tensor(images: Any) -> Any:
    """Return an array as a tensor on the host, which several pipelines can share. Return encoded images as they are."""
    tf.config.set_visible_devices([], "GPU")  # TensorFlow must not take the accelerator's memory
    if isinstance(images, Encoded):
        return images
    with tf.device("CPU"):
        return tf.convert_to_tensor(images)


def training_batches(
    images: Any, labels_N: np.ndarray, slots: Iterable[Slots], augmented: Augmentation
) -> Iterator[Batch]:
    """Yield the batches that `slots` describe. For an array, they equal those of `feeds.numpy` byte for byte.

    Args:
      images: an array, the result of `as_tensor`, or encoded images.
      slots: all of one length.

    Raises:
      DataError: an encoded image can't be read or decoded.
    """
    if isinstance(images, Encoded):
        yield from streaming.batches(images, labels_N, slots, train=True, augmented=augmented)
        return
    slots = iter(slots)
    first = next(slots, None)
    if first is None:
        return
    images = as_tensor(images)
    height, width, channels = tuple(images.shape[1:])
    batch, numbers = first.draws_BR.shape

    def load(ids_B, mask_B, draws_BR) -> Batch:
        images_BHWK = tf.gather(images, ids_B)
        if augmented.on_host:
            images_BHWK = by_workers(augmented, images_BHWK, draws_BR)
        else:
            images_BHWK = _crop_and_flip(images_BHWK, draws_BR, augmented.crop_padding)
        images_BHWK = images_BHWK * tf.cast(mask_B, tf.uint8)[:, None, None, None]
        return Batch(images_BHWK, tf.gather(labels, ids_B) * tf.cast(mask_B, tf.int32), mask_B, ids_B, draws_BR)

    with tf.device("CPU"):
        labels = tf.constant(labels_N, tf.int32)
        dataset = tf.data.Dataset.from_generator(
            lambda: itertools.chain([first], slots),
            output_signature=(
                tf.TensorSpec((batch,), tf.int32),
                tf.TensorSpec((batch,), tf.bool),
                tf.TensorSpec((batch, numbers), tf.int32),
            ),
        )
        dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(4)
    # This is outside the device scope, because several of these generators may take turns.
    for images_BHWK, *rest in dataset.as_numpy_iterator():
        yield Batch(images_BHWK.reshape(batch, height, width, channels), *rest)


def _crop_and_flip(images_BHWK: Any, draws_Bx3: Any, padding: int) -> Any:
    """Do the same as `crop.crop_and_flip`. TensorFlow can't index like NumPy."""
    height, width = images_BHWK.shape[1:3]
    padded = tf.pad(images_BHWK, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    x = tf.range(width)
    row_BH = draws_Bx3[:, :1] + tf.range(height)
    column_BW = draws_Bx3[:, 1:2] + tf.where(draws_Bx3[:, 2:] == 1, width - 1 - x, x)
    rows = tf.gather(padded, row_BH, axis=1, batch_dims=1)
    return tf.gather(rows, column_BW, axis=2, batch_dims=1)
