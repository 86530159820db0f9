"""Image files as Pillow decodes them: every format that can be read, and how an image is turned upright.

TensorFlow decodes most JPEGs and PNGs to the same levels, and faster (see `data.feeds.decoding`). What it can't decode,
or decodes differently, comes here: palettes in a BMP, CMYK, GIFs with a frame smaller than the picture, TIFF.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as Tags

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"  # how these files start
STARTS = {
    "JPEG": (JPEG,),
    "PNG": (PNG,),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "WebP": (b"RIFF",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
# The usual suffixes. A file's content decides its format, though.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
NAMES = f"{', '.join(list(STARTS)[:-1])}, or {list(STARTS)[-1]}"

_TURNS = {  # by EXIF orientation: how a picture is turned upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_METADATA = (b"eXIf", b"exif", b"iTXt")  # in a PNG that may have an orientation

# Pillow's warnings name no image. We report each image that it can't decode by name, with the reason.
warnings.filterwarnings("ignore", module=r"PIL\.")


@contextlib.contextmanager
def _as_value_error() -> Iterator[None]:
    """Raise what Pillow's decoders raise, which is almost anything, as a ValueError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error


@_as_value_error()
def decode(content: bytes, *, turn: bool) -> np.ndarray:
    """Return the pixels of an image's first picture, (H, W, 3) uint8: Pillow's `Image.open(...).convert("RGB")`.

    Gray levels of 16 bits become their upper eight, where Pillow would cut them off at 255.

    Args:
      turn: turn the picture as its EXIF orientation says. Pillow itself turns a TIFF, whatever this says.

    Raises:
      ValueError: it can't be decoded.
    """
    if not content:
        raise ValueError("empty")
    try:
        with open_image(io.BytesIO(content)) as image:
            return levels(image, turn=turn)
    except UnidentifiedImageError:
        kind = kind_of(content)
        raise ValueError(f"the header of this {kind} is damaged" if kind else f"not a {NAMES}") from None


@_as_value_error()
def levels(image: Image.Image, *, turn: bool) -> np.ndarray:
    """Return the pixels of one of Pillow's images, as `decode` returns those of a file.

    Raises:
      ValueError: it can't be decoded.
    """
    image.load()
    upright = image.transpose(_TURNS[at]) if turn and (at := _orientation(image)) in _TURNS else image
    if upright.mode.startswith("I;16"):
        return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if upright.mode in ("I", "F"):
        raise ValueError("found levels of 32 bits, expected 8 or 16")
    if "transparency" in upright.info:  # convert() would only warn about it
        upright = upright.copy()  # the image is its user's
        del upright.info["transparency"]
    return np.asarray(upright.convert("RGB"))


def kind_of(content: bytes) -> str:
    """Return the name of the format whose first bytes the file has, or ""."""
    return next((kind for kind, starts in STARTS.items() if content.startswith(starts)), "")


def may_be_turned(content: bytes) -> bool:
    """Return whether a JPEG has an EXIF orientation that turns it, or whether a PNG may have one."""
    if content.startswith(PNG):
        return any(word in content for word in _PNG_METADATA)
    try:
        with open_image(io.BytesIO(content)) as image:
            return _orientation(image) in _TURNS
    except Exception:  # a bad image; whoever decodes it reports that
        return False


def open_image(file: IO[bytes]) -> Image.Image:
    """Open an image in one of our formats. Pillow knows more, but would run other programs for some of them."""
    return Image.open(file, formats=[name.upper() for name in STARTS])


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (not turned) if there is none or the EXIF data are damaged."""
    try:
        return image.getexif().get(Tags.Orientation, 1)
    except Exception:  # Pillow's parser raises almost anything
        return 1
