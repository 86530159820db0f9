"""Sets from tensorflow-datasets."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from saddle_jax.data.sources.base import Images, Source, decoding, plain_images
from saddle_jax.experiment.catalogue import images_stay_encoded


def load(fields: Any, data: ConfigDict) -> Source:
    """Return the set that data.name names: in memory, or encoded if the augmentation asks for that."""
    del fields
    if images_stay_encoded(data.source, data.augmentation, data.eval_resize):
        return _load_records(data)
    from saddle_jax.data.sources import tfds_arrays

    train, test, names = tfds_arrays.load(data)
    return Source(plain_images(*train), plain_images(*test), names)


def _load_records(data: ConfigDict) -> Source:
    from saddle_jax.data.sources import tfds_records

    found = tfds_records.load(data, decoding(data))
    train, test = Images(*found.train), Images(*found.test)
    return Source(train, test, found.names, None if found.validation is None else Images(*found.validation))
