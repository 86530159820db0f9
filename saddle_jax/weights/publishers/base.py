"""What the tables of publishers' names have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np

Tensors = dict[str, np.ndarray]


class Publisher(NamedTuple):
    """A publisher that has its own names for weights, and their translation to timm's names and layouts."""

    name: str
    recognizes: Callable[[Collection[str]], bool]  # the names of all tensors -> whether they are the publisher's
    translate: Callable[[Tensors], Tensors]  # tensors under the publisher's names -> under timm's
