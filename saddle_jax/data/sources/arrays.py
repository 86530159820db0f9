"""Images from an .npz of arrays."""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.sources import meaning
from saddle_jax.data.sources.base import Images, Source
from saddle_jax.data.sources.split import split_test
from saddle_jax.errors import DataError

_WANTED = "train_images and train_labels; test_images and test_labels; optionally val_images, val_labels, class_names"
_SPLITS = {  # the names under which people keep each split's images and labels
    "train": (("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels")),
    "validation": (("val_images", "val_labels"), ("validation_images", "validation_labels"), ("x_val", "y_val")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}


def load(fields: Any, data: ConfigDict) -> Source:
    """Return the images of the .npz that data.path names.

    Raises:
      DataError: the file is missing, unreadable, or malformed. It reports all problems.
    """
    del fields
    path = pathlib.Path(data.path)
    arrays = read(path)
    found = {split: keys for split, known in _SPLITS.items() if (keys := _keys(split, known, arrays, path))}
    problems: list[str] = []
    notes: list[str] = []
    pixels: dict[str, np.ndarray] = {}
    for split, (images_key, labels_key) in found.items():
        try:
            understood = meaning.images(images_key, arrays[images_key])
            pixels[split], notes = understood.array, [*notes, *understood.notes]
        except DataError as error:
            problems.append(str(error))
        if arrays[labels_key].shape[:1] != arrays[images_key].shape[:1]:
            problems.append(
                f"{labels_key}: found {arrays[labels_key].dtype} {arrays[labels_key].shape}, expected one for each of "
                f"the images {arrays[images_key].shape}"
            )
    given: tuple[str, ...] | None = None
    labels = meaning.Labels({}, (), ())
    try:
        if "class_names" in arrays:
            given = tuple(meaning.as_text("class_names", arrays["class_names"]).ravel().tolist())
        labels = meaning.labels(
            {keys[1]: arrays[keys[1]] for keys in found.values()}, given, gaps=data.allow_empty_classes
        )
    except DataError as error:
        problems += str(error).splitlines()
    shapes = {split: array.shape[1:] for split, array in pixels.items()}
    problems += [
        f"train images are {shapes['train']}, {split} images {shape}"
        for split, shape in shapes.items()
        if "train" in shapes and shape != shapes["train"]
    ]
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DataError("\n".join([f"{path} ({count})", *(f"  - {p}" for p in problems)]))
    parts = {split: Images(pixels[split], labels.labels[keys[1]]) for split, keys in found.items()}
    source = Source(parts["train"], parts.get("test"), labels.names, parts.get("validation"), first_label=labels.first)
    return split_test(source._replace(notes=(*notes, *labels.notes)), data)


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file.

    Raises:
      DataError: the file is missing or unreadable.
    """
    try:
        path = path.expanduser()
        if not path.is_file():
            raise DataError(f"data.path: found no file {str(path)!r}, expected an .npz with {_WANTED}")
        with path.open("rb") as file:
            store = np.load(file, allow_pickle=False)
            if not isinstance(store, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: found a single array, expected an .npz with {_WANTED}")
            return {key: store[key] for key in store.files}
    except (ValueError, OSError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        fix = "save text as np.array(labels, dtype=str)" if "pickle" in str(error).lower() else "write it with np.savez"
        raise DataError(
            f"data.path: {str(path)!r} can't be read as an .npz of plain arrays ({error}). Fix: {fix}"
        ) from error


def _keys(
    split: str, known: tuple[tuple[str, str], ...], arrays: dict[str, np.ndarray], path: pathlib.Path
) -> tuple[str, str] | None:
    """Return the names of a split's images and labels, or None if the file does not have the split."""
    for pair in known:
        missing = [key for key in pair if key not in arrays]
        if not missing:
            return pair
        if len(missing) == 1:
            raise DataError(f"{path}: lacks {missing[0]} (found {', '.join(arrays)}). Fix: add it to the file")
    if split == "train":
        raise DataError(f"{path}: found {', '.join(arrays) or 'no arrays'}, expected {_WANTED}")
    return None
