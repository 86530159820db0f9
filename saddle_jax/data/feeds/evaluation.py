"""Batches of images as they are, from memory or by the evaluation's transform of encoded ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from saddle_jax.data.encoded import Encoded
from saddle_jax.data.images import Batch, make_batch
from saddle_jax.data.order import Slots, evaluation_slots


def evaluation_batches(
    images: np.ndarray | Encoded, labels_N: np.ndarray, batch_size: int, num_devices: int
) -> Iterator[Batch]:
    """Yield all images once, in their order and as they are; the last batch is padded and masked."""
    return plain_batches(images, labels_N, evaluation_slots(len(labels_N), batch_size, num_devices))


def plain_batches(
    images: np.ndarray | Encoded, labels_N: np.ndarray, slots: Iterable[Slots], *, train: bool = False
) -> Iterator[Batch]:
    """Yield the batches that `slots` describe, as they are: encoded images by the evaluation's transform.

    Args:
      train: these are training images: of encoded ones data.max_bad_fraction may be bad, their slots are masked.
    """
    if isinstance(images, Encoded):
        from saddle_jax.data.feeds import streaming

        yield from streaming.batches(images, labels_N, slots, train=train)
        return
    for one in slots:
        yield make_batch(images, labels_N, one, None)
