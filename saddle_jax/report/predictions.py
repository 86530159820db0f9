"""Read what a run predicted for each test image at its last or its best step. Does not need JAX."""

from __future__ import annotations

import pathlib
import zipfile

import numpy as np

from saddle_jax.report.runs import Run


def read(run: Run, which: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return labels and predicted classes of the test images, (N,) each, or None if they can't be read.

    Args:
      run: a run, finished or not.
      which: "last" or "best".
    """
    if not run.finished:
        return None
    return at_step(run.folder, run.results[which]["step"], len(run.images.counts_C))


def at_step(folder: pathlib.Path, step: int, classes: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the same for the evaluation at a step of the run in `folder`, which has `classes` classes."""
    path = folder / "eval" / f"{step}-test-predictions.npz"
    try:
        with np.load(path) as stored:
            labels_N, predictions_N = stored["labels"], stored["predictions"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    sound = labels_N.ndim == 1 and labels_N.shape == predictions_N.shape and labels_N.size > 0
    if not sound or not all(values.dtype.kind in "iu" for values in (labels_N, predictions_N)):
        return None
    inside = all(values.min() >= 0 and values.max() < classes for values in (labels_N, predictions_N))
    return (labels_N, predictions_N) if inside else None
