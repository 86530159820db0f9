"""A list of image files as people write it: `path label` lines, or a table.

    cats/001.jpg 0            path,label,split
    big lynx/001.jpg 1        cats/001.jpg,cat,train

In a `path label` line the label is the last word, so a path may contain spaces. A table has commas, semicolons, or
tabs. Its first line may name the columns; without it there are two of them, path and label. A label is a number or the
name of a class. Windows line endings, a byte order mark, trailing spaces, and empty lines are accepted.

Images to classify need no labels: lines may be paths alone, and a table without names of columns may have any number of
them, paths first.
"""

from __future__ import annotations

import codecs
import csv
import os
import pathlib
import posixpath
from collections import defaultdict
from typing import NamedTuple

from saddle_jax.data import formats
from saddle_jax.data.sources.base import SPLIT_WORDS
from saddle_jax.errors import DataError, first_lines

SHOWN = 10
# Names of columns. Where there are several for labels, the first of these counts: names tell more than numbers.
_PATH = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path")
_LABEL = ("class_name", "classname", "label_name", "class", "category", "label", "target")
_SPLIT = ("split", "subset", "partition", "set")
_DELIMITERS = ",;\t"
_DIGITS = 18  # of a number, including leading zeros; Python refuses to parse thousands of them


class Offenders:
    """Problems by kind. Each kind shows its first few and its total."""

    def __init__(self):
        self._kinds: dict[str, list[str]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def add(self, kind: str, source: pathlib.Path, line: int, what: str) -> None:
        """Add one problem, in a line of a list."""
        self._kinds[kind].append(f"{source.name} line {line}: {what}")

    def error(self, lists: str) -> DataError:
        """Return the error that reports all problems of `lists`, such as "the image list a.txt"."""
        lines = []
        for kind, found in self._kinds.items():
            lines += [f"{kind}: {len(found):,}", *first_lines(found, SHOWN)]
        return DataError("\n".join([f"{lists} can't be used", *lines]))


class Rows(NamedTuple):
    """The images of a list."""

    source: pathlib.Path
    paths: list[str]
    labels: list[str]  # as written: numbers or class names
    lines: list[int]  # line numbers, from 1
    splits: list[str] | None = None  # split of each image, if the list has a column of them


class _Form(NamedTuple):
    """How the lines of a list are read."""

    delimiter: str = ""  # "" is for `path label` lines
    path: int = 0  # columns
    label: int | None = 1  # None: there are no labels
    split: int | None = None
    has_header: bool = False
    labeled: bool = True  # every line needs a label

    @property
    def expected(self) -> str:
        """What a line should hold."""
        if not self.labeled:
            return "a path"
        if self.has_header and self.delimiter:
            return "a path and a label, as the first line says"
        what = f"`path{self.delimiter}label`" if self.delimiter else "a path and a label"
        return what.replace("\t", "<tab>")


def is_number(label: str) -> bool:
    """Return whether a label is a whole number of 0 or more."""
    return label.isascii() and label.isdecimal() and len(label) <= _DIGITS


def read(source: pathlib.Path, offenders: Offenders, *, labeled: bool = True) -> Rows:
    """Read a list. Lines that can't be read become offenders.

    Args:
      source: the list.
      offenders: where they go.
      labeled: every image needs a label. Otherwise labels may be missing, and splits are not looked at.

    Raises:
      DataError: the file can't be read, or has no lines.
    """
    try:
        content = source.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(f"{source} can't be read ({error})") from error
    wanted = "a path and a label" if labeled else "a path"
    form: _Form | None = None
    found = Rows(source, [], [], [], [])
    sound = True
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError as error:
            offenders.add("lines that are not UTF-8", source, number, f"byte {error.start} of {raw[:80]!r}")
            sound = False
            continue
        if not line:
            continue
        if form is None:
            form = _form_of(line, source) if labeled else _unlabeled_form(line, source)
            if form.has_header:
                continue
        path, label, split = _parts(line, form)
        if not path or (labeled and not label):
            what = f"{line[:200]!r}, expected {form.expected}"
            offenders.add(f"lines without {wanted}", source, number, what)
            sound = False
            continue
        if form.split is not None and split.lower() not in SPLIT_WORDS:
            what = f"{split!r}, expected train, validation, or test"
            offenders.add("splits that are not known", source, number, what)
        found.paths.append(path)
        found.labels.append(label)
        found.lines.append(number)
        found.splits.append(SPLIT_WORDS.get(split.lower(), ""))
    if sound and not found.paths:
        example = "cats/001.jpg 0" if labeled else "cats/001.jpg"
        raise DataError(f"{source} has no line with {wanted}. Fix: one line per image, e.g. {example}")
    return found if form and form.split is not None else found._replace(splits=None)


def _parts(line: str, form: _Form) -> tuple[str, str, str]:
    """Return a line's path, label, and split; "" for what it lacks."""
    if not form.delimiter:
        path, _, label = line.replace("\t", " ").rpartition(" ")
        is_image = posixpath.splitext(label)[1].lower() in formats.SUFFIXES  # the end of a path without a label
        if not form.labeled and (form.label is None or is_image or not path):
            cells = _cells(line, _DELIMITERS[0])  # of a table with a single column, a path with commas has quotes
            return cells[0] if len(cells) == 1 else line, "", ""
        return path.rstrip(), "" if is_image else label, ""
    cells = _cells(line, form.delimiter)
    if form.labeled and not form.has_header and len(cells) != 2:
        return "", "", ""
    path, label, split = (
        "" if column is None or column >= len(cells) else cells[column]
        for column in (form.path, form.label, form.split)
    )
    return path, label, split


def _form_of(line: str, source: pathlib.Path) -> _Form:
    """Return the form of a list from its first line.

    Raises:
      DataError: it is a table whose columns can't be identified.
    """
    for delimiter in _DELIMITERS:
        path, label, split = (_column(line, delimiter, known) for known in (_PATH, _LABEL, _SPLIT))
        if path is not None and label is not None:
            return _Form(delimiter, path, label, split, has_header=True)
    words = line.lower().split()
    if len(words) == 2 and words[0] in _PATH and words[1] in _LABEL:
        return _Form(has_header=True)
    for delimiter in _DELIMITERS:
        cells = _cells(line, delimiter)
        if len(cells) == 2 and cells[0].lower().endswith(formats.SUFFIXES):
            return _Form(delimiter)
    path, label, _ = _parts(line, _Form())
    if is_number(label) and not path.endswith(tuple(_DELIMITERS)):
        return _Form()
    delimiter = max(_DELIMITERS, key=line.count)
    cells = _cells(line, delimiter)
    if len(cells) < 2:
        return _Form()
    if len(cells) == 2 and ("/" in cells[0] or "." in cells[0]):
        return _Form(delimiter)
    raise DataError(
        f"{source}: found {line[:200]!r} in its first line, expected the names of its columns: path, label, and "
        f"optionally split. Fix: a first line such as {delimiter.join(('path', 'label', 'split'))!r}"
    )


def _unlabeled_form(line: str, source: pathlib.Path) -> _Form:
    """Return the form of a list in which labels may be missing, from its first line.

    Raises:
      DataError: it is a table whose columns can't be identified.
    """
    for delimiter in _DELIMITERS:
        if (path := _column(line, delimiter, (*_PATH, "name"))) is not None:
            is_table = len(_cells(line, delimiter)) > 1
            return _Form(delimiter if is_table else "", path, None, has_header=True, labeled=False)
    if os.path.isfile(source.parent / line):
        return _Form(label=None, labeled=False)
    for delimiter in _DELIMITERS:
        cells = _cells(line, delimiter)
        if len(cells) > 1 and cells[0].lower().endswith(formats.SUFFIXES):
            return _Form(delimiter, label=None, labeled=False)
    return _form_of(line, source)._replace(labeled=False)


def _column(line: str, delimiter: str, known: tuple[str, ...]) -> int | None:
    """Return which column of a table's first line has one of these names; of several, the first of the names counts."""
    names = [cell.lower().replace(" ", "_") for cell in _cells(line, delimiter)]
    return next((names.index(name) for name in known if name in names), None)


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]
    except csv.Error:
        return []
