"""The sources of images that an experiment can name."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from saddle_jax.experiment.catalogue.augmentations import ENCODED_ONLY, IN_MEMORY_ONLY
from saddle_jax.experiment.catalogue.entry import Source, Values


def _needs(field: str, values: Values) -> Iterator[str]:
    if not values[field]:
        yield f"data.source={values['data.source']!r} needs {field}. Fix: --config.{field}=..."


def _image_list_problems(values: Values) -> Iterator[str]:
    if values["data.augmentation"] in IN_MEMORY_ONLY:
        yield (
            "data.source='image_list' needs --config.data.augmentation=random_resized_crop, randaugment or simclr "
            f"(found {values['data.augmentation']!r}, which is for images of one size)"
        )


SOURCES = {
    "digits": Source(
        "scikit-learn's handwritten digits, 8 x 8 pixels; nothing is downloaded", "saddle_jax.data.sources.digits:load"
    ),
    "arrays": Source(
        "an .npz with train_images, train_labels, test_images, test_labels, and optionally class_names",
        "saddle_jax.data.sources.arrays:load",
        problems=(functools.partial(_needs, "data.path"),),
    ),
    "image_list": Source(
        "image files, named in lists",
        "saddle_jax.data.sources.image_list:load",
        encoded=True,
        problems=(_image_list_problems,),
    ),
    "folder": Source(
        "image files in one folder per class, optionally below train/, val/, and test/",
        "saddle_jax.data.sources.folder:load",
        encoded=None,
        fit="saddle_jax.data.sources.fitting:fit",
    ),
    "tfds": Source(
        "a set of tensorflow-datasets; prepared as array_record, its images stay encoded",
        "saddle_jax.data.sources.tfds:load",
        encoded=None,
        problems=(functools.partial(_needs, "data.name"),),
    ),
}


def images_stay_encoded(source: str, augmentation: str, eval_resize: int) -> bool:
    """Return whether images stay encoded until a batch asks for them; otherwise they are an array in memory.

    For a source that can do both, the augmentation decides; with randaugment and simclr, data.eval_resize does.
    """
    entry = SOURCES.get(source)
    if entry is None or entry.encoded is not None:
        return entry is not None and bool(entry.encoded)
    return augmentation in ENCODED_ONLY or (augmentation not in IN_MEMORY_ONLY and eval_resize > 0)
