"""Types and helpers that all sources of images share.

Shapes: N images, H x W pixels, K channels; images are uint8, labels int32.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from saddle_jax import longtail
from saddle_jax.data.encoded import Decoding, Encoded

SPLIT_WORDS = {  # as people call the splits, in the names of folders and in tables
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class Images(NamedTuple):
    """Images and their labels."""

    images: Any  # (N, H, W, K) uint8 array, or Encoded
    labels: np.ndarray  # (N,) int32


class Splits(NamedTuple):
    """A long-tailed experiment's images. A class's index is its rank by training images: 0 is the largest."""

    train: Images
    validation: Images | None  # held out from the training images, or the set's own; None without any
    test: Images
    stats: longtail.ClassStats  # of `train`
    split_hash: str  # identifies the choice of training images
    content_hash: str  # identifies all labels and pixels of all splits (for encoded images, names, not pixels)
    available: int = 0  # training images of the source, before some were chosen and held out
    notes: tuple[str, ...] = ()  # what the user should know about how the images were read
    names: Mapping[str, np.ndarray] = MappingProxyType({})  # split -> names of its images, if they have any

    def name_of(self, split: str, position: int) -> str:
        """Return a name by which a person can find an image of a split."""
        if split in self.names:
            return str(self.names[split][position])
        images = getattr(self, split).images
        return images.name(position) if isinstance(images, Encoded) else f"{split} image {position}"


class Source(NamedTuple):
    """All the images of a source, as its user numbers the classes, before the long-tailed subset is chosen."""

    train: Images
    test: Images | None  # None if the source has none of its own (`split.split_test` chooses some)
    names: tuple[str, ...]  # of the classes, in label order
    validation: Images | None = None  # the set's own images for choosing the best epoch
    balanced: bool = False  # its classes differ in size only by chance: a long-tailed subset keeps their order
    notes: tuple[str, ...] = ()  # what the user should know about how the images were read
    image_names: Mapping[str, np.ndarray] = MappingProxyType({})  # split -> names of its images, if they have any
    first_label: int = 0  # the number of the first class as the user counts them, 0 or 1; `Images` count from 0


def take(images: Images, positions: np.ndarray) -> Images:
    """Return the images at these positions."""
    return Images(images.images[positions], images.labels[positions])


def plain_images(images: np.ndarray, labels: np.ndarray) -> Images:
    """Return images with a channel axis, which grayscale ones (N, H, W) may lack, and int32 labels."""
    return Images(images if images.ndim == 4 else images[..., None], labels.astype(np.int32))


def decoding(data: ConfigDict) -> Decoding:
    """Return how the config's encoded images are decoded."""
    return Decoding(data.image_size, data.eval_resize, data.max_bad_fraction, data.exif_orientation)


def renumbered(images: Images | None, order_C: np.ndarray) -> Images | None:
    """Return images whose class `order_C[k]` has become class k."""
    if images is None:
        return None
    new_C = np.empty(len(order_C), np.int32)
    new_C[order_C] = np.arange(len(order_C), dtype=np.int32)
    return Images(images.images, new_C[images.labels])
