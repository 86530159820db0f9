"""Checks of the fields that say how images come in: as arrays in memory, or encoded."""

from __future__ import annotations

from collections.abc import Iterator

from saddle_jax.experiment.catalogue import ENTRIES, Values, images_stay_encoded, view_augmentations
from saddle_jax.experiment.catalogue.augmentations import ENCODED_ONLY, IN_MEMORY_ONLY, needs_host


def _encoded(values: Values) -> bool:
    return images_stay_encoded(values["data.source"], values["data.augmentation"], values["data.eval_resize"])


def _on_the_host(values: Values) -> Iterator[str]:
    if not needs_host(values) or _encoded(values):
        return
    views = ", ".join(f"{name}={value!r}" for name, value in view_augmentations(values).items())
    if values["data.pipeline"] == "resident":
        yield (
            f"data.pipeline='resident' leaves images on the devices; {views} augment them on the host, with Pillow. "
            "Fix: --config.data.pipeline=auto"
        )
    if values["steps_at_once"] > 1:
        yield (
            f"steps_at_once={values['steps_at_once']} needs images that stay on the devices; {views} augment them on "
            "the host, with Pillow. Fix: --config.steps_at_once=0"
        )


def _steps_at_once(values: Values) -> Iterator[str]:
    steps = values["steps_at_once"]
    if needs_host(values) and not _encoded(values):  # `_on_the_host` reports this
        return
    if steps > 1 and _encoded(values):
        yield (
            f"steps_at_once={steps} needs images that stay on the devices; those of "
            f"data.source={values['data.source']!r} are decoded batch by batch. Fix: --config.steps_at_once=0"
        )
    elif steps > 1 and values["data.pipeline"] in ("tfdata", "workers", "numpy"):
        yield (
            f"steps_at_once={steps} needs images that stay on the devices (data.pipeline is "
            f"{values['data.pipeline']!r}). Fix: --config.data.pipeline=resident"
        )


def _augmentation(values: Values) -> Iterator[str]:
    if values["data.augmentation"] in ENCODED_ONLY and not _encoded(values):
        yield (
            f"data.augmentation={values['data.augmentation']!r} needs images that are files or records (data.source is "
            f"{values['data.source']!r}). Fix: --config.data.augmentation=crop_flip"
        )


def _unused_image_fields(values: Values) -> Iterator[str]:
    source, encoded, views = values["data.source"], _encoded(values), view_augmentations(values)
    mismatched = IN_MEMORY_ONLY if encoded else ENCODED_ONLY
    if values["data.augmentation"] in mismatched:  # another check reports this
        return
    unused = []
    if not encoded:
        unused += ["data.eval_resize", "data.validation_split", "data.check_decode"]
    if not encoded and source != "folder":
        unused.append("data.max_bad_fraction")
    only_simclr = set(views.values()) == {"simclr"}
    if encoded or only_simclr:
        unused.append("data.crop_padding")
    if not encoded or only_simclr:
        unused.append("data.color_jitter")
    if source not in ("image_list", "tfds", "folder"):
        unused.append("data.image_size")
    if ENTRIES["data.source"].get(source) is None or not ENTRIES["data.source"][source].fit:
        unused.append("data.fit_to_images")
    if source != "image_list":
        unused += ["data.train_list", "data.validation_list", "data.test_list"]
    if source != "tfds" and values["data.train_split"] != "train":
        yield f"data.train_split has no effect with data.source={source!r}. Fix: --config.data.train_split=train"
    if not encoded and source != "folder" and not values["data.exif_orientation"]:
        yield (
            f"data.exif_orientation has no effect with data.source={source!r}, whose images have no EXIF data. "
            "Fix: --config.data.exif_orientation=True"
        )
    for field in unused:
        if values[field]:
            nothing = {str: "''", bool: "False"}.get(type(values[field]), "0")
            yield (
                f"{field} has no effect with data.source={source!r} and "
                f"{', '.join(f'{name}={value!r}' for name, value in views.items())}. Fix: --config.{field}={nothing}"
            )


def _image_sizes(values: Values) -> Iterator[str]:
    if not _encoded(values) or values["data.augmentation"] in IN_MEMORY_ONLY:
        return
    if values["data.image_size"] < 1:
        yield "data.image_size: found 0, but all images must be brought to one size. Fix: --config.data.image_size=224"
    elif values["data.eval_resize"] < values["data.image_size"]:
        yield (
            f"data.eval_resize: found {values['data.eval_resize']}, expected at least data.image_size="
            f"{values['data.image_size']}, the size of the crop. Fix: --config.data.eval_resize=256 for 224"
        )


def _encoded_profile(values: Values) -> Iterator[str]:
    if _encoded(values) and values["data.profile"] != "as_is":
        yield (
            f"data.profile={values['data.profile']!r}: encoded sets keep their own imbalance, and data.ratio has "
            "no effect. Fix: --config.data.profile=as_is"
        )


def _encoded_pipeline(values: Values) -> Iterator[str]:
    if _encoded(values) and values["data.pipeline"] in ("resident", "workers", "numpy"):
        yield (
            f"data.pipeline={values['data.pipeline']!r} holds images in memory; those of "
            f"data.source={values['data.source']!r} are decoded batch by batch. Fix: --config.data.pipeline=tfdata"
        )


def _held_out_twice(values: Values) -> Iterator[str]:
    if not _encoded(values):
        return
    own = "data.validation_list" if values["data.source"] == "image_list" else "data.validation_split"
    if values["data.validation_fraction"] and values[own]:
        yield f"data.validation_fraction and {own}: both hold out images. Fix: --config.{own}=''"


IMAGE_CHECKS = (
    *(_on_the_host, _steps_at_once, _augmentation, _unused_image_fields),
    *(_image_sizes, _encoded_profile, _encoded_pipeline, _held_out_twice),
)
