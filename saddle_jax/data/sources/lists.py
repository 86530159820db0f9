"""Lists of image files, one `path label` per line, as ImageNet-LT and iNaturalist 2018 publish them.

The label is the last word of its line, so a path may contain spaces. Windows line endings, trailing spaces, and empty
lines are accepted. All problems of all lists are reported at once, with line numbers.
"""

from __future__ import annotations

import codecs
import os
import pathlib
import posixpath
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.sources.published import published_counts, require_published
from saddle_jax.errors import DataError

SPLITS = ("train", "validation", "test")
OFFICIAL = {  # by data.name; "" means no list
    "imagenet_lt": ("ImageNet_LT_train.txt", "ImageNet_LT_val.txt", "ImageNet_LT_test.txt"),
    "inat18": ("iNaturalist18_train.txt", "", "iNaturalist18_val.txt"),
}
_SHOWN = 10
_MAX_LABEL = 1_000_000
_LABEL_DIGITS = 20  # including leading zeros; Python refuses to parse thousands of digits
_THREADS = 16  # folders listed at once, because on a network most of the time is waiting


class Listed(NamedTuple):
    """The images of one list."""

    source: pathlib.Path
    paths: list[str]  # under the root, with "/" between folders
    labels_N: np.ndarray  # int64, as in the list
    lines_N: np.ndarray  # line numbers, from 1


class Lists(NamedTuple):
    """The lists of a set."""

    root: str
    train: Listed
    validation: Listed | None
    test: Listed
    num_classes: int


class _Offenders:
    """Problems by kind. Each kind shows its first few and its total."""

    def __init__(self):
        self._kinds: dict[str, list[str]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def add(self, kind: str, listed: Listed | pathlib.Path, line: int, what: str) -> None:
        source = listed.source if isinstance(listed, Listed) else listed
        self._kinds[kind].append(f"  - {source.name} line {line}: {what}")

    def error(self, root: str) -> DataError:
        lines = []
        for kind, found in self._kinds.items():
            lines += [f"{kind}: {len(found):,}", *found[:_SHOWN]]
            lines += [f"  ... and {len(found) - _SHOWN:,} more"] if len(found) > _SHOWN else []
        return DataError("\n".join([f"the image lists of {root} can't be used", *lines]))


def load(data: ConfigDict) -> Lists:
    """Read and check the lists that `data` (the config's data fields) names. No image is opened.

    Raises:
      DataError: a list is missing, or lines or files have problems. It reports all of them.
    """
    root, files = _find(data)
    offenders = _Offenders()
    found = {split: _read(path, offenders) for split, path in files.items()}
    if offenders:
        raise offenders.error(root)
    train = found["train"]
    require_published(data.name, str(train.source), train.labels_N)
    published_C = published_counts(data.name)
    num_classes = int(train.labels_N.max()) + 1 if published_C is None else len(published_C)
    lists = list(found.values())
    for listed in lists:
        for row in np.flatnonzero(listed.labels_N >= num_classes):
            label, line = listed.labels_N[row], listed.lines_N[row]
            expected = f"0 to {num_classes - 1}, as in {train.source.name}"
            offenders.add("labels out of range", listed, line, f"found {label}, expected {expected}")
    _find_repeated(lists, offenders)
    _find_missing(root, lists, offenders)
    if offenders:
        raise offenders.error(root)
    return Lists(root, train, found.get("validation"), found["test"], num_classes)


def class_names(train: Listed, num_classes: int) -> tuple[str, ...]:
    """Return each class's folder if every class has exactly one folder of its own, else the labels as text."""
    folders = dict(zip(train.labels_N.tolist(), (posixpath.dirname(path) for path in train.paths), strict=True))
    single = all(folders[k] == posixpath.dirname(p) for k, p in zip(train.labels_N.tolist(), train.paths, strict=True))
    names = {label: posixpath.basename(folder) for label, folder in folders.items()}
    if not single or len(set(names.values())) != len(names) or not all(names.values()):
        names = {}
    return tuple(names.get(label, str(label)) for label in range(num_classes))


def _find(data: ConfigDict) -> tuple[str, dict[str, pathlib.Path]]:
    """Return the root and each split's list, or raise an error that says what was expected where."""
    official = OFFICIAL.get(str(data.name), ("", "", ""))
    named = (str(data.train_list), str(data.validation_list), str(data.test_list))
    wanted = {split: own or usual for split, own, usual in zip(SPLITS, named, official, strict=True)}
    unnamed = [split for split in ("train", "test") if not wanted[split]]
    if unnamed:
        raise DataError(
            f"data.source='image_list' has no {' and no '.join(unnamed)} list: data.name={data.name!r} is not one of "
            f"{', '.join(OFFICIAL)}, whose lists have official names. "
            f"Fix: {' '.join(f'--config.data.{split}_list=FILE' for split in unnamed)}"
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
            f"data.root: found {data.root!r}, expected a folder, which image lists need. Fix: mount it "
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
        holds = ", ".join(sorted(path.name for path in root.iterdir())[:_SHOWN]) or "nothing"
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


def _read(path: pathlib.Path, offenders: _Offenders) -> Listed:
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(f"{path} can't be read ({error})") from error
    paths, labels, numbers = [], [], []
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError as error:
            offenders.add("lines that are not UTF-8", path, number, f"byte {error.start} of {raw[:80]!r}")
            continue
        if not line:
            continue
        name, _, word = line.replace("\t", " ").rpartition(" ")
        name = name.rstrip()
        if not name or not (
            word.isascii() and word.isdecimal() and len(word) <= _LABEL_DIGITS and int(word) < _MAX_LABEL
        ):
            offenders.add(
                "lines that are not `path label`",
                path,
                number,
                f"{line[:200]!r}, expected a path and a label of 0 or more",
            )
            continue
        if "//" in name or "./" in name:
            name = posixpath.normpath(name)
        if name.startswith(("/", "../")) or name == "..":
            offenders.add("paths that leave data.root", path, number, f"{name!r}, expected a path under data.root")
        paths.append(name)
        labels.append(int(word))
        numbers.append(number)
    if not paths and not offenders:
        raise DataError(f"{path} has no `path label` line")
    return Listed(path, paths, np.array(labels, np.int64), np.array(numbers, np.int64))


def _find_repeated(lists: Sequence[Listed], offenders: _Offenders) -> None:
    """Find images that appear twice in one list, or in more than one list."""
    seen: dict[str, tuple[Listed, int]] = {}
    for listed in lists:
        for path, line in zip(listed.paths, listed.lines_N.tolist(), strict=True):
            first = seen.setdefault(path, (listed, line))
            if first[0] is listed and first[1] != line:
                offenders.add("images listed twice", listed, line, f"{path}, first in line {first[1]}")
            elif first[0] is not listed:
                where = f"{first[0].source.name} line {first[1]}"
                offenders.add("images in more than one list", listed, line, f"{path} is also in {where}")


def _find_missing(root: str, lists: Sequence[Listed], offenders: _Offenders) -> None:
    """Find listed images that are missing. Listing each folder once is far quicker than checking every file."""
    folders = list({posixpath.dirname(path) for listed in lists for path in listed.paths})

    def names(folder: str) -> set[str]:
        try:
            return set(os.listdir(os.path.join(root, folder)))
        except OSError:
            return set()

    with ThreadPoolExecutor(_THREADS) as pool:
        there = dict(zip(folders, pool.map(names, folders), strict=True))
    for listed in lists:
        for path, line in zip(listed.paths, listed.lines_N.tolist(), strict=True):
            folder, name = posixpath.split(path)
            if name not in there[folder]:
                offenders.add("images that are not there", listed, line, os.path.join(root, path))
