"""The batch that every pipeline delivers, and its augmentation on the host or in a step. Normalisation is the step's.

Shapes: B slots, H x W pixels, K channels; images are uint8. `backends` says what computes; the pixels are the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from saddle_jax.data import augmentation
from saddle_jax.data.augmentation import Augmentation
from saddle_jax.data.backends import NUMPY, Backend
from saddle_jax.data.order import Slots


class Batch(NamedTuple):
    """One batch. Padded slots have mask False and stand at its devices' ends, evenly dealt."""

    images: np.ndarray  # (B, H, W, K) uint8, augmented
    labels: np.ndarray  # (B,) int32
    mask: np.ndarray  # (B,) bool
    ids: np.ndarray  # (B,) int32, position in the list of images
    draws: np.ndarray  # (B, R) int32: the random numbers of the slots


def make_batch(
    images_NHWK: Any, labels_N: Any, slots: Slots, augmented: Augmentation | None, backend: Backend = NUMPY
) -> Batch:
    """Return the batch that `slots` describe; the images as they are where `augmented` is None."""
    images_BHWK = images_NHWK[slots.ids_B] * slots.mask_B[:, None, None, None].astype(np.uint8)
    if augmented is not None:
        images_BHWK = augmentation.apply(augmented, images_BHWK, slots.draws_BR, backend)
    return Batch(
        images=images_BHWK,
        labels=(labels_N[slots.ids_B] * slots.mask_B).astype(np.int32),
        mask=slots.mask_B,
        ids=slots.ids_B,
        draws=slots.draws_BR,
    )
