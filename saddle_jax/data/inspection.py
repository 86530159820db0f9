"""What `--mode check` tells of a set: its classes, and the images that can't be read or decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from saddle_jax.data.encoded import Encoded, ImageFiles
from saddle_jax.data.sources import Splits
from saddle_jax.errors import DataError

_SHOWN = 10
_READERS = 16  # files that are opened at once: on a network most of the time is waiting
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"RIFF")  # of what TensorFlow decodes


def class_lines(splits: Splits) -> Iterator[str]:
    """Yield a line a class: its index, name, training images, and its original label where that is another."""
    names, counts_C = splits.stats.names, splits.stats.counts_C
    for label in range(len(names)):
        original = "" if splits.class_map_C is None else f"   label {splits.class_map_C[label]} of the set"
        yield f"  class {label:4d}  {names[label]:20.20s} {counts_C[label]:6,d} training images{original}"


def require_readable(splits: Splits, *, decode: bool) -> None:
    """Open every image file, or decode every image whole; images in memory are let pass.

    Raises:
      DataError: images can't be read or decoded; the first ten are named.
    """
    found: list[str] = []
    total = 0
    for split, part in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        if part is None or not isinstance(part.images, Encoded):
            continue
        look = _decoding(part.images) if decode else _opening(part.images)
        if look is None:
            print(f"check  {len(part.images):,} {split} images are records: data.check_decode tells if they are sound")
            continue
        print(f"check  {'decoding' if decode else 'opening'} {len(part.images):,} {split} images", flush=True)
        total += len(part.images)
        with ThreadPoolExecutor((os.cpu_count() or 1) if decode else _READERS) as pool:
            reasons = pool.map(look, range(len(part.images)), chunksize=64)
            found += [f"{split}: {part.images.name(at)}: {reason}" for at, reason in enumerate(reasons) if reason]
    if found:
        more = [f"  ... and {len(found) - _SHOWN:,} more"] if len(found) > _SHOWN else []
        lines = [f"  - {line}" for line in found[:_SHOWN]]
        raise DataError("\n".join([f"{len(found):,} of {total:,} images can't be read", *lines, *more]))
    if total:
        print(f"check  all {total:,} images {'decode' if decode else 'can be opened'}")


def _opening(images: Encoded) -> Callable[[int], str] | None:
    """Return what tells why a file can't be an image, or "" for one that begins as an image does."""
    if not isinstance(images, ImageFiles):
        return None

    def look(position: int) -> str:
        try:
            with open(images.name(position), "rb") as file:
                start = file.read(8)
        except OSError as error:
            return error.strerror or str(error)
        if not start:
            return "empty"
        return "" if start.startswith(_STARTS) else f"no JPEG, PNG, GIF, BMP or WebP (begins with {start!r})"

    return look


def _decoding(images: Encoded) -> Callable[[int], str]:
    """Return what tells why an image can't be decoded, or "" for one that can."""
    from saddle_jax.data import streaming

    return streaming.make_whole_check(images)
