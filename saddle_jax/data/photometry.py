"""Changes of colour, one number an image, as Pillow makes them: to the level unless said.

Everything is computed in whole numbers of 32 bits, which no compiler rounds in another way: `backends` says what with.
Shapes: B images of H x W pixels and K channels, uint8 in and out; P = H W.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import numpy as np

from saddle_jax.data.backends import Backend

FACTOR_BITS = 22  # of a factor: 1 is 2^22; below 2, times a difference of two levels, it stays below 2^31
_SNAP = 128  # of FACTOR_BITS: what the rounding of a factor can take from its product with a difference
POSTERIZE, SOLARIZE, SOLARIZE_ADD, BRIGHTNESS, CONTRAST, AUTOCONTRAST, EQUALIZE = range(1, 8)
BLUR_RADIUS = 6  # pixels
BLUR_BITS = 14  # of a blur's weights
_SOLARIZE_ADD_BELOW = 128  # level


def luma(images_BHWK: Any, xp: Any) -> Any:
    """Return Pillow's grey levels of images of three channels, (B, H, W, 1) int32."""
    levels = xp.astype(images_BHWK, np.int32)
    red, green, blue = levels[..., :1], levels[..., 1:2], levels[..., 2:]
    return xp.right_shift(19595 * red + 38470 * green + 7471 * blue + 0x8000, 16)


def grey(images_BHWK: Any, xp: Any) -> Any:
    """Return the images without colour."""
    return xp.concatenate([xp.astype(luma(images_BHWK, xp), np.uint8)] * images_BHWK.shape[-1], axis=-1)


def change_levels(images_BHWK: Any, operation_B: Any, number_B: Any, among: Container[int], backend: Backend) -> Any:
    """Return the images with their levels replaced by a table that an operation and its number make of each.

    The numbers: POSTERIZE, how many levels become one; SOLARIZE, the level from which on they are inverted (0 is
    Pillow's invert); SOLARIZE_ADD, what is added to those below 128; BRIGHTNESS and CONTRAST, a factor of FACTOR_BITS;
    AUTOCONTRAST and EQUALIZE have none. Differs from Pillow: AUTOCONTRAST is a level higher where Pillow's double
    falls below a whole number by rounding.

    Args:
      among: operations that are in `operation_B`; no other is computed.
    """
    xp = backend.xp
    height, width, channels = images_BHWK.shape[1:]
    pixels_BPK = xp.reshape(xp.astype(images_BHWK, np.int32), (-1, height * width, channels))
    level = np.arange(256, dtype=np.int32)[None, :, None]
    number = number_B[:, None, None]

    channel = np.arange(channels, dtype=np.int32)

    def flat(index_BPK: Any) -> Any:
        return xp.reshape(index_BPK, (-1, height * width * channels))

    def counts() -> Any:
        return xp.reshape(backend.count(flat(pixels_BPK * channels + channel), 256 * channels), (-1, 256, channels))

    def contrast() -> Any:
        total_B = xp.sum(luma(images_BHWK, xp), axis=(1, 2, 3), dtype=np.int32)
        mean_B = (2 * total_B + height * width) // (2 * height * width)
        return blend(mean_B[:, None, None], level, number, xp)

    makers: dict[int, Callable[[], Any]] = {
        POSTERIZE: lambda: level - level % xp.maximum(number, 1),
        SOLARIZE: lambda: xp.where(level < number, level, 255 - level),
        SOLARIZE_ADD: lambda: xp.where(
            level < _SOLARIZE_ADD_BELOW, xp.minimum(level + number, 255), level + 0 * number
        ),
        BRIGHTNESS: lambda: blend(0 * number, level, number, xp),
        CONTRAST: contrast,
        AUTOCONTRAST: lambda: _autocontrast(pixels_BPK, level, xp),
        EQUALIZE: lambda: _equalize(pixels_BPK, counts(), level, xp),
    }
    table = level
    for operation, make in makers.items():
        if operation in among:
            table = xp.where((operation_B == operation)[:, None, None], make(), table)
    entries = channels if table.shape[-1] == channels else 1
    table = xp.reshape(xp.astype(table, np.uint8), (-1, 256 * entries))
    changed = backend.take(table, flat(pixels_BPK * entries + channel % entries))
    return xp.reshape(changed, (-1, height, width, channels))


def blend(other: Any, levels: Any, factor: Any, xp: Any) -> Any:
    """Return other + factor (levels - other), cut off to a level below; int32 levels, a factor of FACTOR_BITS below 2.

    A product that is just below a whole number counts as that, as Pillow's float32 rounds it: of a factor such as 1.4
    every fifth product is whole.
    """
    return xp.clip(other + xp.right_shift(factor * (levels - other) + _SNAP, FACTOR_BITS), 0, 255)


def colour(images_BHWK: Any, factor_B: Any, xp: Any) -> Any:
    """Return the images with their distance from grey multiplied by a factor of FACTOR_BITS."""
    levels = xp.astype(images_BHWK, np.int32)
    return xp.astype(blend(luma(images_BHWK, xp), levels, factor_B[:, None, None, None], xp), np.uint8)


def sharpness(images_BHWK: Any, factor_B: Any, xp: Any) -> Any:
    """Return the images with their distance from a smoothed copy multiplied by a factor; the border stays."""
    levels = xp.astype(images_BHWK, np.int32)
    height, width = images_BHWK.shape[1:3]
    if min(height, width) < 3:
        return images_BHWK
    rows = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * levels[:, 1:-1, 1:-1]
    smooth = (2 * around + 13) // 26
    inner = blend(smooth, levels[:, 1:-1, 1:-1], factor_B[:, None, None, None], xp)
    middle = xp.concatenate([levels[:, 1:-1, :1], inner, levels[:, 1:-1, -1:]], axis=2)
    return xp.astype(xp.concatenate([levels[:, :1], middle, levels[:, -1:]], axis=1), np.uint8)


def hue(images_BHWK: Any, shift_B: Any, xp: Any) -> Any:
    """Return the images with their hue turned by shift / 255 of the circle, through Pillow's HSV of 8 bits.

    Differs from Pillow: hue and saturation are one higher where its float32 falls below a whole number by rounding.
    """
    levels = xp.astype(images_BHWK, np.int32)
    red, green, blue = levels[..., 0], levels[..., 1], levels[..., 2]
    value = xp.max(levels, axis=-1)
    chroma = value - xp.min(levels, axis=-1)
    sector, difference = 4, red - green
    sector = xp.where(green == value, 2, sector + 0 * value)
    difference = xp.where(green == value, blue - red, difference)
    sector = xp.where(red == value, 0, sector)
    difference = xp.where(red == value, green - blue, difference)
    circle = xp.maximum(6 * chroma, 1)
    turned = 255 * ((sector * chroma + difference) % circle) // circle
    saturation = 255 * chroma // xp.maximum(value, 1)

    sixths = 6 * ((turned + shift_B[:, None, None]) % 256)
    part, rest = sixths // 255, sixths % 255
    low = (2 * value * (255 - saturation) + 255) // 510
    falling = (2 * value * (65025 - saturation * rest) + 65025) // 130050
    rising = (2 * value * (65025 - saturation * (255 - rest)) + 65025) // 130050
    part = part % 6

    def channel(*sources: Any) -> Any:
        """Return the source of each of the six parts of the circle."""
        found = sources[5]
        for number, source in enumerate(sources[:5]):
            found = xp.where(part == number, source, found)
        return found

    channels = (
        channel(value, falling, low, low, rising, value),
        channel(rising, value, value, falling, low, low),
        channel(low, low, rising, value, value, falling),
    )
    return xp.astype(xp.stack(channels, axis=-1), np.uint8)


def blur(images_BHWK: Any, weights_BR: Any, xp: Any) -> Any:
    """Return the images under a separable filter; pixels beyond the edge are those at the edge.

    Args:
      weights_BR: of the middle pixel and of those at a distance of 1 to BLUR_RADIUS, of BLUR_BITS.
    """
    levels, kept = xp.astype(images_BHWK, np.int32), 6  # bits after the first axis; 8 + 6 + 14 of 31
    for axis, bits in ((1, BLUR_BITS - kept), (2, BLUR_BITS + kept)):
        size = images_BHWK.shape[axis]

        def part(start: int, stop: int, source: Any, axis: int = axis) -> Any:
            return source[:, start:stop] if axis == 1 else source[:, :, start:stop]

        before, after = [part(0, 1, levels)] * BLUR_RADIUS, [part(size - 1, size, levels)] * BLUR_RADIUS
        padded = xp.concatenate([*before, levels, *after], axis=axis)
        total = (1 << (bits - 1)) + weights_BR[:, 0, None, None, None] * levels
        for distance in range(1, BLUR_RADIUS + 1):
            near = BLUR_RADIUS - distance
            far = BLUR_RADIUS + distance
            both = part(near, near + size, padded) + part(far, far + size, padded)
            total = total + weights_BR[:, distance, None, None, None] * both
        levels = xp.right_shift(total, bits)
    return xp.astype(levels, np.uint8)


def blur_weights(sigma_N: np.ndarray) -> np.ndarray:
    """Return the weights of Gaussians of some pixels' standard deviation, (N, BLUR_RADIUS + 1) int32; they sum to 1."""
    density = np.exp(-(np.arange(BLUR_RADIUS + 1) ** 2) / (2 * sigma_N[:, None] ** 2))
    parts = density / (density[:, :1] + 2 * density[:, 1:].sum(axis=1, keepdims=True))
    weights = np.rint(parts * (1 << BLUR_BITS)).astype(np.int32)
    weights[:, 0] = (1 << BLUR_BITS) - 2 * weights[:, 1:].sum(axis=1)
    return weights


def _autocontrast(pixels_BPK: Any, level: Any, xp: Any) -> Any:
    """Return the table that stretches each channel to all levels; of a channel of one level as it is."""
    low, high = xp.min(pixels_BPK, axis=1)[:, None], xp.max(pixels_BPK, axis=1)[:, None]
    stretched = xp.clip((level - low) * 255 // xp.maximum(high - low, 1), 0, 255)
    return xp.where(high > low, stretched, level)


def _equalize(pixels_BPK: Any, counts_B256K: Any, level: Any, xp: Any) -> Any:
    """Return the table that spreads each channel's pixels evenly over the levels."""
    highest = xp.max(pixels_BPK, axis=1)[:, None]
    below = xp.cumsum(counts_B256K, axis=1) - counts_B256K
    before_last = xp.sum(xp.where(level < highest, counts_B256K, 0), axis=1, dtype=np.int32)[:, None]
    step = before_last // 255
    spread = xp.minimum((step // 2 + below) // xp.maximum(step, 1), 255)
    return xp.where(step > 0, spread, level)
