"""The images of a spectrum: decoded chunk by chunk, kept on the host, put on the devices for every product."""

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
    """Return the training images at some positions, un-augmented; the ids of the chunks are such positions.

    Bad images are masked as far as data.max_bad_fraction lets them be bad in training.

    Args:
      free: bytes of the host's memory that the images may take.

    Raises:
      ConfigError: they do not fit.
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
    """Return the positions whose images the chunks hold.

    Raises:
      DataError: there are none.
    """
    sound = positions[np.isin(positions, np.concatenate([chunk.ids[chunk.mask] for chunk in chunks]))]
    if not len(sound):
        raise DataError(
            f"{title}: none of its {len(positions)} images can be decoded. Fix: restore them, or other "
            "--config.spectra.classes"
        )
    return sound
