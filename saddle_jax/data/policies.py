"""What augmentation policies draw for each image, resolved to operations and whole numbers (see `operations`).

CIFAR AutoAugment, RandAugment, SimCLR's colours, Cutout, RandomResizedCrop with the numbers of the PaCo code. Shapes:
N images, height x width pixels.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from saddle_jax.data import geometry, photometry
from saddle_jax.data.geometry import BICUBIC
from saddle_jax.data.operations import (
    BLUR,
    COLOUR,
    CUT_OUT,
    GREY,
    HUE,
    MOVE,
    MOVE_NEAREST,
    NUMBERS,
    SHARPNESS,
    SLIDE_X,
    SLIDE_Y,
    Stage,
)
from saddle_jax.data.photometry import (
    AUTOCONTRAST,
    BRIGHTNESS,
    CONTRAST,
    EQUALIZE,
    FACTOR_BITS,
    POSTERIZE,
    SOLARIZE,
    SOLARIZE_ADD,
)

ASPECT = (3 / 4, 4 / 3)  # of a resized crop, width over height
_ATTEMPTS = 10  # at a resized crop that fits
_MAGNITUDES = 10  # of AutoAugment, 0 to 9
_CUTOUT = 16  # pixels a side

# AutoAugment's policy for CIFAR-10: one of 25 pairs of (operation, probability, magnitude).
_AUTOAUGMENT = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("colour", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("colour", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("colour", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("colour", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("colour", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)
AUTOAUGMENT_STAGES = (
    Stage((
        *(SOLARIZE, BRIGHTNESS, CONTRAST, AUTOCONTRAST, EQUALIZE, COLOUR, SHARPNESS),
        *(MOVE_NEAREST, SLIDE_Y),
    )),
    Stage((
        *(POSTERIZE, SOLARIZE, BRIGHTNESS, CONTRAST, AUTOCONTRAST, EQUALIZE, COLOUR, SHARPNESS),
        MOVE_NEAREST,
    )),
)  # fmt: skip
CUTOUT_STAGE = Stage((CUT_OUT,))

_RANDAUGMENT = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "colour", "contrast"),
    *("brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
_RANDAUGMENT_SPREAD = 0.5  # standard deviation of the magnitude around 10, the largest
RANDAUGMENT_STAGES = 2 * (
    Stage((
        *(POSTERIZE, SOLARIZE, SOLARIZE_ADD, BRIGHTNESS, CONTRAST, AUTOCONTRAST, EQUALIZE, COLOUR, SHARPNESS),
        *(MOVE, SLIDE_X, SLIDE_Y),
    )),
)  # fmt: skip

_JITTER = (BRIGHTNESS, CONTRAST, COLOUR, HUE)
SIMCLR_STAGES = (*4 * (Stage(_JITTER),), Stage((GREY,)), Stage((BLUR,)))


def draw_autoaugment(generator: np.random.Generator, total: int, height: int, width: int) -> np.ndarray:
    """Return the columns of AUTOAUGMENT_STAGES."""
    rows, chances = _autoaugment_table(height, width)
    pair_N = generator.integers(0, len(_AUTOAUGMENT), total)
    act_Nx2 = generator.random((total, 2)) < chances[pair_N]
    sign_Nx2 = generator.integers(0, 2, (total, 2))
    parts = [rows[stage][pair_N, sign_Nx2[:, stage]] * act_Nx2[:, stage, None] for stage in range(2)]
    return np.concatenate(parts, axis=1)


@functools.cache
def _autoaugment_table(height: int, width: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return for both stages the columns of each pair and sign, (25, 2, columns), and the chance that each acts."""

    def row(stage: int, name: str, magnitude: int, sign: int) -> np.ndarray:
        operation, numbers = _autoaugment(name, magnitude / (_MAGNITUDES - 1), 2 * sign - 1, height, width)
        return _padded(AUTOAUGMENT_STAGES[stage], operation, numbers)

    rows = [
        np.array([[row(stage, pair[stage][0], pair[stage][2], sign) for sign in (0, 1)] for pair in _AUTOAUGMENT])
        for stage in (0, 1)
    ]
    return rows, np.array([[chance for _, chance, _ in pair] for pair in _AUTOAUGMENT])


def _autoaugment(name: str, part: float, sign: int, height: int, width: int) -> tuple[int, list[int]]:
    """Return the operation and its numbers for a magnitude of 0 to 1 of its range."""
    factors = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "colour": COLOUR, "sharpness": SHARPNESS}
    if name in factors:
        return factors[name], [round((1 + sign * 0.9 * part) * (1 << FACTOR_BITS))]
    shift = sign * part * 150 / 331
    resolved = {
        "invert": lambda: (SOLARIZE, [0]),
        "solarize": lambda: (SOLARIZE, [math.ceil(256 * (1 - part))]),
        "posterize": lambda: (POSTERIZE, [1 << (8 - round(8 - 4 * part))]),
        "autocontrast": lambda: (AUTOCONTRAST, []),
        "equalize": lambda: (EQUALIZE, []),
        "rotate": lambda: (MOVE_NEAREST, geometry.rotation(np.array(30 * part), height, width).tolist()),
        "shear_y": lambda: (SLIDE_Y, [BICUBIC, *geometry.slide(sign * 0.3 * part, 0.0).tolist()]),
        "translate_x": lambda: (MOVE_NEAREST, geometry.affine(1, 0, shift * width, 0, 1, 0).tolist()),
        "translate_y": lambda: (MOVE_NEAREST, geometry.affine(1, 0, 0, 0, 1, shift * height).tolist()),
    }
    return resolved[name]()


def _padded(stage: Stage, operation: int, numbers: list[int]) -> np.ndarray:
    row = np.zeros(stage.width, np.int32)
    row[0] = operation
    row[1 : 1 + len(numbers)] = numbers
    return row


def draw_randaugment(generator: np.random.Generator, total: int, height: int, width: int) -> np.ndarray:
    """Return the columns of RANDAUGMENT_STAGES: two operations, with replacement, each acting on half of the images."""
    parts = []
    for stage in RANDAUGMENT_STAGES:
        choice_N = generator.integers(0, len(_RANDAUGMENT), total)
        act_N = generator.random(total) < 0.5
        level_N = np.clip(generator.normal(1, _RANDAUGMENT_SPREAD / 10, total), 0, 1)
        sign_N, kernel_N = 2 * generator.integers(0, 2, total) - 1, generator.integers(0, 2, total)
        columns = np.zeros((total, stage.width), np.int32)
        for number, name in enumerate(_RANDAUGMENT):
            rows = np.flatnonzero((choice_N == number) & act_N)
            operation, numbers = _randaugment(name, level_N[rows], sign_N[rows], kernel_N[rows], height, width)
            columns[rows, 0] = operation
            columns[rows, 1 : 1 + NUMBERS[operation]] = numbers
        parts.append(columns)
    return np.concatenate(parts, axis=1)


def _randaugment(
    name: str, level_N: np.ndarray, sign_N: np.ndarray, kernel_N: np.ndarray, height: int, width: int
) -> tuple[int, np.ndarray]:
    """Return an operation and its numbers, (N, numbers), for magnitudes of 0 to 1."""
    factors = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "colour": COLOUR, "sharpness": SHARPNESS}
    if name in factors:
        return factors[name], np.rint((0.1 + 1.8 * level_N) * (1 << FACTOR_BITS))[:, None]
    slides = {"shear_x": SLIDE_X, "shear_y": SLIDE_Y, "translate_x": SLIDE_X, "translate_y": SLIDE_Y}
    signed_N, kernel_Nx1 = level_N * sign_N, kernel_N[:, None]
    if name in slides:
        size = width if name == "translate_x" else height
        shear = name.startswith("shear")
        slope_N, offset_N = (0.3 * signed_N, 0 * signed_N) if shear else (0 * signed_N, int(0.45 * size) * signed_N)
        return slides[name], np.concatenate([kernel_Nx1, geometry.slide(slope_N, offset_N)], axis=1)
    nothing = np.zeros((len(level_N), 0))
    resolved = {
        "invert": lambda: (SOLARIZE, np.zeros((len(level_N), 1))),
        "solarize": lambda: (SOLARIZE, np.floor(256 * level_N)[:, None]),
        "solarize_add": lambda: (SOLARIZE_ADD, np.floor(110 * level_N)[:, None]),
        "posterize": lambda: (POSTERIZE, 2 ** (8 - np.floor(4 * level_N))[:, None]),
        "autocontrast": lambda: (AUTOCONTRAST, nothing),
        "equalize": lambda: (EQUALIZE, nothing),
        "rotate": lambda: (
            MOVE,
            np.concatenate([kernel_Nx1, geometry.rotation(30 * signed_N, height, width)], axis=1),
        ),
    }
    return resolved[name]()


def draw_simclr(generator: np.random.Generator, total: int) -> np.ndarray:
    """Return the columns of SIMCLR_STAGES: brightness, contrast, colour and hue in any order, grey, blur."""
    numbers_Nx4 = np.empty((total, 4))
    numbers_Nx4[:, :3] = np.rint(generator.uniform(0.6, 1.4, (total, 3)) * (1 << FACTOR_BITS))
    numbers_Nx4[:, 3] = np.trunc(generator.uniform(-0.1, 0.1, total) * 255) % 256
    order_Nx4 = generator.permuted(np.tile(np.arange(4), (total, 1)), axis=1)
    act_N = generator.random(total) < 0.8
    jitter_Nx4x2 = np.stack([np.array(_JITTER)[order_Nx4], np.take_along_axis(numbers_Nx4, order_Nx4, 1)], axis=2)
    grey_Nx1 = GREY * (generator.random((total, 1)) < 0.2)
    weights_NxR = photometry.blur_weights(generator.uniform(0.1, 2.0, total))
    blur_NxR = np.concatenate([np.full((total, 1), BLUR), weights_NxR], axis=1) * (generator.random((total, 1)) < 0.5)
    jitter_Nx8 = jitter_Nx4x2.reshape(total, 8) * act_N[:, None]
    return np.concatenate([jitter_Nx8, grey_Nx1, blur_NxR], axis=1).astype(np.int32)


def draw_cutout(generator: np.random.Generator, total: int, height: int, width: int) -> np.ndarray:
    """Return the columns of CUTOUT_STAGE: a square around any pixel, as far as it lies in the image."""
    size = np.array([height, width])
    centre_Nx2 = generator.integers(0, size, (total, 2))
    start_Nx2, end_Nx2 = np.maximum(centre_Nx2 - _CUTOUT // 2, 0), np.minimum(centre_Nx2 + _CUTOUT // 2, size)
    return np.concatenate([np.full((total, 1), CUT_OUT), start_Nx2, end_Nx2], axis=1).astype(np.int32)


def draw_resized_crop(
    generator: np.random.Generator, total: int, height: int, width: int, area: tuple[float, float], *, flip: bool
) -> np.ndarray:
    """Return `geometry.resized_crop`'s windows, (N, 5): the first of ten attempts that fits, else the whole image.

    Args:
      area: of the window, from and to, as parts of the image.
    """
    target = height * width * generator.uniform(*area, (total, _ATTEMPTS))
    ratio = np.exp(generator.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), (total, _ATTEMPTS)))
    sides = np.rint(np.sqrt(np.stack([target / ratio, target * ratio], axis=2))).astype(np.int64)
    size = np.array([height, width])
    fits = ((sides > 0) & (sides <= size)).all(axis=2)
    chosen = sides[np.arange(total), fits.argmax(axis=1)]
    chosen = np.where(fits.any(axis=1, keepdims=True), chosen, _largest_window(height, width))
    corner = np.where(
        fits.any(axis=1, keepdims=True), generator.random((total, 2)) * (size - chosen + 1), (size - chosen) // 2
    )
    mirror = generator.integers(0, 2, (total, 1)) * flip
    return np.concatenate([corner, chosen, mirror], axis=1).astype(np.int32)


def _largest_window(height: int, width: int) -> tuple[int, int]:
    """Return the largest sides, height first, that are in an image and within ASPECT."""
    if width / height < ASPECT[0]:
        return round(width / ASPECT[0]), width
    if width / height > ASPECT[1]:
        return height, round(height * ASPECT[1])
    return height, width
