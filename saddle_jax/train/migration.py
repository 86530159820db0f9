"""Checkpoints of earlier formats, read as those of this one.

1  before optim.name: SAM alone, behind a sum over devices of its own, and it counted no gradient evaluations
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

OLDEST = 1
_CHAIN = "opt_state."
_SAMS_EVALUATIONS = 2


def leaves_of_format_1(stored: Mapping[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    """Return the leaves of a state under the names that they have now.

    A chain's links are named by their places, and links that keep nothing, of which there were more, leave no name.
    From its end on, where SGD's are, the links that keep something are those that are expected to.

    Args:
      stored: name -> leaf.
      expected: names of the leaves of the state that is wanted.
    """
    moved = dict(zip(reversed(_places(stored)), reversed(_places(expected)), strict=False))
    leaves = {}
    for name, leaf in stored.items():
        if name.startswith(_CHAIN):
            place, _, rest = name.removeprefix(_CHAIN).partition(".")
            link = f"{_CHAIN}{moved.get(place, place)}."
            name = link + rest
            if rest == "ascent_norm":
                leaves[f"{link}evaluations"] = np.array(_SAMS_EVALUATIONS, np.float32)
        leaves[name] = leaf
    return leaves


def running_mean_of_format_1(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return sums over the steps since the last log record, with that of the gradient evaluations."""
    if not stored.get("count"):  # no step since then, or weights that were imported
        return dict(stored)
    sums = stored["sums"]
    each = _SAMS_EVALUATIONS if sums["ascent_norm"] else 1  # without SAM that length was told as 0
    return {**stored, "sums": {**sums, "gradient_evaluations": float(each * stored["count"])}}


def _places(names: Iterable[str]) -> list[str]:
    """Return the places of a chain that keep something, in order."""
    return list(dict.fromkeys(name.split(".")[1] for name in names if name.startswith(_CHAIN)))
