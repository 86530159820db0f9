"""Folders of image files, one folder per class."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data import formats, pixels
from saddle_jax.data.encoded import ImageFiles
from saddle_jax.data.sources.base import SPLIT_WORDS, Images, Source, decoding
from saddle_jax.data.sources.split import split_test
from saddle_jax.errors import DataError, did_you_mean, first_lines
from saddle_jax.experiment.catalogue import images_stay_encoded
from saddle_jax.host.files import readable, reason_of
from saddle_jax.host.threads import R, in_stretches

_SHOWN = 10
_LARGEST_FRACTION = 0.99  # that is suggested for data.max_bad_fraction
_THREADS = 16
_STRETCH = 64  # files


class Files(NamedTuple):
    """The image files of a split."""

    paths: list[str]  # below the root, with "/" between folders; in the order of their names
    labels_N: np.ndarray  # int32, by name of class


class Folders(NamedTuple):
    """The image files below a root."""

    root: pathlib.Path
    names: tuple[str, ...]  # of the classes, sorted
    splits: dict[str, Files]
    notes: tuple[str, ...]


def load(fields: Any, data: ConfigDict) -> Source:
    """Return the images below data.root. Small ones are read into memory, large ones stay files.

    Raises:
      DataError: the folders hold no classes, or more image files are broken than data.max_bad_fraction allows.
    """
    del fields
    found = find(data.root)
    images: dict[str, Any]
    if images_stay_encoded(data.source, data.augmentation, data.eval_resize):
        found = without_broken(found, data.max_bad_fraction)
        images = {
            split: ImageFiles(str(found.root), np.array([path.encode() for path in files.paths]), decoding(data))
            for split, files in found.splits.items()
        }
    else:
        found, images = _read(found, data)
    named = {split: np.array(files.paths) for split, files in found.splits.items()}
    parts = {split: Images(images[split], files.labels_N) for split, files in found.splits.items()}
    test, validation, notes = parts.get("test"), parts.get("validation"), found.notes
    if test is None and validation is not None:
        test, validation = validation, None
        named["test"] = named.pop("validation")
        notes = (*notes, "there is no folder of test images: the validation images are the test images")
    source = Source(parts["train"], test, found.names, validation, notes=notes, image_names=named)
    return split_test(source, data)


def find(root: str) -> Folders:
    """Return the image files below a root: root/<class>/*, or root/train/<class>/* with root/val, root/test, or both.

    Raises:
      DataError: there are no such folders, a split has a class that the training images lack, or names are not UTF-8.
    """
    if not root:
        raise DataError(
            "data.root is not given. It is the folder that holds one folder of images per class. "
            "Fix: --config.data.root=FOLDER"
        )
    top = pathlib.Path(os.path.expanduser(str(root)))
    try:
        inside = _folders(top)
    except OSError as error:
        raise DataError(
            f"data.root: {top} can't be listed ({error.strerror}). Fix: --config.data.root=FOLDER"
        ) from error
    tops = {
        split: next((folder for folder in inside if SPLIT_WORDS.get(folder.name.lower()) == split), None)
        for split in ("train", "validation", "test")
    }
    if tops["train"] is None:
        tops = {"train": top, "validation": None, "test": None}
    classes = {split: _folders(folder) for split, folder in tops.items() if folder is not None}
    names = tuple(folder.name for folder in classes["train"])
    if len(names) < 2:
        raise DataError(
            f"data.root: {tops['train']} holds {len(names)} folders, expected one folder of images for each of two or "
            f"more classes. It may also hold train/, with val/ or test/ beside it, and the classes below those. "
            "Fix: --config.data.root=FOLDER"
        )
    strange = [
        f"  - {folder}: the training images have no class {folder.name!r}.{did_you_mean(folder.name, names)}"
        for split, folders in classes.items()
        for folder in folders
        if folder.name not in names
    ]
    if strange:
        fix = "Fix: rename these folders, or add training images of these classes"
        raise DataError("\n".join([f"{len(strange)} classes have no training images", *strange[:_SHOWN], fix]))
    number = {name: label for label, name in enumerate(names)}
    splits, others = {}, []
    for split, folders in classes.items():
        paths: list[str] = []
        labels: list[int] = []
        for folder in folders:
            images, rest = image_files(folder)
            paths += [path.relative_to(top).as_posix() for path in images]
            labels += [number[folder.name]] * len(images)
            others += rest
        splits[split] = Files(paths, np.array(labels, np.int32))
        if not paths:
            suffixes = " ".join(formats.SUFFIXES)
            raise DataError(f"data.root: no folder in {tops[split]} has an image file (expected {suffixes})")
    _require_text(top, [path for files in splits.values() for path in files.paths])
    left_out = "files left out because their names are not those of images"
    notes = (f"{left_out}: {len(others):,}, e.g. {readable(str(others[0]))}",) if others else ()
    return Folders(top, names, splits, (*notes, *_too_high(top, classes["train"], splits["train"].paths)))


def _require_text(root: pathlib.Path, paths: Sequence[str]) -> None:
    """Check that the names of files are text, as a run's tables of images and TensorFlow need."""
    strange = [shown for path in (str(root), *paths) if (shown := readable(path)) != path]
    if strange:
        found = f"{len(strange):,} names of files or folders are not UTF-8"
        raise DataError("\n".join([found, *first_lines(strange), "Fix: rename them"]))


def _too_high(root: pathlib.Path, classes: list[pathlib.Path], paths: list[str]) -> Iterator[str]:
    """Yield a note if no class has an image of its own, but folders of images, as if the root were too high."""
    folders = {(root / path).parent for path in paths}
    inner = [folder.name for folder in _folders(classes[0])]
    if folders.isdisjoint(classes) and len(inner) > 1:
        yield (
            f"every class holds only folders, such as {classes[0].name}/{inner[0]}. If those are the classes, "
            f"use --config.data.root={classes[0]}"
        )


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders in a folder by name; hidden ones don't count."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())


def image_files(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Return the image files below a folder by name, and the other files; what is hidden does not count."""
    files = sorted(path for path in folder.rglob("*") if not _in_hidden(path, folder) and path.is_file())
    images = [path for path in files if path.suffix.lower() in formats.SUFFIXES]
    return images, [path for path in files if path.suffix.lower() not in formats.SUFFIXES]


def _in_hidden(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """Return whether a path below a folder is in a hidden one there, such as .ipynb_checkpoints or .thumbnails."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def without_broken(found: Folders, most: float) -> Folders:
    """Return the files without those that are not whole images, as far as that shows without decoding all of them.

    Raises:
      DataError: they are more than the fraction `most` of a split.
    """

    def look(path: str) -> str:
        try:
            return pixels.problem_of(found.root / path)
        except OSError as error:
            return reason_of(error)

    return _without(found, {split: _each(files.paths, look) for split, files in found.splits.items()}, most)


def _without(found: Folders, problems: dict[str, list[str]], most: float) -> Folders:
    """Return the files without the broken ones.

    Args:
      found: the files.
      problems: split -> what is wrong with each of its files, or "".
      most: the fraction of a split that may be broken.

    Raises:
      DataError: they are more.
    """
    splits, broken, worst = {}, [], 0.0
    for split, files in found.splits.items():
        kept = [place for place, problem in enumerate(problems[split]) if not problem]
        lines = [f"{path}: {problem}" for path, problem in zip(files.paths, problems[split], strict=True) if problem]
        broken += lines
        worst = max(worst, len(lines) / len(files.paths))
        splits[split] = Files([files.paths[place] for place in kept], files.labels_N[kept])
    if not broken:
        return found
    shown = first_lines(broken)
    if worst > most:
        total = sum(len(files.paths) for files in found.splits.values())
        fix = "Fix: restore or remove them"
        if worst <= _LARGEST_FRACTION:
            allowed = min(_LARGEST_FRACTION, 1.5 * worst)
            fix += f", or leave them out: --config.data.max_bad_fraction={allowed:.2g}"
        raise DataError(
            "\n".join([f"{len(broken):,} of {total:,} image files in {found.root} are broken", *shown, fix])
        )
    note = "\n".join([f"broken image files left out: {len(broken):,}", *shown])
    return found._replace(splits=splits, notes=(*found.notes, note))


def _read(found: Folders, data: ConfigDict) -> tuple[Folders, dict[str, np.ndarray]]:
    """Return the files without those that can't be decoded, and the images of every split as one array.

    Raises:
      DataError: the images differ in size, or more are broken than data.max_bad_fraction allows.
    """
    channels, size = len(data.mean), (data.image_size, data.image_size) if data.image_size else None

    def read(path: str) -> np.ndarray | str:
        try:
            return pixels.read((found.root / path).read_bytes(), channels, size, turn=data.exif_orientation)
        except (OSError, ValueError) as error:
            return reason_of(error)

    images = {split: _each(files.paths, read) for split, files in found.splits.items()}
    problems = {split: [one if isinstance(one, str) else "" for one in some] for split, some in images.items()}
    found = _without(found, problems, data.max_bad_fraction)
    arrays = {}
    for split, files in found.splits.items():
        sound = [one for one in images.pop(split) if not isinstance(one, str)]
        arrays[split] = _stacked(found.root, files.paths, sound)
    return found, arrays


def _stacked(root: pathlib.Path, paths: Sequence[str], images: Sequence[np.ndarray]) -> np.ndarray:
    sizes = {image.shape[:2]: path for path, image in zip(paths, images, strict=True)}
    if len(sizes) > 1:
        shown = ", ".join(f"{path} {height} x {width}" for (height, width), path in list(sizes.items())[:3])
        raise DataError(
            f"the images in {root} have {len(sizes)} sizes ({shown}), expected one. "
            "Fix: --config.data.image_size=64 brings them to one size, in pixels per side"
        )
    return np.stack(images)


def _each(paths: Sequence[str], function: Callable[[str], R]) -> list[R]:
    return list(in_stretches(function, paths, threads=min(_THREADS, 4 * (os.cpu_count() or 1)), stretch=_STRETCH))
