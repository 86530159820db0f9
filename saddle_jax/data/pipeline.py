"""The same batches through tf.data: parallel, prefetched. In data/ only this and the tfds source know TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from saddle_jax.data.images import Batch
from saddle_jax.data.order import Order, slots_at


def as_tensor(images_NHWK: Any) -> Any:
    """Return images as a tensor on the host, which several pipelines can read; a tensor is returned as it is."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # TensorFlow must not take the accelerator's memory
    with tf.device("CPU"):
        return tf.convert_to_tensor(images_NHWK)


def training_batches(images_NHWK: Any, order: Order, start: int, stop: int) -> Iterator[Batch]:
    """Yield the batches of steps `start` to `stop` - 1, byte for byte those of the NumPy feeder.

    Args:
      images_NHWK: array, or what `as_tensor` made of it.
    """
    import tensorflow as tf

    images = as_tensor(images_NHWK)
    height, width, channels = tuple(images.shape[1:])
    padding = order.crop_padding

    def slots() -> Iterator[tuple]:
        for step in range(start, stop):
            yield slots_at(order, step)

    def load(ids_B, mask_B, draws_Bx3) -> Batch:
        images_BHWK = tf.gather(images, ids_B) * tf.cast(mask_B, tf.uint8)[:, None, None, None]
        padded = tf.pad(images_BHWK, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        columns = tf.range(width)
        columns_BW = draws_Bx3[:, 1:2] + tf.where(draws_Bx3[:, 2:] == 1, columns[::-1], columns)
        moved = tf.gather(padded, draws_Bx3[:, :1] + tf.range(height), axis=1, batch_dims=1)
        moved = tf.gather(moved, columns_BW, axis=2, batch_dims=1)
        return Batch(moved, tf.gather(labels, ids_B) * tf.cast(mask_B, tf.int32), mask_B, ids_B, draws_Bx3)

    with tf.device("CPU"):
        labels = tf.constant(order.labels_N, tf.int32)
        batch = order.batch_size
        dataset = tf.data.Dataset.from_generator(
            slots,
            output_signature=(
                tf.TensorSpec((batch,), tf.int32),
                tf.TensorSpec((batch,), tf.bool),
                tf.TensorSpec((batch, 3), tf.int32),
            ),
        )
        dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(4)
    # Outside the device's scope: several of these generators may take turns.
    for images_BHWK, *rest in dataset.as_numpy_iterator():
        yield Batch(images_BHWK.reshape(batch, height, width, channels), *rest)
