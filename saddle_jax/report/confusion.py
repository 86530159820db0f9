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
    path = run.folder / "eval" / f"{run.results['last']['step']}-test-confusion.npz"
    try:
        with np.load(path) as stored:
            counts_CC = stored["confusion"].astype(float)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if counts_CC.shape != (len(run.images.counts_C),) * 2:
        return None
    totals_C1 = counts_CC.sum(1, keepdims=True)
    return np.divide(counts_CC, totals_C1, out=np.full_like(counts_CC, np.nan), where=totals_C1 > 0)


def by_group(parts_CC: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
    """Return percents of each true group (row): right, and wrongly called a class of head, of mid, of tail.

    Classes weigh alike, as in the groups' accuracies; a group without a test image gives NaN.
    """
    right_C = np.diag(parts_CC)
    wrong_CC = parts_CC - np.diag(right_C)
    ends = np.cumsum([sizes[name] for name in GROUPS])
    groups = [np.arange(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    shares = np.full((3, 4), np.nan)
    for row, true in enumerate(groups):
        present = true[~np.isnan(right_C[true])]
        if present.size:
            wrong = [wrong_CC[np.ix_(present, called)].sum(1).mean() for called in groups]
            shares[row] = [right_C[present].mean(), *wrong]
    return 100 * shares


def mean_over_seeds(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean matrix, in percent."""
    return 100 * np.mean(matrices, axis=0)
