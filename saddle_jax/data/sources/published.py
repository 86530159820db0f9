"""The published class sizes of the large sets."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from saddle_jax.errors import DataError

_SHOWN = 10


def published_counts(name: str) -> np.ndarray | None:
    """Return the number of training images per original label of a published set, or None for any other set."""
    counts = json.loads((pathlib.Path(__file__).parent / "published_counts.json").read_bytes()).get(name)
    return None if counts is None else np.array(counts)


def require_published(name: str, found: str, labels_N: np.ndarray) -> None:
    """Check that training labels are those of the published set `name`. Any other name passes.

    Args:
      found: where the labels were read, for the message.

    Raises:
      DataError: class sizes differ.
    """
    expected_C = published_counts(name)
    if expected_C is None:
        return
    size = max(len(expected_C), int(labels_N.max(initial=-1)) + 1)
    counts_C = np.bincount(labels_N, minlength=size)
    expected_C = np.pad(expected_C, (0, size - len(expected_C)))
    differing = np.flatnonzero(counts_C != expected_C)
    if not differing.size:
        return
    lines = [f"  - label {c}: found {counts_C[c]:,} images, published {expected_C[c]:,}" for c in differing[:_SHOWN]]
    more = [f"  ... and {differing.size - _SHOWN:,} more"] if differing.size > _SHOWN else []
    raise DataError(
        "\n".join(
            [
                f"{found} is not the published training set of {name}: {len(labels_N):,} images, expected "
                f"{expected_C.sum():,}; {differing.size:,} of {size:,} classes differ in size",
                *lines,
                *more,
                "Fix: use the official list, or --config.data.name=NAME with another name for your own list",
            ]
        )
    )
