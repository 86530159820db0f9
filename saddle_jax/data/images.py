"""The batch that every pipeline delivers, and its augmentation on the host or in a step. Normalisation is the step's.

Shapes: B slots, H x W pixels, K channels; images are uint8. Functions take the array module that they compute with:
`numpy`, or `jax.numpy` inside a jitted step; the pixels are the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from saddle_jax.data.order import Slots


class Batch(NamedTuple):
    """One batch. Padded slots have mask False and stand at its devices' ends, evenly dealt."""

    images: np.ndarray  # (B, H, W, K) uint8, cropped and mirrored
    labels: np.ndarray  # (B,) int32
    mask: np.ndarray  # (B,) bool
    ids: np.ndarray  # (B,) int32, position in the list of images
    draws: np.ndarray  # (B, R) int32: the random numbers of the slots


def crop_and_flip(images_BHWK: Any, draws_Bx3: Any, padding: int, xp: Any = np) -> Any:
    """Return each image moved by its draw inside a border of `padding` zero pixels, and mirrored if drawn so."""
    height, width = images_BHWK.shape[1:3]
    padded = xp.pad(images_BHWK, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows_BH = draws_Bx3[:, :1] + xp.arange(height)
    columns = xp.arange(width)
    columns_BW = draws_Bx3[:, 1:2] + xp.where(draws_Bx3[:, 2:] == 1, columns[::-1], columns)
    slot = xp.arange(len(images_BHWK))[:, None, None]
    return padded[slot, rows_BH[:, :, None], columns_BW[:, None, :]]


def make_batch(images_NHWK: Any, labels_N: Any, slots: Slots, padding: int, xp: Any = np) -> Batch:
    """Return the batch that `slots` describes."""
    images_BHWK = images_NHWK[slots.ids_B] * slots.mask_B[:, None, None, None].astype(np.uint8)
    return Batch(
        images=crop_and_flip(images_BHWK, slots.draws_BR, padding, xp),
        labels=(labels_N[slots.ids_B] * slots.mask_B).astype(np.int32),
        mask=slots.mask_B,
        ids=slots.ids_B,
        draws=slots.draws_BR,
    )
