"""Batches from images in memory with NumPy alone, and the batches of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from saddle_jax.data.images import Batch, make_batch
from saddle_jax.data.order import Order, Slots, deal, slots_at


def training_batches(images_NHWK: np.ndarray, order: Order, start: int, stop: int) -> Iterator[Batch]:
    """Yield the batches of steps `start` to `stop` - 1."""
    for step in range(start, stop):
        yield make_batch(images_NHWK, order.labels_N, slots_at(order, step), order.crop_padding)


def evaluation_batches(
    images_NHWK: np.ndarray, labels_N: np.ndarray, batch_size: int, num_devices: int
) -> Iterator[Batch]:
    """Yield all images once, in their order and as they are; the last batch is padded and masked."""
    total = len(labels_N)
    for batch in range(-(-total // batch_size)):
        positions_B, mask_B = deal(batch, total, batch_size, num_devices)
        slots = Slots(positions_B.astype(np.int32), mask_B, np.zeros((batch_size, 3), np.int32))
        yield make_batch(images_NHWK, labels_N, slots, padding=0)
