"""The batch that every feed delivers, and how it is built from an array of images. The training step normalizes it.

Features that were computed before, (N, V, D) float32 with V views of each image, take the place of images, (N, H, W, K)
uint8. Shapes: B slots, H x W pixels, K channels.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from saddle_jax.data.augment import augmentation
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.order import Slots


class Batch(NamedTuple):
    """One batch. Padded slots have mask False. They lie at the end of each device's part, spread evenly."""

    images: np.ndarray  # (B, H, W, K) uint8, augmented, or features (B, D); zeros in a padded slot
    labels: np.ndarray  # (B,) int32
    mask: np.ndarray  # (B,) bool
    ids: np.ndarray  # (B,) int32, position in the list of images
    draws: np.ndarray  # (B, R) int32, random numbers of each slot


def make_batch(
    images_NHWK: Any, labels_N: Any, slots: Slots, augmented: Augmentation | None, xp: ModuleType = np
) -> Batch:
    """Return the batch that `slots` describe. Without `augmented`, images stay as they are; of views, it has the first.

    Args:
      xp: `numpy`, or `jax.numpy` inside a jitted step, for an augmentation without a policy.
    """
    images_BHWK = images_NHWK[slots.ids_B]
    if augmented is not None:
        images_BHWK = augmentation.apply(augmented, images_BHWK, slots.draws_BR, xp)
    elif images_BHWK.ndim == 3:
        images_BHWK = images_BHWK[:, 0]
    return batch_of(images_BHWK, labels_N, slots)


def batch_of(images_BHWK: Any, labels_N: Any, slots: Slots) -> Batch:
    """Return the batch whose slots these images fill."""
    return Batch(
        images=images_BHWK * slots.mask_B.reshape(-1, *(1,) * (images_BHWK.ndim - 1)).astype(images_BHWK.dtype),
        labels=(labels_N[slots.ids_B] * slots.mask_B).astype(np.int32),
        mask=slots.mask_B,
        ids=slots.ids_B,
        draws=slots.draws_BR,
    )
