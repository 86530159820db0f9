"""Lengths of runs and positions in them: "200 epochs", "3000 steps", "80%"."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any, NamedTuple

_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|steps?|epochs?)\s*$")


class Duration(NamedTuple):
    """A length or a position in the run: `amount` of `unit` (steps, epochs or %)."""

    amount: float
    unit: str

    def steps(self, steps_per_epoch: int, total_steps: int | None = None) -> int:
        """Return the nearest whole number of steps, where a half counts as one. A percentage needs `total_steps`."""
        if self.unit == "%" and total_steps is None:
            raise ValueError("a percentage needs the length of the run")
        units = {"steps": 1, "epochs": steps_per_epoch, "%": Fraction(total_steps or 0, 100)}
        # Fractions: in floating point, 29 % of 50 steps is less than 14.5.
        return math.floor(Fraction(repr(self.amount)) * units[self.unit] + Fraction(1, 2))


def parse_duration(value: Any) -> Duration:
    """Read "200 epochs", "3000 steps", "80%", or a bare number of epochs.

    Raises:
      ValueError: it is none of these.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return Duration(float(value), "epochs")
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"found {value!r}, expected a duration such as '200 epochs', '3000 steps' or '80%'")
    unit = match[2] if match[2] == "%" else match[2].rstrip("s") + "s"
    return Duration(float(match[1]), unit)
