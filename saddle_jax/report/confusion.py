"""Where the images of head, mid and tail go: confusion matrices over seeds, a class and a group. Needs no JAX."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from saddle_jax.report.runs import Run

GROUPS = ("head", "mid", "tail")


def read(run: Run) -> np.ndarray | None:
    """Return the last step's confusion in parts of each true class (row); None where it can't be read."""
    if not run.finished:
        return None
    path = run.folder / "eval" / f"{run.results['last']['step']}-test-predictions.npz"
    counts_CC = np.zeros((len(run.images.counts_C),) * 2)
    try:
        with np.load(path) as stored:
            np.add.at(counts_CC, (stored["labels"], stored["predictions"]), 1)
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return None
    totals_C1 = counts_CC.sum(1, keepdims=True)
    return counts_CC / np.where(totals_C1 > 0, totals_C1, np.nan)


def by_group(parts_CC: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
    """Return percents of each true group (row): right, and wrongly called a class of head, of mid, of tail.

    Classes weigh alike, as in the groups' accuracies; a group without a test image gives NaN.
    """
    right_C = np.diag(parts_CC)
    ends = np.cumsum([sizes[name] for name in GROUPS])
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
    """Return percents with the classes from the most training images to the fewest.

    More classes than places are put together: the mean over true classes, the sum over what they were called.
    """
    order = np.argsort(-np.asarray(counts_C), kind="stable")
    ordered = 100 * parts_CC[np.ix_(order, order)]
    if len(order) <= places:
        return ordered
    bins = [(part[0], part[-1] + 1) for part in np.array_split(np.arange(len(order)), places)]
    called = np.stack([ordered[:, start:end].sum(1) for start, end in bins], axis=1)
    return np.stack([called[start:end].mean(0) for start, end in bins])
