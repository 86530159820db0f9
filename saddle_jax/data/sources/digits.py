"""scikit-learn's handwritten digits."""

from __future__ import annotations

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.sources.base import Images, Source, take

_DIGITS_TEST_PER_CLASS = 60


def load(fields: Any, data: ConfigDict) -> Source:
    """Return the digits. 60 images of each class, drawn by data.subset_seed, are the test set."""
    del fields
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    generator = np.random.default_rng([data.subset_seed, 0])
    test = np.concatenate(
        [generator.permutation(np.flatnonzero(labels == c))[:_DIGITS_TEST_PER_CLASS] for c in range(10)]
    )
    everything = Images(images, labels)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    names = tuple(str(c) for c in range(10))
    return Source(take(everything, rest), take(everything, test), names, balanced=True)
