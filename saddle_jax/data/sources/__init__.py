"""Loading of an experiment's images from the source that the config names.

Small sets are in memory and are made long-tailed. Large sets are used as they are, and stay encoded until a batch asks
for them.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from saddle_jax import longtail
from saddle_jax.data.encoded import Encoded
from saddle_jax.data.sources.base import Images, Source, Splits, take
from saddle_jax.errors import ConfigError, DataError
from saddle_jax.experiment.catalogue import group_of, is_dotted, make

__all__ = ["Images", "Source", "Splits", "load"]


def load(config: ConfigDict) -> Splits:
    """Load the images that the config names and choose their long-tailed subset.

    Raises:
      ConfigError: a user-defined source returns something other than images and labels.
      DataError: the set is missing, malformed, too small for the profile, or leaves a class empty.
    """
    data = config.data
    source = make("data.source", data.source, config.get(group_of(data.source)), data)
    if is_dotted(data.source):
        _require_sound(data.source, source)
    train, num_classes = source.train, len(source.names)
    available_C = np.bincount(train.labels, minlength=num_classes)
    counts_C = longtail.profile_counts(data.profile, data.ratio, available_C, data.largest_class)
    if data.profile == "as_is":
        positions = np.arange(len(train.labels))
    else:
        positions = longtail.choose_subset(train.labels, counts_C, data.subset_seed)
    validation = source.validation
    if validation is not None and data.validation_fraction:
        raise DataError("data.validation_fraction: the set has its own validation images. Fix: set it to 0")
    if data.validation_fraction:
        kept, held_out = longtail.split_validation(
            train.labels[positions], num_classes, data.validation_fraction, data.validation_floor, data.subset_seed
        )
        validation = take(train, positions[held_out])
        positions = positions[kept]
        if not len(held_out):
            raise DataError(
                f"data.validation_fraction={data.validation_fraction:g} holds out no images when every class keeps "
                f"validation_floor={data.validation_floor}. Fix: a lower floor or a larger fraction"
            )
    subset = take(train, positions)
    stats = longtail.ClassStats(np.bincount(subset.labels, minlength=num_classes), source.names)
    empty = np.flatnonzero(stats.counts_C == 0)
    if empty.size == num_classes or (empty.size and not data.allow_empty_classes):
        shown = ", ".join(f"{c} ({source.names[c]})" for c in empty[:10])
        raise DataError(
            f"{empty.size} of {num_classes} classes end up with no training images: {shown}"
            f"{', ...' if empty.size > 10 else ''}. Fix: a lower data.ratio, or --config.data.allow_empty_classes=True"
        )
    split_hash = longtail.split_hash(positions, subset.labels)
    content_hash = _content_hash(subset, validation, source.test)
    return Splits(subset, validation, source.test, stats, split_hash, content_hash, source.class_map_C)


def _require_sound(name: str, source: Any) -> None:
    """Check that a user-defined source returns what `base.Source` describes."""
    if not isinstance(source, Source):
        raise ConfigError(
            f"data.source: {name} returns a {type(source).__name__}, expected a saddle_jax.data.sources.Source"
        )
    parts = {"train": source.train, "validation": source.validation, "test": source.test}
    problems = []
    for part, images in parts.items():
        if images is None or isinstance(images.images, Encoded):
            continue
        pixels, labels = images.images, images.labels
        if getattr(pixels, "dtype", None) != np.uint8 or pixels.ndim != 4:
            problems.append(f"data.source: {name}: {part} images are not uint8 (N, height, width, channels)")
        elif labels.dtype != np.int32 or labels.shape != pixels.shape[:1]:
            problems.append(f"data.source: {name}: {part} labels are not int32 ({len(pixels)},)")
        elif len(labels) and not 0 <= labels.min() <= labels.max() < len(source.names):
            problems.append(f"data.source: {name}: {part} labels are not in 0 to {len(source.names) - 1}")
    if problems:
        raise ConfigError(problems)


def _content_hash(*splits: Images | None) -> str:
    digest = hashlib.sha256()
    for array in (array for split in splits if split is not None for array in split):
        if isinstance(array, Encoded):
            digest.update(array.digest())
            continue
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
