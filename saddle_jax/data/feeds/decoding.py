"""Decoding of encoded images: torchvision's training and evaluation transforms of Pillow images, with TensorFlow.

TensorFlow decodes upright JPEGs and PNGs, and only the needed part of a JPEG. Pillow decodes everything else. The
random draws come with the slot as integers, so an image's pixels depend only on the file and the slot.

Differs from the reference: there is one rounding after the resampling, where Pillow rounds after each axis (a
difference of at most one level of 255).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from saddle_jax.data import formats
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.augment.crop import (
    ASPECT,
    ATTEMPTS,
    DRAW_LIMIT,
    JITTER,
    JITTER_ORDER,
    MIRROR,
    POSITION,
    RESIZED_COLUMNS,
)
from saddle_jax.data.encoded import Encoded
from saddle_jax.data.feeds import workers

_JPEG, _PNG, _PILLOW = range(3)  # decoders: TensorFlow's two, and Pillow
_START_OF_SCAN, _APP1 = 0xDA, 0xE1  # codes of JPEG markers: of the picture's data; of EXIF and XMP
_NEIGHBORS = 2  # pixels around a part of a JPEG that the colors at its edge are interpolated from
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


class _Window(NamedTuple):
    """A part of an image and its place on the result: result = part x scale + shift, in pixels, rows first."""

    corner: Any  # (2,) int32
    extent: Any  # (2,) int32
    scale: Any  # (2,) float32
    shift: Any  # (2,) float32


def make_loader(images: Encoded, augmented: Augmentation | None) -> Callable[[Any, Any, Any], Any]:
    """Return (position, mask, draws_R) -> (S, S, 3) uint8. Where the mask is False, it returns zeros and reads nothing.

    It raises a subclass of `tf.errors.OpError` for an image that can't be read or decoded.

    Args:
      augmented: how the draws change the image. None applies the evaluation's resize and center crop.
    """
    read, decoding = _reader(images), images.decoding
    size, turn = decoding.size, decoding.exif_orientation

    def augment(augmented: Augmentation, position: Any, draws_R: Any) -> Any:
        uniform_R = tf.cast(draws_R[:RESIZED_COLUMNS], tf.float64) / DRAW_LIMIT
        content = read(position)
        pixels = _cut(content, turn, size, lambda extent: _random_crop(extent, uniform_R, size, augmented.area))
        pixels = tf.cond(uniform_R[MIRROR] < 0.5, lambda: pixels, lambda: pixels[:, ::-1])
        pixels = tf.ensure_shape(pixels, (size, size, 3))
        if augmented.color_jitter:
            pixels = jitter(pixels, uniform_R, augmented.color_jitter)
        return by_workers(augmented, pixels[None], draws_R[None])[0] if augmented.on_host else pixels

    def plain(position: Any) -> Any:
        return _cut(read(position), turn, size, lambda extent: _center(extent, size, decoding.resize))

    def load(position: Any, mask: Any, draws_R: Any) -> Any:
        with tf.device("CPU"):
            image = (lambda: plain(position)) if augmented is None else (lambda: augment(augmented, position, draws_R))
            return tf.ensure_shape(tf.cond(mask, image, lambda: tf.zeros((size, size, 3), tf.uint8)), (size, size, 3))

    return tf.function(load, input_signature=_signature(), autograph=False)


def by_workers(view: Augmentation, images_BHWK: Any, draws_BR: Any) -> Any:
    """Return the images as augmented by worker processes. Use this inside tf.data."""

    def ask(images_BHWK: np.ndarray, draws_BR: np.ndarray) -> np.ndarray:
        return workers.apply(view, images_BHWK, draws_BR)

    changed = tf.numpy_function(ask, [images_BHWK, draws_BR], tf.uint8, stateful=False)
    return tf.ensure_shape(changed, images_BHWK.shape)


def make_probe(images: Encoded, *, whole: bool) -> Callable[[Any], Any]:
    """Return a function of a position that raises `tf.errors.OpError` for an image that can't be decoded.

    Args:
      whole: decode the whole image. Otherwise decode only its first pixel; if that fails, no part can be decoded.
    """
    read, turn = _reader(images), images.decoding.exif_orientation

    def choose(extent: Any) -> tuple[Any, Any]:
        return tf.zeros_like(extent), extent if whole else tf.ones_like(extent)

    def probe(position: Any) -> Any:
        with tf.device("CPU"):
            return tf.reduce_max(_decode(read(position), turn, choose)[0])

    return tf.function(probe, input_signature=_signature()[:1], autograph=False)


def _reader(images: Encoded) -> Any:
    tf.config.set_visible_devices([], "GPU")  # TensorFlow must not take the accelerator's memory
    return images.reader(tf)


def _signature() -> tuple[Any, Any, Any]:
    return tf.TensorSpec((), tf.int32), tf.TensorSpec((), tf.bool), tf.TensorSpec((None,), tf.int32)


def _decode(content: Any, turn: bool, choose: Callable[[Any], tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return the pixels of a part of an image, followed by anything more that `choose` returned.

    Args:
      turn: turn the image as its EXIF orientation says.
      choose: (height, width) of the turned image -> corner, extent, and anything more.
    """

    def jpeg() -> tuple[Any, ...]:
        whole = tf.io.extract_jpeg_shape(content)[:2]
        corner, extent, *more = choose(whole)
        start = tf.maximum(corner - _NEIGHBORS, 0)
        window = tf.concat([start, tf.minimum(corner + extent + _NEIGHBORS, whole) - start], 0)
        pixels = tf.image.decode_and_crop_jpeg(content, window, channels=3, dct_method="INTEGER_ACCURATE")
        return part(pixels, corner - start, extent), *more

    def png() -> tuple[Any, ...]:
        return chosen(tf.io.decode_png(content, channels=3))

    def by_pillow() -> tuple[Any, ...]:
        def decode(content: bytes) -> np.ndarray:
            return formats.decode(content, turn=turn)

        return chosen(tf.ensure_shape(tf.numpy_function(decode, [content], tf.uint8, stateful=False), (None, None, 3)))

    def chosen(pixels: Any) -> tuple[Any, ...]:
        corner, extent, *more = choose(tf.shape(pixels)[:2])
        return part(pixels, corner, extent), *more

    def part(pixels: Any, corner: Any, extent: Any) -> Any:
        return tf.slice(pixels, tf.pad(corner, [[0, 1]]), tf.concat([extent, [3]], 0))

    return tf.switch_case(_decoder(content, turn), {_JPEG: jpeg, _PNG: png, _PILLOW: by_pillow})


def _decoder(content: Any, turn: bool) -> Any:
    """Return the decoder that gives an image Pillow's levels, (): TensorFlow's for JPEG or for PNG, or Pillow.

    TensorFlow gets upright PNGs, and upright JPEGs of one or three components. With four, it gets the colors wrong if
    they are not inverted.
    """
    is_jpeg, is_png = tf.io.is_jpeg(content), tf.equal(tf.strings.substr(content, 0, len(formats.PNG)), formats.PNG)
    # Markers of a JPEG are 0xff and a code. By chance these two bytes may also lie elsewhere in its header.
    content_N = tf.io.decode_raw(tf.where(is_jpeg, content, b""), tf.uint8)
    begins_N, code_N = tf.equal(content_N[:-1], 0xFF), content_N[1:]
    has_header = tf.reduce_any(begins_N & tf.equal(code_N, _START_OF_SCAN))  # libjpeg complains on stderr without one
    components = tf.cond(has_header, lambda: tf.io.extract_jpeg_shape(content)[2], lambda: tf.where(is_png, 3, 0))
    suits = tf.equal(components, 1) | tf.equal(components, 3)
    if turn:
        # Pillow reads metadata. Python is slow, so it is not asked about a JPEG without the marker of EXIF and XMP.
        has_metadata = is_png | tf.reduce_any(begins_N & tf.equal(code_N, _APP1))

        def is_turned() -> Any:
            turned = tf.numpy_function(formats.may_be_turned, [content], tf.bool, stateful=False)
            return tf.ensure_shape(turned, ())

        suits &= ~tf.cond(suits & has_metadata, is_turned, lambda: False)
    return tf.where(suits, tf.where(is_jpeg, _JPEG, _PNG), _PILLOW)


def _cut(content: Any, turn: bool, size: int, choose: Callable[[Any], _Window]) -> Any:
    """Return a part of an image at size x size pixels. The triangle filter widens when it shrinks, as in Pillow."""
    pixels, scale, shift = _decode(content, turn, choose)
    resampled = tf.raw_ops.ScaleAndTranslate(
        images=pixels[None], size=(size, size), scale=scale, translation=shift, kernel_type="triangle", antialias=True
    )
    return tf.cast(tf.round(tf.clip_by_value(resampled[0], 0.0, 255.0)), tf.uint8)


def _random_crop(extent: Any, uniform_R: Any, size: int, part: tuple[float, float]) -> _Window:
    """Return RandomResizedCrop's window: the first of ten attempts that fits, else the largest centered one.

    Args:
      part: smallest and largest fraction of the image that it covers.
    """
    height, width = extent[0], extent[1]
    area, aspect = tf.unstack(tf.reshape(uniform_R[ATTEMPTS], (-1, 2)), axis=1)
    target = tf.cast(height * width, tf.float64) * (part[0] + area * (part[1] - part[0]))
    low, high = map(math.log, ASPECT)
    ratio = tf.exp(low + aspect * (high - low))
    sides = tf.cast(tf.round(tf.sqrt(tf.stack([target / ratio, target * ratio], axis=1))), tf.int32)
    fits = tf.reduce_all((sides > 0) & (sides <= extent), axis=1)
    first = sides[tf.argmax(fits)]
    corner = tf.cast(uniform_R[POSITION] * tf.cast(extent - first + 1, tf.float64), tf.int32)

    in_ratio = tf.cast(width, tf.float64) / tf.cast(height, tf.float64)
    tall = tf.stack([tf.cast(tf.round(tf.cast(width, tf.float64) / ASPECT[0]), tf.int32), width])
    wide = tf.stack([height, tf.cast(tf.round(tf.cast(height, tf.float64) * ASPECT[1]), tf.int32)])
    largest = tf.where(in_ratio < ASPECT[0], tall, tf.where(in_ratio > ASPECT[1], wide, extent))
    found = tf.reduce_any(fits)
    corner, sides = tf.where(found, corner, (extent - largest) // 2), tf.where(found, first, largest)
    return _Window(corner, sides, size / tf.cast(sides, tf.float32), tf.zeros(2))


def _center(extent: Any, size: int, resize: int) -> _Window:
    """Return the window of Resize(resize) and CenterCrop(size), with the pixels beyond it that the filter reaches."""
    resized = resize * extent // tf.reduce_min(extent)
    corner = tf.round(tf.cast(resized - size, tf.float32) / 2)  # corner of the crop in the resized image
    scale = tf.cast(resized, tf.float32) / tf.cast(extent, tf.float32)
    reach = tf.maximum(1 / scale, 1) + 1
    start = tf.maximum(tf.cast(tf.floor(corner / scale - reach), tf.int32), 0)
    end = tf.minimum(tf.cast(tf.math.ceil((corner + size) / scale + reach), tf.int32), extent)
    return _Window(start, end - start, scale, tf.cast(start, tf.float32) * scale - corner)


def jitter(pixels: Any, uniform_R: Any, strength: float) -> Any:
    """Return the image with brightness, contrast, and saturation changed in the drawn order, with Pillow's rounding.

    Args:
      pixels: (H, W, 3) uint8.
      uniform_R: random numbers in [0, 1), in the columns that `augment.crop` defines.
      strength: each factor lies between 1 - strength and 1 + strength.
    """
    factors = tf.cast(1 - strength + 2 * strength * uniform_R[JITTER], tf.float32)
    chosen = tf.gather(_ORDERS, tf.cast(uniform_R[JITTER_ORDER] * len(_ORDERS), tf.int32))

    def blend(other: Any, image: Any, factor: Any) -> Any:
        return tf.floor(tf.clip_by_value(other + factor * (image - other), 0.0, 255.0))

    def brightness(image: Any) -> Any:
        return blend(0.0, image, factors[0])

    def contrast(image: Any) -> Any:
        mean = tf.reduce_mean(tf.cast(_gray(image), tf.float64))
        return blend(tf.cast(tf.floor(mean + 0.5), tf.float32), image, factors[1])

    def saturation(image: Any) -> Any:
        return blend(_gray(image), image, factors[2])

    image = tf.cast(pixels, tf.float32)
    for place in range(3):
        acts = [lambda x=image, act=act: act(x) for act in (brightness, contrast, saturation)]
        image = tf.switch_case(chosen[place], acts)
    return tf.cast(image, tf.uint8)


def _gray(image: Any) -> Any:
    """Return Pillow's luma in whole levels, (H, W, 1) float32."""
    red, green, blue = tf.split(tf.cast(image, tf.int32), 3, axis=-1)
    return tf.cast(tf.bitwise.right_shift(19595 * red + 38470 * green + 7471 * blue + 0x8000, 16), tf.float32)
