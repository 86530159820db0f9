"""Batches of images in memory, made in this process one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.images import Batch, make_batch
from saddle_jax.data.order import Slots


def training_batches(
    images_NHWK: np.ndarray, labels_N: np.ndarray, slots: Iterable[Slots], augmentation: Augmentation
) -> Iterator[Batch]:
    """Yield the batches that `slots` describe."""
    for one in slots:
        yield make_batch(images_NHWK, labels_N, one, augmentation)
