"""Checks for `--mode check`: a set's classes, sample images, and images that can't be read or decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from saddle_jax.data import formats
from saddle_jax.data.augment import augmentation
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.encoded import Encoded, ImageFiles
from saddle_jax.data.images import make_batch
from saddle_jax.data.order import Slots
from saddle_jax.data.sources import Splits
from saddle_jax.errors import DataError, first_lines
from saddle_jax.host import console
from saddle_jax.host.files import reason_of
from saddle_jax.host.threads import in_stretches

_SAMPLED, _DRAWS = 10, 5  # images, and draws of each view
_READERS = 16  # files opened at once, because on a network most of the time is waiting
_STRETCH = 256  # images


def class_table(splits: Splits) -> console.Table:
    """Return the classes, largest first: name, training images, and, if names and numbers differ, the number."""
    stats = splits.stats
    numbered = any(name != str(label) for name, label in zip(stats.names, stats.labels_C, strict=True))
    rows = [
        [name, f"{count:,}", *([str(label)] if numbered else [])]
        for name, count, label in zip(stats.names, stats.counts_C, stats.labels_C, strict=True)
    ]
    columns = ["class", "training images", *(["label"] if numbered else [])]
    return console.Table(columns, rows, "lrr"[: len(columns)])


class Samples(NamedTuple):
    """Some training images, unaugmented and augmented."""

    labels_N: np.ndarray
    images_NHWK: np.ndarray  # through the evaluation's transform
    views_VDNHWK: np.ndarray  # some draws of each view


def sample(splits: Splits, views: Sequence[Augmentation], seed: int) -> Samples:
    """Return one image each from some classes, evenly spaced from the largest class to the rarest nonempty one.

    Bad images are skipped if the config tolerates them, and so are classes that have no others.

    Raises:
      DataError: images can't be read or decoded.
    """
    images, labels_N = splits.train
    last = np.count_nonzero(splits.stats.counts_C) - 1  # empty classes rank last
    chosen = np.unique(np.linspace(0, last, _SAMPLED).astype(int))
    sound = [_first_sound(images, np.flatnonzero(labels_N == label)) for label in chosen]
    ids_N = np.array([position for position in sound if position is not None], np.int32)
    if not ids_N.size:
        raise DataError(f"none of the images in {len(chosen)} classes can be decoded. Fix: restore the files")

    def batch(view: Augmentation | None, draws_NR: np.ndarray) -> np.ndarray:
        repeated = np.tile(ids_N, len(draws_NR) // len(ids_N))
        slots = Slots(repeated, np.ones(len(repeated), bool), draws_NR)
        if isinstance(images, Encoded):
            from saddle_jax.data.feeds import streaming

            return next(streaming.batches(images, labels_N, [slots], train=True, augmented=view)).images
        return make_batch(images, labels_N, slots, view).images

    def drawn(number: int, view: Augmentation) -> np.ndarray:
        generator = np.random.default_rng([seed, number])
        changed = batch(view, augmentation.draw(view, generator, _DRAWS * len(ids_N)))
        return changed.reshape(_DRAWS, len(ids_N), *changed.shape[1:])

    augmented = np.stack([drawn(number, view) for number, view in enumerate(views)])
    return Samples(labels_N[ids_N], batch(None, np.zeros((len(ids_N), 1), np.int32)), augmented)


def _first_sound(images: np.ndarray | Encoded, positions: np.ndarray) -> int | None:
    """Return the first position whose image is not bad, or simply the first one if none may be bad."""
    look = _decoding(images) if isinstance(images, Encoded) and images.may_be_bad else None
    for position in positions.tolist():
        try:
            if look is None or not look(position):
                return position
        except OSError:  # whoever decodes it next reports why it can't be read
            return position
    return None


def require_readable(splits: Splits, *, decode: bool) -> None:
    """Open every image file, or decode every image in full. Images in memory are skipped.

    Bad training images are only reported if data.max_bad_fraction allows that many. Images that can't be read are never
    tolerated.

    Raises:
      DataError: images can't be read or decoded. It names the first ten.
    """
    found: list[str] = []
    total = tolerated = 0
    for split, part in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        if part is None or not isinstance(part.images, Encoded):
            continue
        look = _decoding(part.images) if decode else _opening(part.images)
        if look is None:
            console.say("check", f"{len(part.images):,} {split} images are records; data.check_decode checks them")
            continue
        console.say("check", f"{'decoding' if decode else 'opening'} {len(part.images):,} {split} images")
        total += len(part.images)
        unsound = list(_look_at(part.images, look, (os.cpu_count() or 1) if decode else _READERS))
        lines = [f"{split}: {part.images.name(one.position)}: {one.reason}" for one in unsound]
        may_be = part.images.may_be_bad if split == "train" else 0
        if len(unsound) > may_be or any(one.unread for one in unsound):
            found += lines
        elif unsound:
            tolerated += len(unsound)
            told = f"{len(unsound):,} bad training images are masked; {may_be:,} are allowed (data.max_bad_fraction)"
            console.say("check", "\n".join([told, *first_lines(lines)]))
    if found:
        fix = "Fix: restore or replace them"
        raise DataError("\n".join([f"{len(found):,} of {total:,} images can't be read", *first_lines(found), fix]))
    if total:
        which = f"all other {total - tolerated:,}" if tolerated else f"all {total:,}"
        console.say("check", f"{which} images {'decode' if decode else 'can be opened'}")


class Unsound(NamedTuple):
    """An image that can't be used."""

    position: int
    reason: str
    unread: bool  # True if it can't be read, False if it is bad


def undecodable(images: Encoded) -> Iterator[Unsound]:
    """Yield the images that can't be read or fully decoded, in order."""
    return _look_at(images, _decoding(images), os.cpu_count() or 1)


def _look_at(images: Encoded, look: Callable[[int], str], threads: int) -> Iterator[Unsound]:
    """Yield the unusable images in order, found by several threads."""

    def check(position: int) -> Unsound | None:
        try:
            reason = look(position)
        except OSError as error:
            return Unsound(position, reason_of(error), True)
        return Unsound(position, reason, False) if reason else None

    return filter(None, in_stretches(check, range(len(images)), threads=threads, stretch=_STRETCH))


def _opening(images: Encoded) -> Callable[[int], str] | None:
    """Return a check that says why a file can't be an image, or "" if it starts like one. None if images are not files.

    The check raises OSError if the file can't be read.
    """
    if not isinstance(images, ImageFiles):
        return None

    def look(position: int) -> str:
        with open(images.name(position), "rb") as file:
            start = file.read(8)
        if not start:
            return "empty"
        return "" if formats.kind_of(start) else f"not a {formats.NAMES} (starts with {start!r})"

    return look


def _decoding(images: Encoded) -> Callable[[int], str]:
    """Return a check that says why an image can't be decoded, or "" if it can.

    The check raises OSError if the image can't be read.
    """
    from saddle_jax.data.feeds import streaming

    return streaming.make_whole_check(images)
