"""Test images for a set that has none: a part of every class, chosen by the seed and the images' names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.sources.base import Source, take
from saddle_jax.errors import DataError


def split_test(source: Source, data: ConfigDict) -> Source:
    """Return the source with test images; if it has none, with `data.test_fraction` of every class's training images.

    A class of two or more images gives at least one and keeps at least one; a class of one image gives none. The choice
    depends on the seed and on each image's name, or else its position. So it is the same on every machine, and no image
    moves when another one is added.

    Raises:
      DataError: no class has two images.
    """
    if source.test is not None:
        return source
    labels_N = source.train.labels
    names = source.image_names.get("train", np.arange(len(labels_N)))
    is_test_N = choose(labels_N, names, data.test_fraction, data.subset_seed)
    if not is_test_N.any():
        raise DataError(
            "the set has no test images, and no class has two images of which one could become a test image. "
            "Fix: add images"
        )
    train, test = np.flatnonzero(~is_test_N), np.flatnonzero(is_test_N)
    image_names = {"train": names[train], "test": names[test]} if source.image_names else {}
    alone = [source.names[label] for label in np.setdiff1d(np.arange(len(source.names)), labels_N[test])]
    some = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
    lonely = f"; classes with a single image have no test image: {len(alone)} ({some})" if alone else ""
    note = (
        f"the set has no test images of its own: {len(test):,} of {len(labels_N):,} images became test images, about "
        f"{data.test_fraction:.0%} of every class (data.test_fraction, data.subset_seed){lonely}"
    )
    return source._replace(
        train=take(source.train, train),
        test=take(source.train, test),
        notes=(*source.notes, note),
        image_names={**source.image_names, **image_names},
    )


def choose(labels_N: np.ndarray, names: Sequence[object], fraction: float, seed: int) -> np.ndarray:
    """Return which images become test images, (N,) bool."""
    digests = [hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in names]
    chosen_N = np.zeros(len(labels_N), bool)
    for label in np.unique(labels_N):
        positions = sorted(np.flatnonzero(labels_N == label).tolist(), key=digests.__getitem__)
        count = min(max(1, int(fraction * len(positions) + 0.5)), len(positions) - 1)
        chosen_N[positions[:count]] = True
    return chosen_N
