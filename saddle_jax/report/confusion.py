"""Report section on confusion: by class, by group (head, mid, tail), and of tail classes. Does not need JAX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from saddle_jax import longtail
from saddle_jax.longtail import RANK_GROUPS
from saddle_jax.report import classes, plots, predictions, style, tables
from saddle_jax.report.page import Block, Heading, Picture, Pictures, Table, Text
from saddle_jax.report.provenance import together
from saddle_jax.report.rows import ImageSet
from saddle_jax.report.runs import Run


def section(images: ImageSet) -> Iterator[Block]:
    """Yield confusion matrices at the last epoch, by group and by class, and what tail classes are mistaken for."""
    cells, pictures, missing, mistaken = [], [], [], {}
    for row in images.rows:
        shares, total = [], 0.0
        for run in row.runs:
            parts_CC = read(run)  # one at a time, because thousands of classes take gigabytes
            if parts_CC is None:
                missing.append(run.folder)
                continue
            shares.append(by_group(parts_CC, images.group_sizes))
            total = total + parts_CC
        if not shares:
            continue
        for number, group in enumerate(RANK_GROUPS):
            values = [tables.spread([share[number, column] for share in shares]) for column in range(4)]
            cells.append([row.name, group, *values, tables.seeds(len(shares))])
        mean_CC = np.asarray(total / len(shares))
        mistaken[row.name] = classes.mistaken_for(images, mean_CC)
        percents = by_size(mean_CC, images.counts_C)
        caption = (
            f"{row.name}: confusion matrix at the last epoch, n = {tables.seeds(len(shares))}. Rows add up to 100 %."
        )
        figure = plots.confusion(percents, images.names, images.counts_C, row.name)
        pictures.append(Picture(f"confusion {row.name}", style.render(figure), caption))
    if not cells:
        return
    yield Heading("Confusion between head, mid, and tail", 3)
    wrong = [f"misclassified as {group}" for group in RANK_GROUPS]
    yield Table(["method", "true class", "correct", *wrong, "n"], cells, (0, 1))
    yield Text(
        "Percent of the test images of head, mid, and tail, with equal weight for every class; mean ± sample standard "
        "deviation over n seeds. An image is misclassified as head if the network predicts a wrong class in the head."
    )
    yield Pictures(pictures)
    yield from classes.mistakes(images, mistaken)
    if missing:
        yield Text(f"Left out, because predictions of the last step can't be read: {together(missing)}.", warning=True)


def read(run: Run) -> np.ndarray | None:
    """Return the confusion matrix at the last step, (C, C), or None if the run's predictions can't be read.

    Each row is a true class and sums to 1. The row of a class without a test image is NaN.
    """
    found = predictions.read(run, "last")
    return None if found is None else matrix(*found, len(run.images.counts_C))


def matrix(labels_N: np.ndarray, predictions_N: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix of predictions, like `read`."""
    counts_CC = np.zeros((classes, classes))
    np.add.at(counts_CC, (labels_N, predictions_N), 1)
    totals_C1 = counts_CC.sum(1, keepdims=True)
    return counts_CC / np.where(totals_C1 > 0, totals_C1, np.nan)


def by_group(parts_CC: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
    """Return percentages for each true group, (3, 4): correct, and misclassified as a head, mid, or tail class.

    Every class counts equally, as in the groups' accuracies. The row of a group without a test image is NaN.

    Args:
      parts_CC: the confusion matrix of `read`.
      sizes: number of classes in head, mid, and tail.
    """
    right_C = np.diag(parts_CC)
    ends = np.cumsum([sizes[name] for name in RANK_GROUPS])
    groups = [np.arange(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    wrong_C3 = np.stack([parts_CC[:, called].sum(1) for called in groups], axis=1)
    for column, true in enumerate(groups):
        wrong_C3[true, column] -= right_C[true]
    shares = np.full((3, 4), np.nan)
    for row, true in enumerate(groups):
        present = true[~np.isnan(right_C[true])]
        if present.size:
            shares[row] = [right_C[present].mean(), *wrong_C3[present].mean(0)]
    return 100 * shares


def by_size(parts_CC: np.ndarray, counts_C: Sequence[int], places: int = 200) -> np.ndarray:
    """Return the confusion matrix in percent, with classes sorted from most to fewest training images.

    If there are more classes than places, classes of similar size share a place. Its value is the mean over its true
    classes and the sum over its predicted classes.

    Args:
      parts_CC: the confusion matrix of `read`.
      counts_C: training images per class.
      places: maximum number of rows and columns.
    """
    order = longtail.by_size(np.asarray(counts_C))
    ordered = 100 * parts_CC[np.ix_(order, order)]
    if len(order) <= places:
        return ordered
    bins = [(part[0], part[-1] + 1) for part in np.array_split(np.arange(len(order)), places)]
    called = np.stack([ordered[:, start:end].sum(1) for start, end in bins], axis=1)
    return np.stack([called[start:end].mean(0) for start, end in bins])
