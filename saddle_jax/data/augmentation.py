"""The augmentation of one view of the training images: what it draws for every image, and what the draws do to pixels.

Draws are whole numbers, made on the host; what runs on images is a pure function of pixels and draws, the same bytes
with NumPy, JAX and TensorFlow. Shapes: N or B images, H x W pixels, K channels, R numbers an image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data import geometry, operations, policies
from saddle_jax.data.backends import NUMPY, Backend
from saddle_jax.data.operations import Stage

# Columns of the random numbers by which encoded images, of whatever size, are cropped: ten attempts at (area, aspect),
# where the crop lies, whether to mirror, brightness, contrast and saturation, and in which order these act. Each is
# uniform in [0, DRAW_LIMIT).
ATTEMPTS, POSITION, MIRROR, JITTER, JITTER_ORDER = slice(0, 20), slice(20, 22), 22, slice(23, 26), 26
DRAW_LIMIT = 2**31
_ENCODED_COLUMNS = 27

_STAGES: dict[str, tuple[Stage, ...]] = {
    "crop_flip": (),
    "random_resized_crop": (),
    "autoaugment": (*policies.AUTOAUGMENT_STAGES, policies.CUTOUT_STAGE),
    "randaugment": policies.RANDAUGMENT_STAGES,
    "simclr": policies.SIMCLR_STAGES,
}
_OF_COLOUR = ("autoaugment", "randaugment", "simclr")  # need three channels
_IN_MEMORY = ("crop_flip", "autoaugment")  # of images of one size
_AUTOAUGMENT_FILL = 128
_SIMCLR_AREA = (0.2, 1.0)  # of the image, as torchvision's scale
_USUAL_AREA = (0.08, 1.0)


class Augmentation(NamedTuple):
    """How a view's images are augmented. All fields are fixed for a run."""

    name: str
    image_shape: tuple[int, int, int]  # H, W, K of what the network sees
    encoded: bool = False  # the images are encoded, and of any size
    crop_padding: int = 0  # crop_flip and what builds on it: zero pixels on each side before the random crop
    flip: bool = True  # mirror half of the images
    color_jitter: float = 0.0  # encoded, but for simclr: brightness, contrast, saturation times 1 - this to 1 + this
    mean: tuple[int, ...] = ()  # level of each channel that randaugment fills with

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What happens after crop and mirror."""
        return _STAGES[self.name]

    @property
    def area(self) -> tuple[float, float]:
        """Part of an image that a resized crop covers, from and to."""
        return _SIMCLR_AREA if self.name == "simclr" else _USUAL_AREA

    @property
    def fill_K(self) -> tuple[int, ...]:
        """Level of each channel where a move brings in what is outside."""
        return self.mean if self.name == "randaugment" else (_AUTOAUGMENT_FILL,) * self.image_shape[2]

    @property
    def crop_columns(self) -> int:
        """Numbers an image for crop and mirror; those of the stages follow."""
        return _ENCODED_COLUMNS if self.encoded else 5 if self.name == "simclr" else 3


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
    """Return why images can't be augmented so, and the fix; or ""."""
    name, channels = augmentation.name, augmentation.image_shape[2]
    if name in _OF_COLOUR and channels != 3:
        return f"{name} changes colours: found images of {channels} channels, expected 3. Fix: crop_flip"
    if augmentation.encoded and name in _IN_MEMORY:
        return f"{name} is for images in memory, all of one size. Fix: random_resized_crop, randaugment or simclr"
    if not augmentation.encoded and name == "random_resized_crop":
        return f"{name} is for encoded images. Fix: crop_flip, autoaugment, randaugment or simclr"
    return ""


def draw(augmentation: Augmentation, generator: np.random.Generator, total: int) -> np.ndarray:
    """Return the draws of `total` images, (N, R) int32."""
    height, width, _ = augmentation.image_shape
    parts = [_draw_crop(augmentation, generator, total)]
    if augmentation.name == "autoaugment":
        parts.append(policies.draw_autoaugment(generator, total, height, width))
        parts.append(policies.draw_cutout(generator, total, height, width))
    elif augmentation.name == "randaugment":
        parts.append(policies.draw_randaugment(generator, total, height, width))
    elif augmentation.name == "simclr":
        parts.append(policies.draw_simclr(generator, total))
    return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def _draw_crop(augmentation: Augmentation, generator: np.random.Generator, total: int) -> np.ndarray:
    """Return the columns of crop and mirror; those of crop_flip and random_resized_crop are as they always were."""
    height, width, _ = augmentation.image_shape
    if augmentation.encoded:  # what they mean depends on each image's size
        draws_NR = generator.integers(0, DRAW_LIMIT, size=(total, _ENCODED_COLUMNS), dtype=np.int32)
        draws_NR[:, MIRROR] *= augmentation.flip
        return draws_NR
    if augmentation.name == "simclr":
        return policies.draw_resized_crop(generator, total, height, width, augmentation.area, flip=augmentation.flip)
    draws_Nx3 = np.empty((total, 3), np.int32)
    draws_Nx3[:, :2] = generator.integers(0, 2 * augmentation.crop_padding + 1, size=(total, 2))
    draws_Nx3[:, 2] = generator.integers(0, 2, size=total) * augmentation.flip
    return draws_Nx3


def apply(augmentation: Augmentation, images_BHWK: Any, draws_BR: Any, backend: Backend = NUMPY) -> Any:
    """Return images that were in memory, augmented by their draws."""
    if augmentation.name == "simclr":
        cropped = geometry.resized_crop(images_BHWK, draws_BR[:, :5], backend)
    else:
        cropped = geometry.crop_and_flip(images_BHWK, draws_BR[:, :3], augmentation.crop_padding, backend)
    return apply_stages(augmentation, cropped, draws_BR, backend)


def apply_stages(augmentation: Augmentation, images_BHWK: Any, draws_BR: Any, backend: Backend) -> Any:
    """Return images that are cropped and mirrored after the stages of their augmentation."""
    columns_BR = draws_BR[:, augmentation.crop_columns :]
    return operations.apply(augmentation.stages, images_BHWK, columns_BR, augmentation.fill_K, backend)
