"""Loading of an experiment's images from the source that the config names.

Small sets are in memory and are made long-tailed. Large sets are used as they are, and stay encoded until a batch asks
for them. Whatever the source and its labels, classes are numbered by rank here: class 0 has the most training images.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from saddle_jax import longtail
from saddle_jax.data.encoded import Encoded
from saddle_jax.data.sources import outlines
from saddle_jax.data.sources.base import Images, Source, Splits, renumbered, take
from saddle_jax.errors import ConfigError, DataError
from saddle_jax.experiment.catalogue import group_of, is_dotted, make

__all__ = ["Images", "Source", "Splits", "load", "outline"]


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
    return _long_tailed(source, data)


def outline(config: ConfigDict) -> Splits:
    """Return what `load` returns, but with blank images in place of those of a published set, which are not read.

    Raises:
      Any error of `load`.
    """
    source = outlines.of(config.data)
    return load(config) if source is None else _long_tailed(source, config.data)


def _long_tailed(source: Source, data: ConfigDict) -> Splits:
    """Return the splits of an experiment on a source's images."""
    if source.validation is not None and data.validation_fraction:
        raise DataError("data.validation_fraction: the set has its own validation images. Fix: set it to 0")
    num_classes = len(source.names)
    sizes_C = np.bincount(source.train.labels, minlength=num_classes)
    # The profile falls along the classes of the source by size, or as they come if the sizes differ only by chance.
    order_C = np.arange(num_classes) if source.balanced else longtail.by_size(sizes_C)
    chosen = _choose(data, renumbered(source.train, order_C), sizes_C[order_C])
    by_rank_C = longtail.by_size(np.bincount(chosen.train.labels, minlength=num_classes))
    train, validation = renumbered(chosen.train, by_rank_C), renumbered(chosen.validation, by_rank_C)
    order_C = order_C[by_rank_C]
    if source.validation is not None:
        validation = renumbered(source.validation, order_C)
    test = renumbered(source.test, order_C)
    stats = longtail.ClassStats(
        np.bincount(train.labels, minlength=num_classes),
        tuple(source.names[label] for label in order_C),
        tuple((order_C + source.first_label).tolist()),
    )
    _require_images(data, stats)
    return Splits(
        train,
        validation,
        test,
        stats,
        longtail.split_hash(chosen.positions, train.labels),
        _content_hash(train, validation, test),
        len(source.train.labels),
        source.notes,
        _names(source, chosen),
    )


class _Chosen(NamedTuple):
    """The training images that a run uses, and those that it holds out of them."""

    train: Images
    validation: Images | None
    positions: np.ndarray  # of the training images, in the source
    held_out: np.ndarray  # of the validation images, in the source


def _choose(data: ConfigDict, train: Images, sizes_C: np.ndarray) -> _Chosen:
    """Choose the long-tailed subset, whose sizes fall along the classes, and hold out its validation images."""
    positions, held_out = np.arange(len(train.labels)), np.arange(0)
    if data.profile != "as_is":
        counts_C = longtail.profile_counts(data.profile, data.ratio, sizes_C, data.largest_class)
        positions = longtail.choose_subset(train.labels, counts_C, data.subset_seed)
    if data.validation_fraction:
        kept, out = longtail.split_validation(
            train.labels[positions], len(sizes_C), data.validation_fraction, data.validation_floor, data.subset_seed
        )
        positions, held_out = positions[kept], positions[out]
        if not len(held_out):
            raise DataError(
                f"data.validation_fraction={data.validation_fraction:g} holds out no images when every class keeps "
                f"validation_floor={data.validation_floor}. Fix: a lower floor or a larger fraction"
            )
    validation = take(train, held_out) if len(held_out) else None
    return _Chosen(take(train, positions), validation, positions, held_out)


def _names(source: Source, chosen: _Chosen) -> dict[str, np.ndarray]:
    """Return the names of the images of every split, if the source knows them."""
    names = dict(source.image_names)
    if "train" in names:
        if chosen.validation is not None:
            names["validation"] = names["train"][chosen.held_out]
        names["train"] = names["train"][chosen.positions]
    return names


def _require_images(data: ConfigDict, stats: longtail.ClassStats) -> None:
    """Check that every class has training images, unless the config allows empty classes."""
    empty = np.flatnonzero(stats.counts_C == 0)
    if not empty.size or (data.allow_empty_classes and empty.size < stats.num_classes):
        return
    names = sorted((int(stats.labels_C[c]), stats.names[c]) for c in empty)
    shown = ", ".join(name if name == str(label) else f"{label} ({name})" for label, name in names[:10])
    fix = (
        "remove these classes, or number the classes without gaps" if data.profile == "as_is" else "a lower data.ratio"
    )
    raise DataError(
        f"{empty.size} of {stats.num_classes} classes end up with no training images: {shown}"
        f"{', ...' if empty.size > 10 else ''}. Fix: {fix}; or --config.data.allow_empty_classes=True"
    )


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
