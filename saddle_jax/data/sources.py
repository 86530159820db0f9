"""From the name of a data set to its images: digits, arrays, image lists, tensorflow-datasets.

Small sets are in memory and are made long-tailed; large ones are as they are, and stay encoded until a batch asks.
Shapes: N images, H x W pixels, K channels; images are uint8, labels int32.
"""

from __future__ import annotations

import hashlib
import pathlib
import zipfile
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from saddle_jax import longtail
from saddle_jax.data import class_map, image_list
from saddle_jax.data.encoded import Decoding, Encoded, ImageFiles
from saddle_jax.errors import DataError
from saddle_jax.experiment.field_values import images_stay_encoded

_DIGITS_TEST_PER_CLASS = 60
_MAX_CLASSES = 1_000_000
_ARRAY_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


class Images(NamedTuple):
    """Images and their labels."""

    images: Any  # (N, H, W, K) uint8 array, or Encoded
    labels: np.ndarray  # (N,) int32


class Splits(NamedTuple):
    """A long-tailed experiment's images."""

    train: Images
    validation: Images | None  # held out from the training images, or the set's own; None if there are none
    test: Images
    stats: longtail.ClassStats  # of `train`
    split_hash: str  # names the choice of training images
    content_hash: str  # names every label and every pixel of all splits; of encoded images their names, not pixels
    class_map_C: np.ndarray | None = None  # original label of each class; None where they are the same


class _Source(NamedTuple):
    train: Images
    test: Images
    names: tuple[str, ...]
    validation: Images | None = None
    class_map_C: np.ndarray | None = None


def load(data: ConfigDict) -> Splits:
    """Load the set that `data` (the config's data fields) names and choose its long-tailed subset.

    Raises:
      DataError: the set is missing, malformed, too small for the profile, or leaves a class empty.
    """
    loaders = {"digits": _load_digits, "arrays": _load_arrays, "image_list": _load_image_list, "tfds": _load_tfds}
    source = loaders[data.source](data)
    train, num_classes = source.train, len(source.names)
    available_C = np.bincount(train.labels, minlength=num_classes)
    counts_C = longtail.profile_counts(data.profile, data.ratio, available_C, data.largest_class)
    if data.profile == "as_is":
        positions = np.arange(len(train.labels))
    else:
        positions = longtail.choose_subset(train.labels, counts_C, data.subset_seed)
    validation = source.validation
    if validation is not None and data.validation_fraction:
        raise DataError("data.validation_fraction: the set has validation images of its own. Fix: 0")
    if data.validation_fraction:
        kept, held_out = longtail.split_validation(
            train.labels[positions], num_classes, data.validation_fraction, data.validation_floor, data.subset_seed
        )
        validation = _take(train, positions[held_out])
        positions = positions[kept]
        if not len(held_out):
            raise DataError(
                f"data.validation_fraction={data.validation_fraction:g} holds out no image: no class has more than "
                f"validation_floor={data.validation_floor} to give. Fix: a lower floor or a larger fraction"
            )
    subset = _take(train, positions)
    stats = longtail.ClassStats(np.bincount(subset.labels, minlength=num_classes), source.names)
    empty = np.flatnonzero(stats.counts_C == 0)
    if empty.size == num_classes or (empty.size and not data.allow_empty_classes):
        shown = ", ".join(f"{c} ({source.names[c]})" for c in empty[:10])
        raise DataError(
            f"{empty.size} of {num_classes} classes end with no training image: {shown}"
            f"{', ...' if empty.size > 10 else ''}. Fix: a lower data.ratio, or --config.data.allow_empty_classes=True"
        )
    split_hash = longtail.split_hash(positions, subset.labels)
    content_hash = _content_hash(subset, validation, source.test)
    return Splits(subset, validation, source.test, stats, split_hash, content_hash, source.class_map_C)


def _content_hash(*splits: Images | None) -> str:
    digest = hashlib.sha256()
    for array in (array for split in splits if split is not None for array in split):
        if isinstance(array, Encoded):
            digest.update(array.digest())
            continue
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _take(images: Images, positions: np.ndarray) -> Images:
    return Images(images.images[positions], images.labels[positions])


def _load_digits(data: ConfigDict) -> _Source:
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
    return _Source(_take(everything, rest), _take(everything, test), tuple(str(c) for c in range(10)))


def _load_arrays(data: ConfigDict) -> _Source:
    wanted = ", ".join(_ARRAY_KEYS)
    try:
        path = pathlib.Path(data.path).expanduser()
        if not path.is_file():
            raise DataError(f"data.path: found no file {data.path!r}, expected an .npz with {wanted}")
        with path.open("rb") as file:
            store = np.load(file, allow_pickle=False)
            if not isinstance(store, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: found a single array, expected an .npz with {wanted}")
            missing = [key for key in _ARRAY_KEYS if key not in store]
            if missing:
                raise DataError(f"{path}: lacks {', '.join(missing)} (has {', '.join(store.files)})")
            train_images, train_labels, test_images, test_labels = (store[key] for key in _ARRAY_KEYS)
            names = tuple(str(name) for name in store["class_names"].ravel()) if "class_names" in store else None
    except (ValueError, OSError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"data.path: {data.path!r} can't be read as an .npz of plain arrays ({error})") from error
    problems = [
        *_array_problems("train", train_images, train_labels),
        *_array_problems("test", test_images, test_labels),
    ]
    if not problems and train_images.shape[1:] != test_images.shape[1:]:
        problems.append(f"train images are {train_images.shape[1:]}, test images {test_images.shape[1:]}")
    if not problems:
        num_classes = int(max(train_labels.max(), test_labels.max())) + 1
        names = names or tuple(str(c) for c in range(num_classes))
        if num_classes > len(names):
            problems.append(f"labels go up to {num_classes - 1}, but there are {len(names)} class_names")
    if problems:
        raise DataError("\n".join([f"{path} ({len(problems)} problems)", *(f"  - {p}" for p in problems)]))
    return _Source(_images(train_images, train_labels), _images(test_images, test_labels), names or ())


def _array_problems(split: str, images: np.ndarray, labels: np.ndarray) -> list[str]:
    problems = []
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        problems.append(
            f"{split}_images: found {images.dtype} {images.shape}, expected uint8 (N, height, width[, channels]), N > 0"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1] or not images.ndim:
        problems.append(
            f"{split}_labels: found {labels.dtype} {labels.shape}, expected whole numbers, one for each of the images "
            f"{images.shape}"
        )
        return problems
    for position in np.flatnonzero((labels < 0) | (labels >= _MAX_CLASSES))[:1]:
        problems.append(
            f"{split}_labels: found {labels[position]} at position {position}, expected 0 to {_MAX_CLASSES - 1:,}"
        )
    return problems


def _images(images: np.ndarray, labels: np.ndarray) -> Images:
    return Images(images if images.ndim == 4 else images[..., None], labels.astype(np.int32))


def _load_image_list(data: ConfigDict) -> _Source:
    lists = image_list.load(data)

    def images(listed: image_list.Listed) -> tuple[Encoded, np.ndarray]:
        paths_N = np.array([path.encode() for path in listed.paths])
        return ImageFiles(lists.root, paths_N, _decoding(data)), listed.labels_N

    names = image_list.class_names(lists.train, lists.num_classes)
    validation = None if lists.validation is None else images(lists.validation)
    return _by_size(images(lists.train), validation, images(lists.test), names)


def _decoding(data: ConfigDict) -> Decoding:
    return Decoding(data.image_size, data.eval_resize, data.max_bad_fraction)


def _by_size(
    train: tuple[Encoded, np.ndarray],
    validation: tuple[Encoded, np.ndarray] | None,
    test: tuple[Encoded, np.ndarray],
    names: tuple[str, ...],
) -> _Source:
    """Return a set with its classes numbered anew by falling size."""
    class_map_C = class_map.by_size(train[1], len(names))

    def renumbered(part: tuple[Encoded, np.ndarray]) -> Images:
        return Images(part[0], class_map.renumber(part[1], class_map_C))

    held_out = None if validation is None else renumbered(validation)
    new_names = tuple(names[label] for label in class_map_C)
    return _Source(renumbered(train), renumbered(test), new_names, held_out, class_map_C)


def _load_tfds(data: ConfigDict) -> _Source:
    if images_stay_encoded(data.source, data.augmentation, data.eval_resize):
        return _load_records(data)
    from saddle_jax.data import tfds_source

    train, test, names = tfds_source.load(data)
    return _Source(_images(*train), _images(*test), names)


def _load_records(data: ConfigDict) -> _Source:
    from saddle_jax.data import tfds_records

    found = tfds_records.load(data, _decoding(data))
    return _by_size(found.train, found.validation, found.test, found.names)
