"""Pixels of an image file in the wanted colors and size."""

from __future__ import annotations

import os
import pathlib

import numpy as np
from PIL import Image, ImageOps

from saddle_jax.data import formats

_MODES = {1: "L", 3: "RGB"}
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # what a whole file has in its last bytes
_TAIL = 64  # bytes


def read(file: pathlib.Path | bytes, channels: int, size: int = 0, *, turn: bool = True) -> np.ndarray:
    """Return an image as (H, W, K) uint8.

    Args:
      file: a path, or the content of a file.
      channels: K, 1 for gray or 3 for colors.
      size: side of the square that the image's center is brought to, in pixels; 0 leaves the size as it is.
      turn: obey the EXIF orientation.

    Raises:
      OSError: the file can't be read, or is not a whole image.
    """
    try:
        colors = formats.decode(file if isinstance(file, bytes) else file.read_bytes(), turn=turn)
    except ValueError as error:
        raise OSError(str(error)) from error
    image = Image.fromarray(colors).convert(_MODES[channels])
    if size and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
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
                if image.format not in _ENDS or _ENDS[image.format] not in tail:
                    image.load()
        except Exception as error:  # Pillow raises many kinds for a damaged file
            return str(error).split(" <_io")[0] or type(error).__name__
    return ""
