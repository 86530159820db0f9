"""Image classification sets from tensorflow-datasets, prepared in advance. Nothing is ever downloaded from here."""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data import pixels
from saddle_jax.errors import DataError, did_you_mean

Arrays = tuple[np.ndarray, np.ndarray]  # images (N, H, W, K) uint8, labels (N,)


def load(data: ConfigDict) -> tuple[Arrays, Arrays, tuple[str, ...]]:
    """Return the training split, the test split, and the class names of the set that `data` names.

    Raises:
      DataError: see `open_set`, or a split does not exist.
    """
    tf, tfds, builder = open_set(data.name, data.root)
    train, test = (_read(tf, tfds, builder, split, data.image_size) for split in (data.train_split, data.test_split))
    return train, test, tuple(builder.info.features[builder.info.supervised_keys[1]].names)


def open_set(name: str, root: str, *, file_format: str = "") -> tuple[Any, Any, Any]:
    """Return TensorFlow, tensorflow-datasets, and the builder of a prepared set.

    Args:
      file_format: the format that the message suggests for a set that is not prepared; "" leaves it to
        tensorflow-datasets.
      root: folder or bucket of the prepared sets; "" for that of tensorflow-datasets.

    Raises:
      DataError: TensorFlow is not installed, or the set is unknown, not prepared, or not an image classification set.
    """
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"data.source='tfds' needs tensorflow and tensorflow-datasets ({error}). "
            'Fix: pip install "saddle_jax[tensorflow]". Without it: data.source=arrays, or --config FILE:smoke'
        ) from error
    tf.config.set_visible_devices([], "GPU")  # TensorFlow must not take the accelerator's memory
    try:
        builder: Any = tfds.builder(name, data_dir=os.path.expanduser(root) or None)
    except tfds.core.DatasetNotFoundError as error:
        hint = did_you_mean(name, tfds.list_builders(with_community_datasets=False))
        raise DataError(f"data.name: tensorflow-datasets has no set {name!r}.{hint}") from error
    except Exception as error:  # tfds raises many kinds: an unknown version or configuration, a missing package
        raise DataError(f"data.name: tensorflow-datasets can't open {name!r}: {error}") from error
    if not builder.is_prepared():  # if asked to load it anyway, tfds would retry the download for minutes
        raise DataError(_how_to_prepare(builder, name, file_format))
    keys = builder.info.supervised_keys
    if not keys or len(keys) != 2 or not isinstance(builder.info.features[keys[1]], tfds.features.ClassLabel):
        raise DataError(f"{name} is not an image classification set: it has no pair of an image and a class label")
    if not isinstance(builder.info.features[keys[0]], tfds.features.Image):
        raise DataError(f"{name} is not an image classification set: its input {keys[0]!r} is not an image")
    return tf, tfds, builder


def _read(tf: Any, tfds: Any, builder: Any, split: str, image_size: int) -> Arrays:
    """Return a split in the set's official order if its examples have an id, else in the order of its files."""
    image_key, label_key = builder.info.supervised_keys
    height, width, channels = builder.info.features[image_key].shape
    size = (image_size, image_size)
    if not image_size and (height is None or width is None):
        raise DataError(
            f"{builder.info.name}: its images differ in size. Fix: --config.data.image_size=32 (pixels per side)"
        )

    def prepare(example: dict[str, Any]) -> dict[str, Any]:
        image = example[image_key]
        if image_size:  # with the function that prepares images for prediction
            fit = functools.partial(pixels.fit, channels=channels or 3, size=size)
            image = tf.numpy_function(fit, [image], tf.uint8, stateful=False)
            image = tf.ensure_shape(image, (*size, channels or 3))
        return {"image": image, "label": example[label_key], "id": example.get("id", "")}

    read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    try:
        dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=read_config)
    except ValueError as error:
        known = ", ".join(sorted(builder.info.splits))
        raise DataError(f"{builder.info.name}: found split {split!r}, expected one of {known} ({error})") from error
    except NotImplementedError as error:  # a format for access at random
        raise DataError(
            f"{builder.info.name} is prepared as array_record, which can't be read into memory. Fix: prepare it with "
            "file_format='tfrecord', or --config.data.augmentation=random_resized_crop, which reads image by image"
        ) from error
    parts = list(tfds.as_numpy(dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(1000)))
    if not parts:
        raise DataError(f"{builder.info.name}: split {split!r} has no images. Fix: use another split")
    images, labels, ids = (np.concatenate([part[key] for part in parts]) for key in ("image", "label", "id"))
    official = np.argsort(ids, kind="stable")
    return images[official], labels[official]


def _how_to_prepare(builder: Any, name: str, file_format: str) -> str:
    """Return how to prepare a set, with the files to download if tfds names them."""
    folder = pathlib.Path(builder.data_path)  # root/name/config/version; this finds the root
    while folder.name and folder.name != builder.name:
        folder = folder.parent
    folder = folder.parent
    chosen = f", file_format='{file_format}'" if file_format else ""
    command = f"tfds.builder('{name}', data_dir='{folder}'{chosen}).download_and_prepare()"
    lines = [
        f"{name} is not prepared in {folder}.",
        f'  With internet, once: python -c "import tensorflow_datasets as tfds; {command}"',
        f"  Without: put the official files into {folder / 'downloads' / 'manual'}, then run the same command.",
    ]
    lines += [f"    {url}" for url in getattr(builder, "url_infos", None) or {}]
    lines.append("  Prepared elsewhere: --config.data.root=FOLDER. To try without data: --config FILE:smoke")
    return "\n".join(lines)
