"""Predictions: what they hold, a table for a terminal, and files with the probability of every class."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from saddle_jax.errors import ConfigError
from saddle_jax.host import console
from saddle_jax.host.files import write_atomically

SUFFIXES = (".csv", ".jsonl", ".npz")
_LONGEST_NAME = 40  # of an image in a table
_RUNNERS_UP = 2
_SHOWN = 10  # predictions in a notebook


class Prediction(NamedTuple):
    """The prediction for one image."""

    image: str
    label: str | None  # name of the most probable class; None for an image that can't be read
    probability: float  # NaN for an image that can't be read


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """The predictions for some images, in their order; a sequence of `Prediction`, of which a notebook shows ten.

    Classes are in the order of the run's class names: largest first.
    """

    names: tuple[str, ...]  # of the images
    class_names: tuple[str, ...]
    probabilities_NC: np.ndarray  # float32; NaN for an image that can't be read
    logits_NC: np.ndarray  # float32, likewise
    problems: dict[int, str]  # place of an image that can't be read -> reason

    @property
    def classes(self) -> list[str | None]:
        """Name of the most probable class of each image; None for one that can't be read."""
        return [one.label for one in self]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> Prediction:
        place = range(len(self))[place]
        if place in self.problems:
            return Prediction(self.names[place], None, math.nan)
        best = self.logits_NC[place].argmax()
        return Prediction(self.names[place], self.class_names[best], float(self.probabilities_NC[place, best]))

    def __iter__(self) -> Iterator[Prediction]:
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        more = [f"... and {len(self) - _SHOWN:,} more"] if len(self) > _SHOWN else []
        return "\n".join([console.as_text(table(self, _SHOWN)), *more, *unread(self, _SHOWN)])


def require_known(out: pathlib.Path) -> None:
    """Check that a file of predictions can be written.

    Raises:
      ConfigError: its name does not end as one of SUFFIXES, or its folder does not exist.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out: found {out.name!r}, expected a name that ends in {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: found no folder {out.parent}. Fix: create it, or name another")


def table(found: Predictions, most: int | None = None) -> console.Table:
    """Return a table of each image, its class, and the next most probable ones.

    Args:
      found: the predictions.
      most: number of images to show; None for all.
    """
    rows = []
    for place, name in enumerate(found.names[:most]):
        shown = name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"
        if place in found.problems:
            rows.append([shown, "not read", "", ""])
            continue
        order = np.argsort(-found.probabilities_NC[place], kind="stable")[: 1 + _RUNNERS_UP]
        label, *others = ((found.class_names[c], f"{found.probabilities_NC[place, c]:.2f}") for c in order)
        rows.append([shown, *label, ", ".join(map(" ".join, others))])
    return console.Table(["image", "class", "prob.", "next two"], rows, "wwrw")


def unread(found: Predictions, most: int | None = None) -> Iterator[str]:
    """Yield why an image can't be read, for each of those in the table."""
    for place in range(len(found))[:most]:
        if place in found.problems:
            yield f"{found.names[place]}: not read: {found.problems[place]}"


def write(found: Predictions, out: pathlib.Path) -> None:
    """Write the predictions for all images, with the probability of every class, as .csv, .jsonl, or .npz.

    Raises:
      CheckpointError: the file can't be written.
    """
    text = {".csv": _csv, ".jsonl": _jsonl, ".npz": _npz}[out.suffix.lower()](found)
    write_atomically(out, text)


def _csv(found: Predictions) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", "class", "probability", "problem", *found.class_names])
    for place, (name, label) in enumerate(zip(found.names, found.classes, strict=True)):
        if label is None:
            rows.writerow([name, "", "", found.problems[place], *[""] * len(found.class_names)])
            continue
        shown = [f"{p:.6g}" for p in found.probabilities_NC[place]]
        rows.writerow([name, label, shown[found.class_names.index(label)], "", *shown])
    return text.getvalue()


def _jsonl(found: Predictions) -> str:
    lines = []
    for place, (name, label) in enumerate(zip(found.names, found.classes, strict=True)):
        if label is None:
            lines.append({"image": name, "problem": found.problems[place]})
            continue
        probabilities = dict(zip(found.class_names, map(float, found.probabilities_NC[place]), strict=True))
        lines.append(
            {"image": name, "class": label, "probability": probabilities[label], "probabilities": probabilities}
        )
    return "".join(json.dumps(line) + "\n" for line in lines)


def _npz(found: Predictions) -> bytes:
    content = io.BytesIO()
    np.savez(
        content,
        images=np.array(found.names),
        class_names=np.array(found.class_names),
        classes=np.array([label or "" for label in found.classes]),
        probabilities=found.probabilities_NC,
        logits=found.logits_NC,
        problems=np.array([found.problems.get(place, "") for place in range(len(found.names))]),
    )
    return content.getvalue()
