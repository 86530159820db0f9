"""Chunks of training images for a spectrum.

Images are decoded chunk by chunk and stay on the host. Every product copies them to the devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from saddle_jax.data.feeds import evaluation
from saddle_jax.data.images import Batch
from saddle_jax.data.order import evaluation_slots
from saddle_jax.data.sources import Images
from saddle_jax.errors import DataError
from saddle_jax.host import devices
from saddle_jax.spectra import plan


def chunks_of(train: Images, positions: np.ndarray, chunk_size: int, free: int) -> Iterator[Batch]:
    """Return chunks of the training images at the given positions, without augmentation.

    The ids in a chunk are the positions of its images. Bad images are masked within the limit that
    data.max_bad_fraction sets for training.

    Args:
      positions: positions in the training set.
      chunk_size: images per chunk, over all devices.
      free: bytes of host memory that the images may take.

    Raises:
      ConfigError: the images do not fit into `free`.
      DataError: images can't be read or decoded.
    """
    plan.require_memory(len(positions) * math.prod(train.images.shape[1:]), free)
    ids = positions.astype(np.int32)
    slots = (
        one._replace(ids_B=ids[one.ids_B] * one.mask_B)
        for one in evaluation_slots(len(ids), chunk_size, devices.num_devices())
    )
    return evaluation.plain_batches(*train, slots=slots, train=True)


def sound_positions(positions: np.ndarray, chunks: Sequence[Batch], title: str) -> np.ndarray:
    """Return those positions whose images could be decoded.

    Raises:
      DataError: no image could be decoded.
    """
    sound = positions[np.isin(positions, np.concatenate([chunk.ids[chunk.mask] for chunk in chunks]))]
    if not len(sound):
        raise DataError(
            f"{title}: none of its {len(positions)} images can be decoded. Fix: restore the images, or choose other "
            "--config.spectra.classes"
        )
    return sound
