"""The images that a run could not use: a line per epoch with their number, and a file that names them all."""

from __future__ import annotations

import functools
import json
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
        self._found: dict[int, str] = {}  # by all processes since this start: position -> line
        self._total: int | None = None  # lines in the file, with those of earlier starts
        self.skipped = 0  # steps since the last line

    def record(self) -> None:
        """Write the names that are new. All processes must call this at the same points.

        Raises:
          DataError: all processes together have found more bad images than are allowed.
        """
        if self._images is None:
            return
        before = len(self._found)
        new = {position: line for position, line in self._images.bad_lines().items() if position not in self._found}
        for text in processes.gather(json.dumps(new)):
            self._found = {int(position): line for position, line in json.loads(text).items()} | self._found
        if len(self._found) > before or self._total is None:
            lines = self._found.values()
            self._total = processes.on_first(functools.partial(bad_images.record, self._workdir, lines))
        allowed, fraction = self._images.may_be_bad, self._images.decoding.max_bad_fraction
        if len(self._found) > allowed:
            raise DataError(bad_images.message("training", sorted(self._found.values()), fraction, allowed))

    def take_line(self, epoch: int) -> str:
        """Record, and return a note for the end of an epoch, or ""."""
        self.record()
        skipped, self.skipped = self.skipped, 0
        parts = []
        if self._images is not None and self._total:
            number = f"{self._total:,} bad training image{'s' * (self._total > 1)}"
            parts.append(f"{number} so far, masked ({self._images.may_be_bad:,} allowed; {bad_images.FILE} names them)")
        if skipped:
            parts.append(f"{skipped:,} step{'s' * (skipped > 1)} skipped, because every image in the batch was bad")
        return f"epoch {epoch}: {'; '.join(parts)}" if parts else ""
