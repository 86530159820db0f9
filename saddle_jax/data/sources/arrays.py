"""Images from an .npz of arrays."""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.sources.base import Source, plain_images
from saddle_jax.errors import DataError

_MAX_CLASSES = 1_000_000
_ARRAY_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def load(fields: Any, data: ConfigDict) -> Source:
    """Return the images of the .npz that data.path names.

    Raises:
      DataError: the file is missing, unreadable, or malformed. It reports all problems.
    """
    del fields
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
    return Source(plain_images(train_images, train_labels), plain_images(test_images, test_labels), names or ())


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
