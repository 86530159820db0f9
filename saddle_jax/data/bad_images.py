"""Images that can't be decoded: what a process knows about them, how they are named, and the file that lists them."""

from __future__ import annotations

import pathlib
from collections.abc import Collection

from saddle_jax.errors import first_lines
from saddle_jax.host.files import write_atomically

FILE = "bad_images.txt"


class KnownBad:
    """The bad images that this process has found so far in a set. All streams of the set share this."""

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
      allowed: that fraction as a number of images.
    """
    lines = list(lines)
    count = f"{len(lines):,} {kind} image{'s' * (len(lines) > 1)} can't be decoded"
    limit = f", {allowed:,} allowed (data.max_bad_fraction={fraction:g})" if fraction else ""
    fix = "Fix: restore the file; --mode check --config.data.check_decode=True finds all bad images"
    if kind == "training":
        fix += "; --config.data.max_bad_fraction=0.001 masks up to one in a thousand"
    return "\n".join([f"{count}{limit}", *first_lines(lines), fix])


def record(folder: pathlib.Path, lines: Collection[str]) -> int:
    """Add `name: reason` lines to the list in a run's directory, and return how many it has."""
    path = folder / FILE
    before = set(path.read_text().splitlines()) if path.is_file() else set()
    after = before.union(lines)
    if after != before:
        write_atomically(path, "".join(f"{line}\n" for line in sorted(after)))
    return len(after)
