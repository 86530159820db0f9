"""Images for networks that take small images: whole pictures in memory, all of one size, in gray or in color."""

from __future__ import annotations

import os
import pathlib

import numpy as np
from PIL import Image, ImageOps

from saddle_jax.data import formats

_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # what a whole file has in its last bytes
_TAIL = 64  # bytes


def read(content: bytes, channels: int, size: tuple[int, int] | None = None, *, turn: bool = True) -> np.ndarray:
    """Return the image that a file holds as (H, W, K) uint8.

    Args:
      content: of the file.
      channels: K, 1 for gray or 3 for colors.
      size: height and width that the image's center is brought to, in pixels; None leaves the size as it is.
      turn: obey the EXIF orientation.

    Raises:
      ValueError: it can't be decoded.
    """
    return fit(formats.decode(content, turn=turn), channels, size)


def fit(image_HWK: np.ndarray, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return the image in gray or in color, with its center resized; the arguments are those of `read`."""
    height, width, found = image_HWK.shape
    if found == channels and size in (None, (height, width)):
        return image_HWK
    image = as_image(image_HWK)
    if found != channels:
        image = image.convert("L" if channels == 1 else "RGB")
    if size not in (None, (height, width)):
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
    return as_array(image)


def as_image(image_HWK: np.ndarray) -> Image.Image:
    """Return pixels as a Pillow image."""
    return Image.fromarray(image_HWK[..., 0] if image_HWK.shape[-1] == 1 else image_HWK)


def as_array(image: Image.Image) -> np.ndarray:
    """Return a Pillow image as (H, W, K) uint8."""
    pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def problem_of(path: pathlib.Path) -> str:
    """Return why a file is not a whole image, or "" if it seems to be one.

    A JPEG or PNG with its end in place is not decoded. Any other image is decoded in full.

    Raises:
      OSError: the file can't be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return "empty"
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        file.seek(0)
        try:
            with formats.open_image(file) as image:
                if _ENDS.get(str(image.format), b"\0no end") in tail:
                    return ""
            file.seek(0)
            formats.decode(file.read(), turn=False)
        except ValueError as error:
            return str(error)
        except Exception as error:  # Pillow raises many kinds for a damaged file
            return f"not a {formats.NAMES}" if "cannot identify" in str(error) else str(error)
    return ""
