"""Random crops and mirroring: of images in memory by whole pixels, of encoded ones by random numbers.

Shapes: N or B images of H x W pixels and K channels, uint8.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

ASPECT = (3 / 4, 4 / 3)  # width over height of a resized crop
PADDED_COLUMNS = 3  # top and left corner inside the border, 1 to mirror
# Columns of the random numbers that crop encoded images of any size: ten attempts at (area, aspect), the position of
# the crop, whether to mirror, brightness, contrast, and saturation, and the order of these three. Each is uniform in
# [0, DRAW_LIMIT).
ATTEMPTS, POSITION, MIRROR, JITTER, JITTER_ORDER = slice(0, 20), slice(20, 22), 22, slice(23, 26), 26
RESIZED_COLUMNS = 27
DRAW_LIMIT = 2**31


def draw_padded(generator: np.random.Generator, total: int, padding: int, *, flip: bool) -> np.ndarray:
    """Return the draws of `crop_and_flip` for `total` images, (N, 3) int32."""
    draws_Nx3 = np.empty((total, PADDED_COLUMNS), np.int32)
    draws_Nx3[:, :2] = generator.integers(0, 2 * padding + 1, size=(total, 2))
    draws_Nx3[:, 2] = generator.integers(0, 2, size=total) * flip
    return draws_Nx3


def draw_resized(generator: np.random.Generator, total: int, *, flip: bool) -> np.ndarray:
    """Return the draws of encoded images, (N, 27) int32. Their meaning depends on each image's size."""
    draws_NR = generator.integers(0, DRAW_LIMIT, size=(total, RESIZED_COLUMNS), dtype=np.int32)
    draws_NR[:, MIRROR] *= flip
    return draws_NR


def crop_and_flip(images_BHWK: Any, draws_Bx3: Any, padding: int, xp: ModuleType = np) -> Any:
    """Return each image shifted by its draw inside a border of `padding` zero pixels, and mirrored if its draw says so.

    Args:
      xp: `numpy`, or `jax.numpy` inside a jitted step.
    """
    batch, height, width, _ = images_BHWK.shape
    padded = xp.pad(images_BHWK, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    x = np.arange(width)
    row_BH = draws_Bx3[:, :1] + np.arange(height)
    column_BW = draws_Bx3[:, 1:2] + xp.where(draws_Bx3[:, 2:] == 1, width - 1 - x, x)
    return padded[np.arange(batch)[:, None, None], row_BH[:, :, None], column_BW[:, None, :]]
