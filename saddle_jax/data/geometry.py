"""Moves of pixels, one set of numbers an image, as Pillow makes them.

Coordinates have 16 bits after the point, as in Pillow's nearest-neighbour transform; weights are whole numbers, too, so
that every backend makes the same bytes. Shapes: B images of H x W pixels and K channels, uint8 in and out; P = H W.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from saddle_jax.data.backends import NUMPY, Backend

POINT = 16  # bits after it in a coordinate
BILINEAR, BICUBIC = 0, 1  # kernels
_CROP_BITS = 14  # of a resized crop's weights
_LINE_BITS = 15  # of the weights along one axis
_LINE_SNAP = 128  # of _LINE_BITS: what a rounded slope can take from a level, where a line slides by whole pixels
_FIRST_BITS, _BETWEEN, _SECOND_BITS = 15, 8, 13  # along both: first axis, kept after it, second axis; 8 + 8 + 13 of 31


def fixed(number: Any) -> np.ndarray:
    """Return a coordinate or a coefficient as Pillow rounds it."""
    return np.floor(np.asarray(number) * float(1 << POINT) + 0.5).astype(np.int32)


def rotation(degrees_N: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return (N, 6) coefficients for `move` that turn an image around its centre, counterclockwise."""
    angle = -np.radians(degrees_N)
    cos, sin, x, y = np.cos(angle), np.sin(angle), width / 2, height / 2
    return affine(cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def affine(*coefficients: Any) -> np.ndarray:
    """Return Pillow's six coefficients (source column = a x + b y + c, source row = d x + e y + f) for `move`."""
    a, b, c, d, e, f = np.broadcast_arrays(*coefficients)
    return np.stack([*map(fixed, (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5))], axis=-1)


def slide(slope: Any, offset: Any) -> np.ndarray:
    """Return (..., 2) coefficients for `slide_lines`: source = x + slope y + offset along a line y, in pixels."""
    slope, offset = np.broadcast_arrays(slope, offset)
    return np.stack([fixed(slope), fixed(offset + 0.5 + slope * 0.5)], axis=-1)


def move_nearest(images_BHWK: Any, coefficients_Bx6: Any, fill_K: tuple[int, ...], backend: Backend) -> Any:
    """Return each pixel's nearest source by `affine`'s coefficients; `fill_K` where the source is outside."""
    column, row = _sources(images_BHWK, coefficients_Bx6)
    return _filled(images_BHWK, _at(images_BHWK, row, column, backend), row, column, fill_K, backend.xp)


def move(images_BHWK: Any, kernel_B: Any, coefficients_Bx6: Any, fill_K: tuple[int, ...], backend: Backend) -> Any:
    """Return images moved by `affine`'s coefficients and interpolated over 4 x 4 sources."""
    xp = backend.xp
    column, row = _sources(images_BHWK, coefficients_Bx6)
    columns, rows = column - (1 << (POINT - 1)), row - (1 << (POINT - 1))
    across = _weights(columns, kernel_B, _FIRST_BITS, xp)
    down = _weights(rows, kernel_B, _SECOND_BITS, xp)
    kept, whole = _FIRST_BITS - _BETWEEN, 1 << POINT
    total = 0
    for i, weight in enumerate(down):
        line = 1 << (kept - 1)
        for j, other in enumerate(across):
            source = _at(images_BHWK, rows + (i - 1) * whole, columns + (j - 1) * whole, backend)
            line = line + other[..., None] * xp.astype(source, np.int32)
        total = total + weight[..., None] * xp.right_shift(line, kept)
    levels = xp.clip(xp.right_shift(total, _BETWEEN + _SECOND_BITS), 0, 255)
    return _filled(images_BHWK, xp.astype(levels, np.uint8), row, column, fill_K, xp)


def slide_lines(
    images_BHWK: Any, kernel_B: Any, coefficients_Bx2: Any, fill_K: tuple[int, ...], backend: Backend, *, down: bool
) -> Any:
    """Return images whose lines slide along themselves by `slide`'s coefficients: shears and translations.

    Args:
      down: columns slide; otherwise rows.
    """
    xp = backend.xp
    x, y = _grid(images_BHWK)
    slope, offset = coefficients_Bx2[:, 0, None, None], coefficients_Bx2[:, 1, None, None]
    along, other = (y, x) if down else (x, y)
    place = along * (1 << POINT) + slope * other + offset
    start = place - (1 << (POINT - 1))
    across = other * (1 << POINT) + 0 * place
    total = _LINE_SNAP
    for i, weight in enumerate(_weights(start, kernel_B, _LINE_BITS, xp)):
        tap = start + (i - 1) * (1 << POINT)
        source = _at(images_BHWK, *((tap, across) if down else (across, tap)), backend)
        total = total + weight[..., None] * xp.astype(source, np.int32)
    levels = xp.astype(xp.clip(xp.right_shift(total, _LINE_BITS), 0, 255), np.uint8)
    row, column = (place, across) if down else (across, place)
    return _filled(images_BHWK, levels, row, column, fill_K, xp)


def crop_and_flip(images_BHWK: Any, draws_Bx3: Any, padding: int, backend: Backend = NUMPY) -> Any:
    """Return each image moved by its draw inside a border of `padding` zero pixels, and mirrored if drawn so."""
    xp = backend.xp
    height, width, channels = images_BHWK.shape[1:]
    padded = xp.pad(images_BHWK, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    x, y = _grid(images_BHWK)
    row, column, mirror = (draws_Bx3[:, i, None, None] for i in range(3))
    index = (row + y) * (width + 2 * padding) + column + xp.where(mirror == 1, width - 1 - x, x)
    table = xp.reshape(padded, (-1, (height + 2 * padding) * (width + 2 * padding), channels))
    return xp.reshape(backend.take(table, xp.reshape(index, (-1, height * width))), (-1, height, width, channels))


def resized_crop(images_BHWK: Any, windows_Bx5: Any, backend: Backend) -> Any:
    """Return a part of each image at its whole size, bilinear, mirrored if drawn so.

    As Pillow, to the level where the size is a power of two, else to one.

    Args:
      windows_Bx5: top, left, height, width in pixels, 1 to mirror.
    """
    xp = backend.xp
    height, width, channels = images_BHWK.shape[1:]
    top, left, part_height, part_width, mirror = (windows_Bx5[:, i, None] for i in range(5))
    columns, rows = _grid(images_BHWK)
    x, y = columns[:, 0], rows[:, :, 0]
    x = xp.where(mirror == 1, width - 1 - x, x)
    levels = images_BHWK
    for size, place, start, part, down in ((width, x, left, part_width, False), (height, y, top, part_height, True)):
        position = (2 * place + 1) * part - size
        first = position // (2 * size)
        weight = ((position - first * 2 * size) * (1 << _CROP_BITS) + size) // (2 * size)
        taps = []
        for tap in (first, first + 1):
            line = start + xp.maximum(xp.minimum(tap, part - 1), 0)
            index = line[:, :, None] * width + columns if down else rows * width + line[:, None]
            pixels = backend.take(
                xp.reshape(levels, (-1, height * width, channels)), xp.reshape(index, (-1, height * width))
            )
            taps.append(xp.reshape(xp.astype(pixels, np.int32), (-1, height, width, channels)))
        weight = weight[:, :, None, None] if down else weight[:, None, :, None]
        mixed = taps[0] * ((1 << _CROP_BITS) - weight) + taps[1] * weight + (1 << (_CROP_BITS - 1))
        levels = xp.astype(xp.right_shift(mixed, _CROP_BITS), np.uint8)
    return levels


def cut_out(images_BHWK: Any, holes_Bx4: Any, xp: Any) -> Any:
    """Return the images with 0 in a rectangle: top, left, bottom, right."""
    x, y = _grid(images_BHWK)
    top, left, bottom, right = (holes_Bx4[:, i, None, None] for i in range(4))
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return images_BHWK * xp.astype(~inside, np.uint8)[..., None]


def _grid(images_BHWK: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return columns (1, 1, W) and rows (1, H, 1)."""
    height, width = images_BHWK.shape[1:3]
    return np.arange(width, dtype=np.int32)[None, None], np.arange(height, dtype=np.int32)[None, :, None]


def _sources(images_BHWK: Any, coefficients_Bx6: Any) -> tuple[Any, Any]:
    """Return the source column and row of each pixel, (B, H, W) each."""
    x, y = _grid(images_BHWK)
    a, b, c, d, e, f = (coefficients_Bx6[:, i, None, None] for i in range(6))
    return a * x + b * y + c, d * x + e * y + f


def _at(images_BHWK: Any, row: Any, column: Any, backend: Backend) -> Any:
    """Return the pixels at fixed-point places; those at the edge for places beyond it."""
    xp = backend.xp
    height, width, channels = images_BHWK.shape[1:]
    y = xp.clip(xp.right_shift(row, POINT), 0, height - 1)
    x = xp.clip(xp.right_shift(column, POINT), 0, width - 1)
    index_BP = xp.reshape(y * width + x, (-1, height * width))
    pixels = backend.take(xp.reshape(images_BHWK, (-1, height * width, channels)), index_BP)
    return xp.reshape(pixels, (-1, height, width, channels))


def _filled(images_BHWK: Any, moved: Any, row: Any, column: Any, fill_K: tuple[int, ...], xp: Any) -> Any:
    """Return what was moved, and the fill where it came from outside."""
    height, width = images_BHWK.shape[1:3]
    inside = (row >= 0) & (row < height << POINT) & (column >= 0) & (column < width << POINT)
    return xp.where(inside[..., None], moved, np.array(fill_K, np.uint8))


def _weights(place: Any, kernel_B: Any, bits: int, xp: Any) -> list[Any]:
    """Return the weights of the four sources around a place, (B, H, W) each; they sum to 2^bits."""
    one = 1 << bits
    d = xp.right_shift(place - xp.right_shift(place, POINT) * (1 << POINT), POINT - bits)
    d2 = xp.right_shift(d * d, bits)
    d3 = xp.right_shift(d2 * d, bits)
    cubic = (2 * d2 - d - d3, one - 2 * d2 + d3, d + d2 - d3, d3 - d2)
    linear = (0 * d, one - d, d, 0 * d)
    chosen = (kernel_B == BICUBIC)[:, None, None]
    return [xp.where(chosen, a, b) for a, b in zip(cubic, linear, strict=True)]
