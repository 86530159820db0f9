"""Images that stay on the devices. Only positions and draws travel, and each step cuts its batch out of the images."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.features import Features
from saddle_jax.data.images import Batch, make_batch
from saddle_jax.data.order import Slots
from saddle_jax.host import devices


class Resident(NamedTuple):
    """A set of images on every device."""

    images: jax.Array  # (N, H, W, K) uint8, or features (N, V, D)
    labels: jax.Array  # (N,) int32


def put(images_NHWK: np.ndarray | Features, labels_N: np.ndarray) -> Resident:
    """Copy a set of images, or of their features, to every device."""
    values = images_NHWK.values_NVD if isinstance(images_NHWK, Features) else images_NHWK
    return devices.replicate(Resident(values, labels_N.astype(np.int32)))


def batch(resident: Resident, slots: Slots, augmentation: Augmentation | None) -> Batch:
    """Return the batch that `slots` describe, inside a jitted step. Its pixels equal those of every other feed.

    Args:
      augmentation: one without a policy. None leaves images as they are.
    """
    return make_batch(resident.images, resident.labels, slots, augmentation, jnp)
