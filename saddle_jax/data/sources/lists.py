"""The lists of a set of image files, as ImageNet-LT and iNaturalist 2018 publish them, or as people write them.

All problems of all lists are reported at once, with line numbers.
"""

from __future__ import annotations

import os
import pathlib
import posixpath
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.sources import list_file, meaning
from saddle_jax.data.sources.list_file import SHOWN, Offenders, Rows
from saddle_jax.data.sources.published import require_published
from saddle_jax.errors import DataError, did_you_mean

SPLITS = ("train", "validation", "test")
OFFICIAL = {  # by data.name; "" means no list
    "imagenet_lt": ("ImageNet_LT_train.txt", "ImageNet_LT_val.txt", "ImageNet_LT_test.txt"),
    "inat18": ("iNaturalist18_train.txt", "", "iNaturalist18_val.txt"),
    "places_lt": ("Places_LT_train.txt", "Places_LT_val.txt", "Places_LT_test.txt"),
}
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?", re.ASCII)
_TOO_LARGE = 1_000_000  # for a label
_THREADS = 16  # folders listed at once, because on a network most of the time is waiting


class Listed(NamedTuple):
    """The images of one split."""

    source: pathlib.Path
    paths: list[str]  # under the root, with "/" between folders
    labels_N: np.ndarray  # int32, from 0
    lines_N: np.ndarray  # line numbers, from 1


class Lists(NamedTuple):
    """The lists of a set."""

    root: str
    train: Listed
    validation: Listed | None
    test: Listed | None
    names: tuple[str, ...]  # of the classes
    notes: tuple[str, ...]  # what the user should know about how the lists were read
    first_label: int  # see `base.Source`


def load(data: ConfigDict) -> Lists:
    """Read and check the lists that `data` (the config's data fields) names. No image is opened.

    Raises:
      DataError: a list is missing, or lines or files have problems. It reports all of them.
    """
    root, files = _find(data)
    offenders = Offenders()
    tables = {path: list_file.read(path, offenders) for path in dict.fromkeys(files.values())}
    if offenders:
        raise offenders.error(f"the image lists of {root}")
    parts, notes = _parts(files, tables)
    parts = {split: rows._replace(paths=_under(root, rows, offenders)) for split, rows in parts.items()}
    written = _written_labels(parts, offenders)
    _find_repeated(parts.values(), offenders)
    _find_missing(root, parts.values(), offenders)
    if offenders:
        raise offenders.error(f"the image lists of {root}")
    labels = _number(written, data)
    listed = {
        split: Listed(rows.source, rows.paths, labels.labels[split], np.array(rows.lines, np.int64))
        for split, rows in parts.items()
    }
    train = listed["train"]
    require_published(data.name, str(train.source), train.labels_N)
    names = labels.names if written["train"].dtype.kind == "U" else class_names(train, labels.names)
    validation, test = listed.get("validation"), listed.get("test")
    return Lists(root, train, validation, test, names, (*notes, *labels.notes), labels.first)


def class_names(train: Listed, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return each class's folder if every class has exactly one folder of its own, else the given names."""
    folders = dict(zip(train.labels_N.tolist(), (posixpath.dirname(path) for path in train.paths), strict=True))
    single = all(folders[k] == posixpath.dirname(p) for k, p in zip(train.labels_N.tolist(), train.paths, strict=True))
    found = {label: posixpath.basename(folder) for label, folder in folders.items()}
    if not single or len(set(found.values())) != len(found) or not all(found.values()):
        return names
    return tuple(found.get(label, name) for label, name in enumerate(names))


def _find(data: ConfigDict) -> tuple[str, dict[str, pathlib.Path]]:
    """Return the root and each split's list, or raise an error that says which files were expected where."""
    official = OFFICIAL.get(str(data.name), ("", "", ""))
    named = (str(data.train_list), str(data.validation_list), str(data.test_list))
    wanted = {split: own or usual for split, own, usual in zip(SPLITS, named, official, strict=True)}
    if not wanted["train"]:
        raise DataError(
            f"data.source='image_list' has no train list: data.name={data.name!r} is not one of "
            f"{', '.join(OFFICIAL)}, whose lists have official names. Fix: --config.data.train_list=FILE; "
            "--config.data.test_list=FILE, or a column `split` in the train list"
        )
    looked_for = ", ".join(filter(None, wanted.values()))
    if not data.root:
        raise DataError(
            f"data.root is not given. It is the folder with the lists ({looked_for}) and the images that they name. "
            "Fix: --config.data.root=FOLDER; for lists elsewhere, --config.data.train_list=FILE and so on. "
            "To try without data: --config FILE:smoke"
        )
    if "://" in data.root:
        raise DataError(
            f"data.root: found {data.root!r}, but image lists need a folder on this machine. Fix: mount it "
            "as one, or use --config.data.source=tfds"
        )
    root = pathlib.Path(os.path.expanduser(str(data.root)))
    files = {split: root / os.path.expanduser(name) for split, name in wanted.items() if name}
    if not root.is_dir():
        raise DataError(
            f"data.root: found no folder {root}, expected one that holds {looked_for} and the images that they name. "
            "Fix: --config.data.root=FOLDER. To try without data: --config FILE:smoke"
        )
    if missing := [path for path in files.values() if not path.is_file()]:
        holds = ", ".join(sorted(path.name for path in root.iterdir())[:SHOWN]) or "nothing"
        raise DataError(
            "\n".join(
                [
                    f"data.root: {root} lacks {len(missing)} of {len(files)} lists (it holds {holds})",
                    *(f"  - looked for {path}" for path in missing),
                    "Fix: put them there, or give --config.data.train_list=FILE (also validation_list, test_list; "
                    "under data.root, or absolute). To try without data: --config FILE:smoke",
                ]
            )
        )
    return str(root), files


def _parts(
    files: Mapping[str, pathlib.Path], tables: Mapping[pathlib.Path, Rows]
) -> tuple[dict[str, Rows], tuple[str, ...]]:
    """Return each split's rows, and notes. A list with a column of splits gives those of every split without a list.

    Raises:
      DataError: a list with a column of splits has no row of the split that it is named for.
    """
    train = tables[files["train"]]
    parts: dict[str, Rows] = {}
    for split in SPLITS:
        rows = tables[files.get(split, files["train"])]
        if rows.splits is None:
            if split in files:
                parts[split] = rows
            if split != "train" and files.get(split) == files["train"]:
                raise DataError(
                    f"data.train_list and data.{split}_list: both name {rows.source}, which does not say which images "
                    f"belong to which. Fix: a column `split`, or --config.data.{split}_list=ANOTHER"
                )
            continue
        places = [place for place, name in enumerate(rows.splits) if name == split]
        if places:
            columns = ([column[place] for place in places] for column in rows[1:4])
            parts[split] = Rows(rows.source, *columns)
        elif split in files:
            counts = ", ".join(f"{rows.splits.count(name):,} {name}" for name in SPLITS)
            raise DataError(
                f"{rows.source}: its column of splits has no row for {split} ({counts}). "
                f"Fix: mark some as {split}, or --config.data.{split}_list=ANOTHER"
            )
    if train.splits is None:
        return parts, ()
    counts = ", ".join(f"{len(rows.paths):,} {split}" for split, rows in parts.items() if rows.source == train.source)
    return parts, (f"{train.source.name} says which images belong to which split: {counts}",)


def _under(root: str, rows: Rows, offenders: Offenders) -> list[str]:
    """Return the paths relative to the root. Absolute ones below it are accepted; others become offenders."""
    folders = [folder.rstrip("/") + "/" for folder in (os.path.abspath(root), os.path.realpath(root))]
    paths = []
    for path, line in zip(rows.paths, rows.lines, strict=True):
        name = path
        if "//" in name or "./" in name:
            name = posixpath.normpath(name)
        if name.startswith("/"):
            name = next((name.removeprefix(folder) for folder in folders if name.startswith(folder)), name)
        if name.startswith(("/", "../")) or name == "..":
            what = f"{path!r}, expected a path under {folders[0]}"
            offenders.add("paths that leave data.root", rows.source, line, what)
        paths.append(name)
    return paths


def _written_labels(parts: Mapping[str, Rows], offenders: Offenders) -> dict[str, np.ndarray]:
    """Return every split's labels as they are written: numbers, or class names if most of them are not numbers.

    Labels that are neither, or that no training image can have, become offenders.
    """
    is_number = [bool(_NUMBER.fullmatch(label)) for rows in parts.values() for label in rows.labels]
    if 2 * sum(is_number) < len(is_number):
        _find_strange_names(parts, offenders)
        return {split: np.array(rows.labels) for split, rows in parts.items()}
    found = {}
    for split, rows in parts.items():
        numbers = [int(label) if list_file.is_number(label) else _TOO_LARGE for label in rows.labels]
        found[split] = np.array(numbers, np.int64)
        for place in np.flatnonzero(found[split] >= _TOO_LARGE):
            what = f"{rows.labels[place][:40]!r}, expected a number below {_TOO_LARGE:,}, as most labels are"
            offenders.add("labels that are not whole numbers", rows.source, rows.lines[place], what)
    sound = {split: labels_N[labels_N < _TOO_LARGE] for split, labels_N in found.items()}
    low = min(int(labels_N.min(initial=_TOO_LARGE)) for labels_N in sound.values())
    high = int(sound["train"].max(initial=0))
    for split, rows in parts.items():
        for place in np.flatnonzero((high < found[split]) & (found[split] < _TOO_LARGE)):
            what = f"found {found[split][place]}, expected {low} to {high}, as in {parts['train'].source.name}"
            offenders.add("labels out of range", rows.source, rows.lines[place], what)
    return found


def _find_strange_names(parts: Mapping[str, Rows], offenders: Offenders) -> None:
    """Find names of classes that have no training image."""
    known, train = set(parts["train"].labels), parts["train"].source.name
    hints: dict[str, str] = {}  # of the first few, because looking for similar names is slow
    for rows in parts.values():
        for label, line in zip(rows.labels, rows.lines, strict=True):
            if label not in known:
                if label not in hints and len(hints) < SHOWN:
                    hints[label] = did_you_mean(label, sorted(known))
                what = f"{label!r}, expected a class of {train}.{hints.get(label, '')}"
                offenders.add("classes without training images", rows.source, line, what)


def _number(written: Mapping[str, np.ndarray], data: ConfigDict) -> meaning.Labels:
    """Return the labels from 0: numbers as they are or minus one, names in alphabetical order.

    Raises:
      DataError: numbers start at 1, but with gaps.
    """
    train_N = written["train"]
    found = np.unique(train_N)
    if train_N.dtype.kind == "U":
        numbers = {split: np.searchsorted(found, labels_N).astype(np.int32) for split, labels_N in written.items()}
        return meaning.Labels(numbers, tuple(found.tolist()), ())
    gaps = np.setdiff1d(np.arange(1, found[-1] + 1), found)
    if min(labels_N.min() for labels_N in written.values()) == 1 and gaps.size and not data.allow_empty_classes:
        shown = ", ".join(map(str, gaps[:SHOWN])) + (", ..." if gaps.size > SHOWN else "")
        raise DataError(
            f"labels start at 1, but no training image has label {shown}. Fix: number the classes from 1 to "
            f"{found.size} or from 0 to {found.size - 1}, or --config.data.allow_empty_classes=True"
        )
    return meaning.labels(dict(written), None, gaps=data.allow_empty_classes)


def _find_repeated(lists: Iterable[Rows], offenders: Offenders) -> None:
    """Find images that appear twice in one list, or in more than one list."""
    seen: dict[str, tuple[Rows, int]] = {}
    for rows in lists:
        for path, line in zip(rows.paths, rows.lines, strict=True):
            first, first_line = seen.setdefault(path, (rows, line))
            if first.source != rows.source:
                where = f"{first.source.name} line {first_line}"
                offenders.add("images in more than one list", rows.source, line, f"{path} is also in {where}")
            elif first_line != line:
                offenders.add("images listed twice", rows.source, line, f"{path}, first in line {first_line}")


def _find_missing(root: str, lists: Iterable[Rows], offenders: Offenders) -> None:
    """Find listed images that are missing. Listing each folder once is far quicker than checking every file."""
    lists = list(lists)
    folders = list({posixpath.dirname(path) for rows in lists for path in rows.paths})

    def names(folder: str) -> set[str]:
        try:
            return set(os.listdir(os.path.join(root, folder)))
        except OSError:
            return set()

    with ThreadPoolExecutor(_THREADS) as pool:
        there = dict(zip(folders, pool.map(names, folders), strict=True))
    for rows in lists:
        for path, line in zip(rows.paths, rows.lines, strict=True):
            folder, name = posixpath.split(path)
            if name not in there[folder]:
                offenders.add("images that are not there", rows.source, line, os.path.join(root, path))
