"""Image files named in lists."""

from __future__ import annotations

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.encoded import ImageFiles
from saddle_jax.data.sources import lists
from saddle_jax.data.sources.base import Images, Source, decoding
from saddle_jax.data.sources.split import split_test


def load(fields: Any, data: ConfigDict) -> Source:
    """Return the images in the config's lists. They stay files until a batch asks for them."""
    del fields
    found = lists.load(data)

    def images(listed: lists.Listed | None) -> Any:
        if listed is None:
            return None
        paths_N = np.array([path.encode() for path in listed.paths])
        return Images(ImageFiles(found.root, paths_N, decoding(data)), listed.labels_N)

    train, test, validation = map(images, (found.train, found.test, found.validation))
    source = Source(train, test, found.names, validation, notes=found.notes, first_label=found.first_label)
    if source.test is not None:
        return source
    return split_test(source._replace(image_names={"train": np.array(found.train.paths)}), data)
