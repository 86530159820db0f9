"""Images that can't be decoded: what a process knows of them, how they are named, and the file that lists them."""

from __future__ import annotations

import pathlib
from collections.abc import Collection

from saddle_jax.host.files import write_atomically

FILE = "bad_images.txt"
_SHOWN = 10


class KnownBad:
    """The bad ones of some images, as far as this process has met them. All streams of the images share this."""

    def __init__(self):
        # Threads read these while another one replaces them, so they are never changed in place.
        self.reasons: dict[int, str] = {}  # position -> why
        self.hopeless: frozenset[int] = frozenset()  # those without a decodable part


def message(kind: str, lines: Collection[str], fraction: float, allowed: int) -> str:
    """Return the error that names bad images.

    Args:
      kind: what they are for, such as "training".
      lines: `name: reason` of each.
      fraction: what data.max_bad_fraction allows; 0 for images that must all be sound.
      allowed: the number of images that this is.
    """
    lines = list(lines)
    more = [f"  ... and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []
    count = f"{len(lines):,} {kind} image{'s' * (len(lines) > 1)} can't be decoded"
    limit = f", {allowed:,} allowed (data.max_bad_fraction={fraction:g})" if fraction else ""
    fix = "Fix: restore the file; --mode check --config.data.check_decode=True finds all bad images"
    if kind == "training":
        fix += "; --config.data.max_bad_fraction=0.001 masks up to one in a thousand"
    return "\n".join([f"{count}{limit}", *(f"  - {line}" for line in lines[:_SHOWN]), *more, fix])


def record(folder: pathlib.Path, lines: Collection[str]) -> int:
    """Add `name: reason` lines to the list in a run's directory, and return how many it has."""
    path = folder / FILE
    before = set(path.read_text().splitlines()) if path.is_file() else set()
    after = before.union(lines)
    if after != before:
        write_atomically(path, "".join(f"{line}\n" for line in sorted(after)))
    return len(after)
