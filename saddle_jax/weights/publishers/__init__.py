"""Weights under whatever names they were published with, recognized by these names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from saddle_jax.errors import CheckpointError
from saddle_jax.models.vit import resize_positions
from saddle_jax.weights.names import prefix_of
from saddle_jax.weights.publishers import convnext, efficientnet_lite, resnet, vit
from saddle_jax.weights.publishers.base import Tensors

_PUBLISHERS = tuple(one for family in (vit, convnext, efficientnet_lite, resnet) for one in family.PUBLISHERS)
_POSITIONS = "pos_embed"


def to_timm(tensors: Tensors) -> tuple[Tensors, str]:
    """Return a file's tensors under timm's names, and whose names the file has."""
    tensors = {name[len(prefix_of(name)) :]: tensor for name, tensor in tensors.items()}
    for publisher in _PUBLISHERS:
        if publisher.recognizes(tensors.keys()):
            return publisher.translate(tensors), publisher.name
    return tensors, "timm or torchvision"


def fitted(tensors: Tensors, params: Mapping[str, Any]) -> Tensors:
    """Return tensors under timm's names, with position embeddings for as many patches as the network has.

    Raises:
      CheckpointError: the patches of either are not those of a square image.
    """
    found, wanted = tensors.get(_POSITIONS), params.get(_POSITIONS)
    if found is None or wanted is None or found.shape == wanted.shape or found.ndim != 3:
        return tensors
    patches = wanted.shape[1] - found.shape[1] + math.isqrt(found.shape[1]) ** 2
    side = math.isqrt(max(patches, 0))
    if side**2 != patches:
        raise CheckpointError(
            f"pos_embed: found {found.shape[1]} positions, and the network has {wanted.shape[1]}. Only square images "
            "can be fitted to a file. Fix: --config.data.image_size, or model.input_size"
        )
    try:
        resized = np.asarray(resize_positions(found.astype(np.float32), (side, side)))
    except ValueError as error:
        raise CheckpointError(f"{error}. Fix: a file with a square grid of patches") from error
    return {**tensors, _POSITIONS: resized}
