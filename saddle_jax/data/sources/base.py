"""Types and helpers that all sources of images share.

Shapes: N images, H x W pixels, K channels; images are uint8, labels int32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from saddle_jax import longtail
from saddle_jax.data.encoded import Decoding, Encoded
from saddle_jax.data.sources import class_map


class Images(NamedTuple):
    """Images and their labels."""

    images: Any  # (N, H, W, K) uint8 array, or Encoded
    labels: np.ndarray  # (N,) int32


class Splits(NamedTuple):
    """A long-tailed experiment's images."""

    train: Images
    validation: Images | None  # held out from the training images, or the set's own; None without any
    test: Images
    stats: longtail.ClassStats  # of `train`
    split_hash: str  # identifies the choice of training images
    content_hash: str  # identifies all labels and pixels of all splits (for encoded images, names, not pixels)
    class_map_C: np.ndarray | None = None  # original label of each class; None if unchanged


class Source(NamedTuple):
    """All the images of a source, before the long-tailed subset is chosen."""

    train: Images
    test: Images
    names: tuple[str, ...]  # of the classes, in label order
    validation: Images | None = None  # the set's own images for choosing the best epoch
    class_map_C: np.ndarray | None = None  # original label of each class, if renumbered


def take(images: Images, positions: np.ndarray) -> Images:
    """Return the images at these positions."""
    return Images(images.images[positions], images.labels[positions])


def plain_images(images: np.ndarray, labels: np.ndarray) -> Images:
    """Return images with a channel axis, which grayscale ones (N, H, W) may lack, and int32 labels."""
    return Images(images if images.ndim == 4 else images[..., None], labels.astype(np.int32))


def decoding(data: ConfigDict) -> Decoding:
    """Return how the config's encoded images are decoded."""
    return Decoding(data.image_size, data.eval_resize, data.max_bad_fraction)


def by_size(
    train: tuple[Encoded, np.ndarray],
    validation: tuple[Encoded, np.ndarray] | None,
    test: tuple[Encoded, np.ndarray],
    names: tuple[str, ...],
) -> Source:
    """Return a set with its classes renumbered from largest to smallest."""
    class_map_C = class_map.by_size(train[1], len(names))

    def renumbered(part: tuple[Encoded, np.ndarray]) -> Images:
        return Images(part[0], class_map.renumber(part[1], class_map_C))

    held_out = None if validation is None else renumbered(validation)
    new_names = tuple(names[label] for label in class_map_C)
    return Source(renumbered(train), renumbered(test), new_names, held_out, class_map_C)
