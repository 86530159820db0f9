"""Batches from images in memory with NumPy alone, and the batches of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from saddle_jax.data.images import Batch, make_batch
from saddle_jax.data.order import Order, evaluation_slots, slots_at


def training_batches(images_NHWK: np.ndarray, order: Order, start: int, stop: int) -> Iterator[Batch]:
    """Yield the batches of steps `start` to `stop` - 1."""
    for step in range(start, stop):
        yield make_batch(images_NHWK, order.labels_N, slots_at(order, step), order.crop_padding)


def evaluation_batches(
    images_NHWK: np.ndarray, labels_N: np.ndarray, batch_size: int, num_devices: int
) -> Iterator[Batch]:
    """Yield all images once, in their order and as they are; the last batch is padded and masked."""
    for slots in evaluation_slots(len(labels_N), batch_size, num_devices):
        yield make_batch(images_NHWK, labels_N, slots, padding=0)
