"""Batches of encoded images through tf.data: read, decoded, and augmented in parallel, in the order of their slots.

An image that can't be decoded is bad. It ends the run with an error that names it, or, within the fraction that the
config allows, its slot is masked. Masking depends only on the file and the slot's own draws, so a resumed run masks the
same slots. An image that can't be read (a missing file, a network that fails) is never masked. It gets one more try,
then an error.
"""

from __future__ import annotations

import collections
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from saddle_jax.data import bad_images
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.encoded import Encoded
from saddle_jax.data.feeds.decoding import make_loader, make_probe
from saddle_jax.data.images import Batch
from saddle_jax.data.order import Slots
from saddle_jax.errors import DataError

_BAD = tf.errors.InvalidArgumentError  # what decoders raise; other errors say nothing about an image


def batches(
    images: Encoded,
    labels_N: np.ndarray,
    slots: Iterable[Slots],
    *,
    train: bool,
    augmented: Augmentation | None = None,
) -> Iterator[Batch]:
    """Yield the batch for each of `slots`, which must all have one length.

    Args:
      train: mask bad images, up to the fraction in `images.decoding`. Otherwise any bad image is an error, because
        masking it would change what is measured.
      augmented: how the draws change the images. None is the evaluation's transform.

    Raises:
      DataError: images can't be read or decoded.
    """
    return _Stream(images, labels_N, slots, train=train, augmented=augmented).batches()


def reason_of(error: tf.errors.OpError) -> str:
    """Return TensorFlow's message on one line, without the names of its nodes."""
    text = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*", "", error.message)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__  # the lines before it say where in the graph
    return reason.removeprefix("ValueError: ")  # Pillow's errors begin with this


def make_whole_check(images: Encoded) -> Callable[[int], str]:
    """Return a check that says why an image can't be fully decoded, or "" if it can.

    The check raises OSError if the image can't be read.
    """
    probe = make_probe(images, whole=True)

    def look(position: int) -> str:
        try:
            return _failure(probe, np.int32(position))
        except tf.errors.OpError as error:
            raise OSError(reason_of(error)) from error

    return look


def _failure(function: Callable[..., Any], *arguments: Any) -> str:
    """Return why an image can't be decoded, or "" if it can. Errors of reading are raised."""
    try:
        function(*arguments)
    except _BAD as error:
        return reason_of(error)
    return ""


class _Stream:
    """Slots on their way through tf.data, which restarts when an image turns out to be bad."""

    def __init__(
        self,
        images: Encoded,
        labels_N: np.ndarray,
        slots: Iterable[Slots],
        *,
        train: bool,
        augmented: Augmentation | None,
    ):
        self._images, self._labels_N, self._slots = images, labels_N, iter(slots)
        self._load = make_loader(images, augmented)
        self._probe = make_probe(images, whole=False)
        self._train = train
        self._known = images.known_bad if train else bad_images.KnownBad()
        self._lock = threading.Lock()
        self._waiting: collections.deque[Slots] = collections.deque()  # handed to tf.data, not yet delivered
        self._delivered = 0  # batches
        self._attempt: object = None  # the feeding generator in charge

    def batches(self) -> Iterator[Batch]:
        """Yield the batches."""
        failed_at = -1
        try:
            while self._refill():
                try:
                    for pixels in self._dataset().as_numpy_iterator():
                        with self._lock:
                            slots = self._waiting.popleft()
                            self._delivered += 1
                        labels = (self._labels_N[slots.ids_B] * slots.mask_B).astype(np.int32)
                        yield Batch(pixels, labels, slots.mask_B, slots.ids_B, slots.draws_BR)
                except tf.errors.OpError as error:
                    with self._lock:  # held only briefly, because TensorFlow's threads may wait for it
                        self._attempt = None
                    cause = error
                    try:
                        if self._mask_bad():
                            continue
                    except tf.errors.OpError as again:
                        cause = again
                    # The storage failed: try once more.
                    if failed_at == self._delivered:
                        raise DataError(
                            f"reading images failed: {reason_of(cause)}. Fix: restore the file or the storage; the "
                            "same command continues"
                        ) from cause
                    failed_at = self._delivered
        finally:
            with self._lock:
                self._attempt = None

    def _dataset(self) -> tf.data.Dataset:
        """Return a dataset of the batches' pixels, from the first waiting batch on."""
        attempt = self._attempt = object()
        first = self._waiting[0]
        batch, numbers = first.draws_BR.shape

        def feed() -> Iterator[tuple]:
            at = self._delivered
            while True:
                with self._lock:
                    if self._attempt is not attempt or (
                        at - self._delivered == len(self._waiting) and not self._take()
                    ):
                        return
                    slots = self._waiting[at - self._delivered]
                yield tuple(slots)
                at += 1

        with tf.device("CPU"):
            signature = (
                tf.TensorSpec((batch,), tf.int32),
                tf.TensorSpec((batch,), tf.bool),
                tf.TensorSpec((batch, numbers), tf.int32),
            )
            dataset = tf.data.Dataset.from_generator(feed, output_signature=signature).unbatch()
            dataset = dataset.map(self._load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            return dataset.batch(batch, drop_remainder=True).prefetch(2)

    def _refill(self) -> bool:
        with self._lock:
            return bool(self._waiting) or self._take()

    def _take(self) -> bool:
        """Append the next slots to the waiting ones. Return whether there were any."""
        slots = next(self._slots, None)
        if slots is not None:
            self._waiting.append(_masked(slots, np.isin(slots.ids_B, list(self._known.hopeless))))
        return slots is not None

    def _mask_bad(self) -> bool:
        """Find the bad images of the first waiting batch and mask their slots. Return whether there were any.

        Raises:
          DataError: there are more than are allowed.
          tf.errors.OpError: images can't be read.
        """
        slots = self._waiting[0]
        rows = np.flatnonzero(slots.mask_B)
        reasons = {row: _failure(self._load, *(part[row] for part in slots)) for row in rows}
        bad = {row: reason for row, reason in reasons.items() if reason}
        known = self._known
        new = {int(slots.ids_B[row]): reason for row, reason in bad.items() if slots.ids_B[row] not in known.reasons}
        known.hopeless |= {position for position in new if _failure(self._probe, np.int32(position))}
        known.reasons = known.reasons | new
        allowed, fraction = (self._images.may_be_bad, self._images.decoding.max_bad_fraction) if self._train else (0, 0)
        if len(known.reasons) > allowed:
            lines = [f"{self._images.name(position)}: {reason}" for position, reason in known.reasons.items()]
            raise DataError(bad_images.message("training" if self._train else "evaluation", lines, fraction, allowed))
        gone = list(known.hopeless)
        self._waiting = collections.deque(_masked(one, np.isin(one.ids_B, gone)) for one in self._waiting)
        self._waiting[0] = _masked(self._waiting[0], np.isin(np.arange(len(slots.mask_B)), list(bad)))
        return bool(bad)


def _masked(slots: Slots, rows_B: np.ndarray) -> Slots:
    """Return the slots with some of them masked, like padded ones."""
    if not rows_B.any():
        return slots
    mask_B = slots.mask_B & ~rows_B
    return Slots(slots.ids_B * mask_B, mask_B, slots.draws_BR * mask_B[:, None])
