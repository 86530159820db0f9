"""Images to classify, in all the forms that people have: files, folders, globs, lists, arrays."""

from __future__ import annotations

import glob
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from saddle_jax.data import formats, inspection, pixels
from saddle_jax.data.encoded import Contents, Decoding, Encoded
from saddle_jax.data.sources import arrays, list_file, meaning
from saddle_jax.data.sources.folder import image_files
from saddle_jax.errors import DataError
from saddle_jax.host.files import readable, reason_of

_LISTS = (".txt", ".csv", ".tsv")
_KEYS = ("images", "test_images", "x_test", "train_images", "x_train")  # of an .npz, by preference
_EXPECTED = "a path, an array, or a Pillow image"


class Item(NamedTuple):
    """An image to classify."""

    name: str
    content: pathlib.Path | np.ndarray  # a file, or pixels (H, W, K) uint8


def find(arguments: Sequence[str]) -> list[Item]:
    """Return the images that command-line arguments name, in the order of the arguments.

    An argument is an image file, a folder (all image files below it, by name), a glob, an .npz of images, or a list:
    a .txt, .csv, or .tsv as for training, but labels may be missing. Its paths are absolute or relative to it.

    Raises:
      DataError: an argument names nothing. It reports all such arguments.
    """
    items: list[Item] = []
    problems: list[str] = []
    for argument in arguments:
        try:
            items += _of_argument(argument)
        except DataError as error:
            problems.append(str(error))
    if not arguments:
        problems.append("no images are named. Fix: name files, folders, globs in quotes, lists, or an .npz")
    if problems:
        raise DataError("\n".join(problems))
    return [item._replace(name=readable(item.name)) for item in items]


def _of_argument(argument: str) -> Iterator[Item]:
    path = pathlib.Path(argument).expanduser()
    if path.is_dir():
        files, _ = image_files(path)
        if not files:
            raise DataError(f"{argument}: the folder has no image file ({' '.join(formats.SUFFIXES)})")
        return (Item(str(file), file) for file in files)
    if path.suffix.lower() == ".npz":
        return _of_arrays(argument, path)
    if path.is_file() and path.suffix.lower() in _LISTS:
        return _of_list(argument, path)
    if path.is_file():
        return iter([Item(argument, path)])
    if found := sorted(glob.glob(str(path), recursive=True)):
        return _of_glob(argument, found)
    raise DataError(f"{argument}: found no file, folder, or glob of that name")


def _of_arrays(argument: str, path: pathlib.Path) -> Iterator[Item]:
    found = arrays.read(path)
    key = next((key for key in (*_KEYS, *found) if key in found), None)
    if key is None:
        raise DataError(f"{argument}: found no array in it, expected images (N, height, width[, channels])")
    images = meaning.images(f"{argument}: {key}", found[key]).array
    return (Item(f"{argument}[{number}]", image) for number, image in enumerate(images))


def _of_glob(argument: str, found: Sequence[str]) -> Iterator[Item]:
    """Return the images of what a glob found, each file once: `**` finds folders and also what is in them."""
    items: list[Item] = []
    known = set(found)
    for name in found:
        if not os.path.isdir(name):
            items += _of_argument(name)
            continue
        new = [file for file in image_files(pathlib.Path(name))[0] if str(file) not in known]
        known.update(map(str, new))
        items += [Item(str(file), file) for file in new]
    if not items:
        raise DataError(f"{argument}: found only folders without an image file ({' '.join(formats.SUFFIXES)})")
    return iter(items)


def _of_list(argument: str, path: pathlib.Path) -> Iterator[Item]:
    offenders = list_file.Offenders()
    rows = list_file.read(path, offenders, labeled=False)
    if offenders:
        raise offenders.error(f"the image list {argument}")
    return (Item(name, path.parent / name) for name in rows.paths)


def of_python(images: Any, *, turn: bool) -> list[Item]:
    """Return the images that a Python call gives.

    Args:
      images: a path; an array of pixels, (N, H, W[, K]) or (H, W[, K]); a Pillow image; or a list of any of these.
      turn: turn Pillow's images as their EXIF orientation says, as `prepare` turns files.

    Raises:
      DataError: it is none of these, or one of Pillow's images can't be decoded.
    """
    if isinstance(images, str | pathlib.Path):
        return find([str(images)])
    if isinstance(images, Image.Image):
        images = [images]
    if _is_array(images):
        pixel_levels = np.asarray(images)
        if pixel_levels.ndim == 2 or (pixel_levels.ndim == 3 and pixel_levels.shape[-1] in meaning.CHANNELS):
            pixel_levels = pixel_levels[None]
        return [Item(f"image {n}", image) for n, image in enumerate(meaning.images("images", pixel_levels).array)]
    if not isinstance(images, Iterable):
        raise DataError(f"images: found {type(images).__name__}, expected {_EXPECTED}, or a list of these")
    items: list[Item] = []
    for number, one in enumerate(images):
        if not isinstance(one, str | pathlib.Path | Image.Image) and not _is_array(one):
            raise DataError(f"image {number}: found {type(one).__name__}, expected {_EXPECTED}")
        if isinstance(one, Image.Image):
            try:
                items.append(Item(f"image {number}", formats.levels(one, turn=turn)))
            except ValueError as error:
                raise DataError(f"image {number}: can't be decoded ({error})") from error
            continue
        is_named = isinstance(one, str | pathlib.Path)
        items += [item if is_named else item._replace(name=f"image {number}") for item in of_python(one, turn=turn)]
    return items


def _is_array(found: Any) -> bool:
    """Return whether this is an array of pixels: NumPy's, or one of JAX, PyTorch, or TensorFlow on the host."""
    return hasattr(found, "__array__") and getattr(found, "ndim", 0) >= 2


def prepare(items: Sequence[Item], shape: tuple[int, int, int], *, turn: bool) -> tuple[np.ndarray, dict[int, str]]:
    """Return the pixels (N, H, W, K) of the sound images, and {place: reason} for the others."""
    height, width, channels = shape
    found: list[np.ndarray] = []
    problems: dict[int, str] = {}
    for place, (_, content) in enumerate(items):
        try:
            if isinstance(content, pathlib.Path):
                image = pixels.read(content.read_bytes(), channels, (height, width), turn=turn)
            else:
                image = pixels.fit(content, channels, (height, width))
            found.append(image)
        except (OSError, ValueError) as error:
            problems[place] = reason_of(error)
    return np.stack(found) if found else np.empty((0, *shape), np.uint8), problems


def prepare_encoded(items: Sequence[Item], decoding: Decoding) -> tuple[Encoded, dict[int, str]]:
    """Return the sound images, still encoded, and {place: reason} for the others. It decodes each once."""
    everything = Contents(lambda place: _encoded(items[place].content), [item.name for item in items], decoding)
    problems = {one.position: one.reason for one in inspection.undecodable(everything)}
    sound = np.array([place for place in range(len(items)) if place not in problems], np.int64)
    return everything[sound], problems


def _encoded(content: pathlib.Path | np.ndarray) -> bytes:
    """Return an image as the content of a file."""
    if isinstance(content, pathlib.Path):
        return content.read_bytes()
    buffer = io.BytesIO()
    pixels.as_image(content).save(buffer, "PNG")
    return buffer.getvalue()
