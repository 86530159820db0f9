"""Parts of the report on single classes: accuracies, and what tail classes are mistaken for. Does not need JAX."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from saddle_jax import longtail
from saddle_jax.report.page import Block, Table, Text
from saddle_jax.report.rows import ImageSet

_MOST_OPEN = 20  # classes up to which a table is open
_MISTAKES = 3  # of a class
_HEADING = 26  # letters in a line


def accuracies(images: ImageSet) -> Iterator[Block]:
    """Yield a table of all classes, largest first: training images, and each method's accuracy at the last epoch."""
    methods = [row for row in images.rows if row.runs]
    means = [_means([run.results["last"]["class_accuracy"] for run in row.runs]) for row in methods]
    lines = [
        [images.names[label], f"{images.counts_C[label]:,}", *(_percent(mean_C[label]) for mean_C in means)]
        for label in longtail.by_size(np.asarray(images.counts_C))
    ]
    header = ["class", "training images", *(_heading(row.name) for row in methods)]
    yield Table(header, lines, folded=_folded(len(lines), "Accuracy of each of the {} classes"))
    yield Text(
        "Test accuracy of single classes in percent at the last epoch, mean over seeds, largest class first. "
        "classes.csv adds the best epoch and the deviations."
    )


def mistakes(images: ImageSet, methods: Mapping[str, Sequence[str]]) -> Iterator[Block]:
    """Yield a table of the classes that each tail class is most often mistaken for.

    Args:
      images: the rows.
      methods: maps a method to what `mistaken_for` returns.
    """
    tail = images.groups["tail"]
    if not len(tail):
        return
    lines = [
        [images.names[label], f"{images.counts_C[label]:,}", *cells]
        for label, *cells in zip(tail, *methods.values(), strict=True)
    ]
    header = ["tail class", "training images", *map(_heading, methods)]
    folded = _folded(len(lines), "Most frequent wrong predictions for each of the {} tail classes")
    yield Table(header, lines, (0, *range(2, len(header))), folded)
    yield Text(
        "The most frequent wrong predictions for each tail class at the last epoch, in percent of the class's test "
        "images; mean over seeds."
    )


def mistaken_for(images: ImageSet, parts_CC: np.ndarray) -> list[str]:
    """Return the most frequent wrong predictions for each tail class, as text.

    Args:
      images: the rows.
      parts_CC: confusion matrix, whose rows sum to 1, or are NaN for a class without a test image.
    """
    return [_mistakes(label, parts_CC[label], images.names) for label in images.groups["tail"]]


def _mistakes(label: int, parts_C: np.ndarray, names: Sequence[str]) -> str:
    if np.isnan(parts_C[label]):
        return "n/a"
    wrong_C = np.where(np.arange(len(names)) == label, 0, parts_C)
    most = [called for called in np.argsort(-wrong_C, kind="stable")[:_MISTAKES] if wrong_C[called] > 0]
    return ",\n".join(f"{names[called]} {100 * wrong_C[called]:.1f}" for called in most) or "none"


def _means(seeds: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Return the mean accuracy of each class; NaN for one without a test image."""
    return np.array(seeds, float).mean(0)  # None becomes NaN


def _percent(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.1f}"


def _heading(method: str) -> str:
    """Return a method's name in lines, because its column is narrow."""
    return textwrap.fill(method, _HEADING)


def _folded(number: int, text: str) -> str:
    return text.format(f"{number:,}") if number > _MOST_OPEN else ""
