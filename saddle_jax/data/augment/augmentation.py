"""The augmentation of one view of the training images: the draws for each image, and what they do to its pixels.

Draws are integers, a pure function of the slot. A crop's draws say what is cut. A policy's draw is the seed of the
image's own generator. Policies run on the host, in Pillow, as they were published. Shapes: N or B images, H x W pixels,
K channels, R numbers per image.
"""

from __future__ import annotations

from random import Random
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from saddle_jax.data.augment import autoaugment, crop, randaugment, simclr
from saddle_jax.experiment.catalogue.augmentations import IN_MEMORY_ONLY, ON_HOST

_SEED_LIMIT = 2**31
_USUAL_AREA = (0.08, 1.0)  # fraction of an encoded image that the crop covers


class Augmentation(NamedTuple):
    """The settings of a view's augmentation. All fields are fixed for a run."""

    name: str
    image_shape: tuple[int, int, int]  # H, W, K of the network's input
    encoded: bool = False  # the images are encoded and have any size
    crop_padding: int = 0  # crop_flip and policies built on it: zero pixels on each side before the random crop
    flip: bool = True  # mirror half of the images
    color_jitter: float = 0.0  # encoded, not simclr: scales brightness, contrast, saturation by 1 ± this at most
    mean: tuple[int, ...] = ()  # level of each channel that randaugment fills with
    views: int = 0  # above 0: the images are features of this many views, of which each slot takes one

    @property
    def on_host(self) -> bool:
        """Whether it has a policy, which a jitted step can't compute."""
        return self.name in ON_HOST and not self.views

    @property
    def area(self) -> tuple[float, float]:
        """Smallest and largest fraction of an encoded image that a crop covers."""
        return simclr.AREA if self.name == "simclr" else _USUAL_AREA


def make(data: ConfigDict, name: str, image_shape: tuple[int, ...], *, encoded: bool) -> Augmentation:
    """Return the augmentation `name` with the settings of `data` (the config's data fields)."""
    height, width, channels = image_shape
    return Augmentation(
        name,
        (height, width, channels),
        encoded=encoded,
        crop_padding=data.crop_padding,
        flip=data.flip,
        color_jitter=data.color_jitter if encoded and name != "simclr" else 0.0,
        mean=tuple(np.clip(np.rint(255 * np.array(data.mean)), 0, 255).astype(int).tolist()),
    )


def problem_of(augmentation: Augmentation) -> str:
    """Return why this augmentation does not suit the images, and the fix; or ""."""
    if augmentation.views:
        return ""
    name, channels = augmentation.name, augmentation.image_shape[2]
    if augmentation.on_host and channels != 3:
        return f"{name} changes colors: found images with {channels} channels, expected 3. Fix: crop_flip"
    if augmentation.encoded and name in IN_MEMORY_ONLY:
        return f"{name} is for images in memory, all of one size. Fix: random_resized_crop, randaugment or simclr"
    if not augmentation.encoded and name == "random_resized_crop":
        return f"{name} is for encoded images. Fix: crop_flip, autoaugment, randaugment or simclr"
    return ""


def draw(augmentation: Augmentation, generator: np.random.Generator, total: int) -> np.ndarray:
    """Return the draws of `total` images, (N, R) int32: those of the crop, then the policy's seed if there is one."""
    flip = augmentation.flip
    if augmentation.views:
        return generator.integers(0, augmentation.views, size=(total, 1), dtype=np.int32)
    if augmentation.encoded:
        draws_NR = crop.draw_resized(generator, total, flip=flip)
    else:
        draws_NR = crop.draw_padded(generator, total, augmentation.crop_padding, flip=flip)
    if not augmentation.on_host:
        return draws_NR
    seeds_Nx1 = generator.integers(0, _SEED_LIMIT, size=(total, 1), dtype=np.int32)
    return np.concatenate([draws_NR, seeds_Nx1], axis=1)


def apply(augmentation: Augmentation, images_BHWK: Any, draws_BR: Any, xp: ModuleType = np) -> Any:
    """Return images augmented by their draws: images in memory in full, encoded ones after their crop.

    Args:
      xp: `numpy`, or `jax.numpy` inside a jitted step, for an augmentation without a policy.
    """
    if augmentation.views:
        return images_BHWK[np.arange(len(images_BHWK)), draws_BR[:, 0]]
    if not augmentation.encoded and augmentation.name != "simclr":
        padding = augmentation.crop_padding
        images_BHWK = crop.crop_and_flip(images_BHWK, draws_BR[:, : crop.PADDED_COLUMNS], padding, xp)
    if not augmentation.on_host:
        return images_BHWK
    changed = np.empty_like(images_BHWK)
    for row, (image, seed) in enumerate(zip(images_BHWK, draws_BR[:, -1].tolist(), strict=True)):
        changed[row] = _by_policy(augmentation, Image.fromarray(image), Random(seed))
    return changed


def _by_policy(augmentation: Augmentation, image: Image.Image, random: Random) -> Image.Image:
    match augmentation.name:
        case "autoaugment":
            return autoaugment.change(image, random)
        case "randaugment":
            return randaugment.change(image, random, augmentation.mean)
    if not augmentation.encoded:
        image = simclr.crop(image, random, flip=augmentation.flip)
    return simclr.change(image, random)
