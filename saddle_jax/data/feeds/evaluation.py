"""Batches of unaugmented images. Encoded images go through the evaluation's transform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from saddle_jax.data.encoded import Encoded
from saddle_jax.data.images import Batch, make_batch
from saddle_jax.data.order import Slots, evaluation_slots


def evaluation_batches(
    images: np.ndarray | Encoded, labels_N: np.ndarray, batch_size: int, num_devices: int
) -> Iterator[Batch]:
    """Yield all images once, in order and unaugmented. The last batch is padded and masked."""
    return plain_batches(images, labels_N, evaluation_slots(len(labels_N), batch_size, num_devices))


def plain_batches(
    images: np.ndarray | Encoded, labels_N: np.ndarray, slots: Iterable[Slots], *, train: bool = False
) -> Iterator[Batch]:
    """Yield the batches that `slots` describe, unaugmented. Encoded images go through the evaluation's transform.

    Args:
      train: these are training images. If they are encoded, data.max_bad_fraction of them may be bad; their slots are
        masked.
    """
    if isinstance(images, Encoded):
        from saddle_jax.data.feeds import streaming

        yield from streaming.batches(images, labels_N, slots, train=train)
        return
    for one in slots:
        yield make_batch(images, labels_N, one, None)
