"""Which parameters of a network are trained, and how deep each of them lies: `model.train` and `optim.layer_decay`.

Both go by the names of a network's parameters. Blocks are the entries whose names end in numbers, in the order of these
numbers: blocks_0, blocks_1, ..., or layer1_0, layer1_1, layer2_0, .... The stem lies below them, all else above them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from saddle_jax.models.adapters import ADAPTERS
from saddle_jax.models.base import Network, Params

Mask = Callable[[Params], Any]  # parameters -> a tree of bools

_STEM = re.compile(r"(conv1|bn1|conv_stem|stem.*|patch_embed|cls_token|pos_embed|reg_token|norm_pre)")
_BLOCK = re.compile(r"\D+(\d+)(?:_(\d+))*")


def trained(choice: str, network: Network) -> Mask | None:
    """Return which parameters `model.train` selects, or None for all of them."""
    if choice == "all":
        return None

    def mask(params: Params) -> Any:
        paths = traverse_util.flatten_dict(params)
        classifier = traverse_util.flatten_dict(network.is_classifier(params))
        of_norms = traverse_util.flatten_dict(norms(params))
        depth = depths(params)
        first = max(depth.values()) - int(choice.partition("_")[2]) if choice.startswith("last_") else None

        def is_chosen(path: tuple[str, ...]) -> bool:
            if choice == "norm":
                return bool(of_norms[path])
            if choice == "bias":
                return path[-1] == "bias"
            if choice in ADAPTERS:
                return not set(ADAPTERS[choice]).isdisjoint(path)
            return first is not None and depth[path[0]] >= first

        return traverse_util.unflatten_dict({path: classifier[path] or is_chosen(path) for path in paths})

    return mask


def norms(params: Params) -> Any:
    """Return which parameters are scales and biases of normalization layers, as a tree of bools."""
    # A normalization's bias lies beside its scale, of which an optimizer may see only the place (`optim.link.only`). A
    # module that has modules of its own beside a scale, such as AdaptFormer, is none.
    is_norm = "scale" in params and not any(isinstance(part, dict) for part in params.values())
    return {
        name: norms(part) if isinstance(part, dict) else jax.tree.map(lambda _: is_norm, part)
        for name, part in params.items()
    }


def depths(params: Params) -> dict[str, int]:
    """Return how deep each entry of the parameters lies: 0 for the stem, then blocks, and one more for all above."""
    blocks = sorted((name for name in params if _is_block(name)), key=_numbers)
    of_block = {name: depth for depth, name in enumerate(blocks, start=1)}
    return {name: 0 if _STEM.fullmatch(name) else of_block.get(name, len(blocks) + 1) for name in params}


def decayed_rates(params: Params, decay: float) -> Any:
    """Return the factor on each parameter's learning rate: 1 above the blocks, times `decay` for each block below.

    This is BEiT's layer-wise decay (Bao et al., ICLR 2022).
    """
    depth = depths(params)
    top = max(depth.values())
    return {name: jax.tree.map(lambda _, n=name: decay ** (top - depth[n]), tree) for name, tree in params.items()}


def frozen(network: Network) -> Network:
    """Return a network whose backbone computes as in evaluation. It also takes its own features in place of images."""

    def features(
        params: Params, model_state: Any, images_BHWK: jax.Array, mask_B: jax.Array, **how: Any
    ) -> tuple[jax.Array, Any]:
        del how
        if images_BHWK.ndim == 2:  # features that were computed before
            return images_BHWK, model_state
        return network.features(params, model_state, images_BHWK, mask_B, train=False)[0], model_state

    return network._replace(features=features)


def resized(network: Network, side: int) -> Network:
    """Return a network that brings images to `side` x `side` pixels and three channels before all else.

    Sizes change bicubically and antialiased. A gray image gets three equal channels.
    """

    def init(key: jax.Array, image_shape: tuple[int, ...]) -> tuple[Params, Any]:
        del image_shape
        return network.init(key, (side, side, 3))

    def features(
        params: Params, model_state: Any, images_BHWK: jax.Array, mask_B: jax.Array, **how: Any
    ) -> tuple[jax.Array, Any]:
        _, height, width, channels = images_BHWK.shape
        rows_SH, columns_SW = (_resizing(length, side, images_BHWK.dtype) for length in (height, width))
        images = jnp.einsum("bhwk,sh,tw->bstk", images_BHWK, rows_SH, columns_SW, precision="highest")
        images = jnp.repeat(images, 3, axis=-1) if channels == 1 else images
        return network.features(params, model_state, images, mask_B, **how)

    return network._replace(init=init, features=features)


@functools.cache
def _resizing(length: int, side: int, dtype: jnp.dtype) -> np.ndarray:
    """Return the matrix that resizes an axis. As a constant, it works for any number of images, also in exports."""
    with jax.ensure_compile_time_eval():
        return np.asarray(jax.image.resize(jnp.eye(length, dtype=dtype), (side, length), "cubic"))


def hold(params: Params, mask: Mask | None) -> Params:
    """Return the parameters, with no gradient through those that `mask` leaves out."""
    if mask is None:
        return params
    return jax.tree.map(lambda chosen, x: x if chosen else jax.lax.stop_gradient(x), mask(params), params)


def _is_block(name: str) -> bool:
    return bool(_BLOCK.fullmatch(name)) and not _STEM.fullmatch(name)


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
