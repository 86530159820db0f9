"""The images of each step and the random draws of their augmentation, as a pure function of (seed, step).

Nothing is shuffled through a buffer, and no iterator has a state to save. So a resumed run sees exactly the batches
that the uninterrupted run would have seen. Shapes: N images per epoch, B slots per batch, R random numbers per slot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from saddle_jax.data.augment import augmentation
from saddle_jax.data.augment.augmentation import Augmentation

_ORDER, _AUGMENTATION = 0, 1  # keys of independent random streams


class Slots(NamedTuple):
    """The contents of one batch's slots, before any image is touched."""

    ids_B: np.ndarray  # int32, position in the training list; 0 in a padded slot
    mask_B: np.ndarray  # bool, False in a padded slot
    draws_BR: np.ndarray  # int32; `augmentation` defines their meaning


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """The order in which a run goes through its training images. All fields are fixed for the run."""

    seed: int
    labels_N: np.ndarray
    batch_size: int
    num_devices: int
    augmentation: Augmentation
    class_share_C: np.ndarray | None = None  # None: each image once per epoch; else drawn with replacement
    drop_last: bool = False  # drop an epoch's last batch if it is incomplete
    stream: int = 0  # orders with the same stream go through the same images
    view: int = 0  # number of the augmented copy; views share images, but not draws
    _epochs: dict[int, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)  # the last two

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch. The last one may be incomplete."""
        return steps_per_epoch(len(self.labels_N), self.batch_size, self.drop_last)


def steps_per_epoch(images: int, batch_size: int, drop_last: bool) -> int:
    """Return the number of batches per epoch."""
    return images // batch_size if drop_last else -(-images // batch_size)


def slots_at(order: Order, step: int) -> Slots:
    """Return the slots of the batch for step `step` (0-based)."""
    epoch, batch = divmod(step, order.steps_per_epoch)
    ids_N, draws_NR = _epoch(order, epoch)
    positions_B, mask_B = deal(batch, len(ids_N), order.batch_size, order.num_devices)
    return Slots(ids_N[positions_B] * mask_B, mask_B, draws_NR[positions_B] * mask_B[:, None])


def deal(batch: int, total: int, batch_size: int, num_devices: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions and mask of a batch's slots, dealt to the devices in turn so that padding is spread evenly.

    The slots of one device are contiguous: the first B / D belong to the first device.
    """
    slot_B = np.arange(batch_size).reshape(batch_size // num_devices, num_devices).T.ravel()
    positions_B = batch * batch_size + slot_B
    mask_B = positions_B < total
    return np.where(mask_B, positions_B, 0), mask_B


def evaluation_slots(total: int, batch_size: int, num_devices: int) -> Iterator[Slots]:
    """Yield the slots of an evaluation: all images once, in order and unaugmented, with padding at the end."""
    for batch in range(-(-total // batch_size)):
        positions_B, mask_B = deal(batch, total, batch_size, num_devices)
        yield Slots(positions_B.astype(np.int32), mask_B, np.zeros((batch_size, 3), np.int32))


def _epoch(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    kept = order._epochs  # noqa: SLF001 (its own module)
    if epoch not in kept:
        for old in [key for key in kept if abs(key - epoch) > 1]:
            del kept[old]
        kept[epoch] = epoch_ids(order, epoch), epoch_draws(order, epoch)
    return kept[epoch]


def epoch_ids(order: Order, epoch: int) -> np.ndarray:
    """Return the images of an epoch in order: a permutation, or the same number of draws by class share."""
    key = [order.seed, _ORDER, epoch]
    generator = np.random.default_rng([*key, order.stream] if order.stream else key)
    total = len(order.labels_N)
    if order.class_share_C is None:
        return generator.permutation(total).astype(np.int32)
    per_class_C = np.bincount(order.labels_N, minlength=len(order.class_share_C))
    chance_N = (order.class_share_C / np.maximum(per_class_C, 1))[order.labels_N]
    return generator.choice(total, size=total, p=chance_N / chance_N.sum()).astype(np.int32)


def epoch_draws(order: Order, epoch: int) -> np.ndarray:
    """Return the augmentation draws of every position in an epoch. An image drawn twice is augmented twice."""
    generator = np.random.default_rng([order.seed, _AUGMENTATION, epoch, order.view])
    return augmentation.draw(order.augmentation, generator, len(order.labels_N))
