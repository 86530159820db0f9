"""The images that a run could not use: a line an epoch with their number, and a file that names them all."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

from saddle_jax.data import bad_images
from saddle_jax.data.encoded import Encoded
from saddle_jax.errors import DataError
from saddle_jax.host import processes


class Masking:
    """Keeps count of the bad training images of a run, over all processes, and of the steps without a sound one."""

    def __init__(self, images: Any, workdir: pathlib.Path):
        self._images = images if isinstance(images, Encoded) and images.may_be_bad else None
        self._workdir = workdir
        self._sent: set[str] = set()  # lines of this process that all processes know
        self._found: set[str] = set()  # lines of all processes
        self._total: int | None = None  # lines in the file, with those of earlier starts
        self.skipped = 0  # steps since the last line

    def record(self) -> None:
        """Write the names that are new. All processes must call this at the same points.

        Raises:
          DataError: all processes together have met more bad images than are allowed.
        """
        if self._images is None:
            return
        new = set(self._images.bad_lines()) - self._sent
        self._sent |= new
        everyones = {line for text in processes.gather("\n".join(new)) for line in text.splitlines()} - self._found
        self._found |= everyones
        if everyones or self._total is None:
            self._total = processes.on_first(functools.partial(bad_images.record, self._workdir, self._found))
        allowed, fraction = self._images.may_be_bad, self._images.decoding.max_bad_fraction
        if len(self._found) > allowed:
            raise DataError(bad_images.message("training", sorted(self._found), fraction, allowed))

    def take_line(self, epoch: int) -> str:
        """Record, and return what to say at the end of an epoch, or ""."""
        self.record()
        skipped, self.skipped = self.skipped, 0
        parts = []
        if self._images is not None and self._total:
            number = f"{self._total:,} bad training image{'s' * (self._total > 1)}"
            parts.append(f"{number} so far, masked ({self._images.may_be_bad:,} allowed; {bad_images.FILE} names them)")
        if skipped:
            parts.append(f"{skipped:,} step{'s' * (skipped > 1)} skipped, with no sound image in the batch")
        return f"note   epoch {epoch}: {'; '.join(parts)}" if parts else ""
