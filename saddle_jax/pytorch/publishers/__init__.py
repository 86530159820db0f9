"""Weights under whatever names they were published with, recognised by these names."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from saddle_jax.pytorch.names import prefix_of

FAMILIES: tuple[ModuleType, ...] = ()


def to_timm(tensors: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Return a file's tensors under timm's names, and who wrote the file."""
    tensors = {name[len(prefix_of(name)) :]: tensor for name, tensor in tensors.items()}
    for publisher in (publisher for family in FAMILIES for publisher in family.PUBLISHERS):
        if publisher.recognises(tensors.keys()):
            return publisher.translate(tensors), publisher.name
    return tensors, "timm or torchvision"


def fitted(tensors, asked):
    return tensors
