"""Settings that suit a folder of images, chosen by looking at them: `data.fit_to_images`."""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data import formats, pixels
from saddle_jax.data.sources import folder
from saddle_jax.errors import DataError
from saddle_jax.host import console

_SAMPLED = 500  # images
_SMALL = 96  # pixels: up to this size, images are held in memory for a network of small images
_TINY = 12  # pixels
# Views of images that training takes, within these numbers of epochs: of a whole network, and of a classifier alone.
_VIEWS, _EPOCHS = 300_000, (30, 200)
_VIEWS_OF_HEAD, _EPOCHS_OF_HEAD = 60_000, (20, 100)
_EVALUATIONS = 20
# Fields that a pretrained network and its recipe have settled.
_NETWORKS_OWN = ("model.name", "data.mean", "data.std")


class Sample(NamedTuple):
    """What some of the images look like."""

    sizes: np.ndarray  # (N, 2): width, height
    gray: bool  # all of them
    mean: tuple[float, ...]  # of each channel, in units of 255
    std: tuple[float, ...]


def fit(config: ConfigDict, given: Collection[str]) -> list[str]:
    """Set the fields that depend on the images, except those in `given`, and return what was chosen and why.

    Raises:
      DataError: there are no images, or too many are broken.
    """
    with console.doing("looking at the images"):
        found = folder.without_broken(folder.find(config.data.root), config.data.max_bad_fraction)
        train = found.splits["train"]
        sample = look(found, train.paths)
    images = len(train.paths) - round(len(train.paths) * _held_out(config, found.splits.keys()))
    name = f"{found.root.resolve().name}{config.name.removeprefix('folder')}".removesuffix("-as_is")
    chosen = [("name", name, ""), *_sizes(config, given, sample), *_length(images, config.model.train)]
    if "validation" in found.splits and "test" in found.splits:
        chosen.append(("data.validation_fraction", 0.0, "there is a folder of validation images"))
    if config.model.weights:
        own = _NETWORKS_OWN if config.model.train == "head" else (*_NETWORKS_OWN, "duration")
        channels = next(len(value) for field, value, _ in chosen if field == "data.mean")
        chosen = [*_of_network(config, channels), *(one for one in chosen if one[0] not in own)]
    notes = []
    for field, value, reason in chosen:
        if field in given:
            continue
        config.update_from_flattened_dict({field: value})
        notes += [f"{field}={_shown(value)}: {reason}"] if reason else []
    return notes


def _of_network(config: ConfigDict, channels: int) -> list[tuple[str, Any, str]]:
    """Return the normalization that a pretrained network needs, which gray images enter as three equal channels."""
    mean, std = config.data.mean, config.data.std
    if channels == len(mean):
        return []
    gray = tuple(round(float(np.mean(values)), 3) for values in (mean, std))
    return [
        ("data.mean", gray[:1], "gray images: the mean over the network's channels"),
        ("data.std", gray[1:], "likewise"),
    ]


def _shown(value: Any) -> str:
    return repr(value).replace(" ", "") if isinstance(value, tuple) else str(value)


def _held_out(config: ConfigDict, splits: Collection[str]) -> float:
    """Return the fraction of the training files that become test and validation images."""
    own_test, own_both = len(splits) > 1, len(splits) > 2
    test = 0.0 if own_test else config.data.test_fraction
    return test + (0.0 if own_both else (1 - test) * config.data.validation_fraction)


def _sizes(config: ConfigDict, given: Collection[str], sample: Sample) -> list[tuple[str, Any, str]]:
    """Return the fields that follow from the size and colors of the images, with reasons; "" if it is not printed."""
    shorter = int(np.median(sample.sizes.min(axis=1)))
    one_size = len(np.unique(sample.sizes)) == 1
    wanted = config.data.image_size if "data.image_size" in given else 0
    colors = "gray" if sample.gray else "colored"
    if (wanted or shorter) > _SMALL:
        size = wanted or 224
        return [
            ("data.image_size", size, f"photographs: their shorter side has {shorter} pixels (median)"),
            ("data.eval_resize", round(size * 256 / 224), "the usual margin around the center crop"),
            ("data.augmentation", "random_resized_crop", "as for ImageNet"),
            ("data.color_jitter", 0.0 if sample.gray else 0.4, f"the images are {colors}"),
            ("data.crop_padding", 0, ""),
            ("data.flip", True, "photographs may be mirrored; turn this off for text and signs"),
            ("data.mean", sample.mean * (3 // len(sample.mean)), f"measured on {len(sample.sizes):,} images"),
            ("data.std", sample.std * (3 // len(sample.std)), "measured on the same images"),
            (
                "model.name",
                "resnet50",
                "the usual network for photographs; on a CPU or with few images, --config pretrained/folder",
            ),
        ]
    size = wanted or (int(sample.sizes[0, 0]) if one_size else min(_SMALL, max(8, 8 * round(shorter / 8))))
    why = f"all {len(sample.sizes):,} sampled images have it" if one_size and size == shorter else "brought to one size"
    network = "resnet8" if size <= _TINY else "resnet32"
    return [
        ("data.image_size", size, f"small images: {why}"),
        ("data.eval_resize", 0, ""),
        ("data.augmentation", "crop_flip", "as for CIFAR"),
        ("data.color_jitter", 0.0, ""),
        ("data.crop_padding", max(1, size // 8), "an eighth of the size, as for CIFAR"),
        ("data.flip", not sample.gray, f"the images are {colors}" + (", perhaps characters" if sample.gray else "")),
        ("data.mean", sample.mean, f"{colors} images: measured on {len(sample.sizes):,} of them"),
        ("data.std", sample.std, "measured on the same images"),
        ("model.name", network, f"for images of {size} pixels"),
    ]


def _length(images: int, train: str) -> list[tuple[str, Any, str]]:
    """Return the fields that follow from the number of training images, and from what is trained."""
    views, limits = (_VIEWS_OF_HEAD, _EPOCHS_OF_HEAD) if train == "head" else (_VIEWS, _EPOCHS)
    epochs = int(np.clip(round(views / max(images, 1)), *limits))
    batch = 128 if images >= 10_000 else 64 if images >= 1_000 else 32
    every = f"{100 // _EVALUATIONS}%"
    return [
        ("batch_size", batch, f"about {images:,} training images"),
        ("duration", f"{epochs} epochs", f"about {images * epochs:,} views of images; more may be better"),
        ("eval.every", every, f"{_EVALUATIONS} times, for the best of them"),
        ("checkpoint_every", every, ""),
    ]


def look(found: folder.Folders, paths: list[str]) -> Sample:
    """Return what some evenly spaced images look like. Those that can't be decoded are skipped.

    Raises:
      DataError: none of them can be decoded.
    """
    places = np.unique(np.linspace(0, len(paths) - 1, min(_SAMPLED, len(paths))).astype(int))
    sizes, gray, parts = [], True, []
    for place in places:
        content = (found.root / paths[place]).read_bytes()
        try:
            image_HWK = formats.decode(content, turn=True)
        except ValueError:  # the source, which decodes all images, leaves it out or names it
            continue
        with formats.open_image(io.BytesIO(content)) as image:
            sizes.append(image.size)
            gray &= image.mode in ("1", "L", "LA", "I;16")
        parts.append(pixels.fit(image_HWK, 3, (32, 32) if max(sizes[-1]) > _SMALL else None).reshape(-1, 3))
    if not parts:
        raise DataError(f"none of {len(places):,} images in {found.root} can be decoded. Fix: restore them")
    levels = np.concatenate(parts) / 255.0
    channels = 1 if gray else 3
    mean, std = levels.mean(axis=0)[:channels], np.maximum(levels.std(axis=0)[:channels], 0.05)
    return Sample(np.array(sizes), gray, tuple(mean.round(3).tolist()), tuple(std.round(3).tolist()))
