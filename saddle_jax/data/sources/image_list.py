"""Image files named in lists."""

from __future__ import annotations

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.encoded import ImageFiles
from saddle_jax.data.sources import lists
from saddle_jax.data.sources.base import Images, Source, decoding


def load(fields: Any, data: ConfigDict) -> Source:
    """Return the images in the config's lists. They stay files until a batch asks for them."""
    del fields
    found = lists.load(data)

    def images(listed: lists.Listed) -> Images:
        paths_N = np.array([path.encode() for path in listed.paths])
        return Images(ImageFiles(found.root, paths_N, decoding(data)), listed.labels_N)

    names = lists.class_names(found.train, found.num_classes)
    validation = None if found.validation is None else images(found.validation)
    return Source(images(found.train), images(found.test), names, validation)
