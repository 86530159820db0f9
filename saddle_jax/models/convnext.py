"""ConvNeXt: residual blocks of a 7x7 depthwise convolution and two layers, with LayerNorm (Liu et al., CVPR 2022).

The networks equal timm's convnext_tiny and convnext_base and follow their names. Features are the means over the
pixels, normalized: what timm's classifier sees. The images have at least 32 pixels on each side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from saddle_jax.models import networks
from saddle_jax.models.base import Network, from_flax

_EPSILON = 1e-6  # of LayerNorm
_LAYER_SCALE = 1e-6  # initial factor on a block's output
_kernel_init = nn.initializers.normal(0.02)


class Architecture(NamedTuple):
    """The settings in which the networks differ."""

    blocks: tuple[int, int, int, int]  # in each stage
    filters: tuple[int, int, int, int]


ARCHITECTURES = {
    "convnext_tiny": Architecture((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_base": Architecture((3, 3, 27, 3), (128, 256, 512, 1024)),
}


class ConvNeXt(nn.Module):
    """A backbone from images to features."""

    architecture: Architecture
    width: float  # factor on all filters
    drop_path: float  # probability that an image skips the last block in training; it rises from 0 in the first one
    dtype: jnp.dtype | None  # of the layers' arithmetic, except that of norms; None: that of the images
    remat: bool  # recompute blocks in the backward pass instead of keeping their inner values
    conv: Callable[..., nn.Conv]

    @nn.compact
    def __call__(self, images_BHWK: jax.Array, train: bool) -> jax.Array:
        """Return features (B, D) for normalized images.

        Raises:
          ValueError: the images are smaller than 32 pixels.
        """
        if min(images_BHWK.shape[1:3]) < 32:
            height, width = images_BHWK.shape[1:3]
            raise ValueError(
                f"ConvNeXt: found images of {height} x {width} pixels, expected 32 or more. Fix: enlarge them"
            )
        x = images_BHWK if self.dtype is None else images_BHWK.astype(self.dtype)
        layer = {"dtype": self.dtype, "conv": self.conv}
        filters = [max(1, round(self.width * count)) for count in self.architecture.filters]
        x = _conv(self, filters[0], 4, 4, "stem_0")(x)
        x = _norm(self.dtype, "stem_1")(x)
        rates = iter(self._rates())
        for stage, blocks in enumerate(self.architecture.blocks):
            stage_rates = tuple(next(rates) for _ in range(blocks))
            name = f"stages_{stage}"
            x = Stage(filters[stage], stage > 0, stage_rates, remat=self.remat, **layer, name=name)(x, train)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))
        return Head(name="head")(x)

    def _rates(self) -> list[float]:
        """Return each block's rate of stochastic depth."""
        count = sum(self.architecture.blocks)
        return [self.drop_path * index / max(1, count - 1) for index in range(count)]


class Stage(nn.Module):
    """Blocks of the same shape, with a convolution of stride 2 before them if it `halves` the size."""

    filters: int
    halves: bool
    drop_paths: tuple[float, ...]  # of its blocks
    dtype: jnp.dtype | None
    conv: Callable[..., nn.Conv]
    remat: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the blocks' output."""
        if self.halves:
            x = _norm(self.dtype, "downsample_0")(x)
            x = _conv(self, self.filters, 2, 2, "downsample_1")(x)
        kind = nn.remat(Block, static_argnums=(2,)) if self.remat else Block  # 2: train
        for index, rate in enumerate(self.drop_paths):
            x = kind(rate, self.dtype, self.conv, name=f"blocks_{index}")(x, train)
        return x


class Block(nn.Module):
    """A depthwise convolution and two layers beside a shortcut.

    In training, an image skips them with the probability `drop_path`; where it doesn't, they count 1 / (1 - drop_path)
    times (stochastic depth, Huang et al., ECCV 2016).
    """

    drop_path: float
    dtype: jnp.dtype | None
    conv: Callable[..., nn.Conv]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return x + gamma · layers(x)."""
        filters = x.shape[-1]
        y = _conv(self, filters, 7, 1, "conv_dw", padding=3, groups=filters)(x)
        y = _norm(self.dtype, "norm")(y)
        y = MLP(self.dtype, name="mlp")(y)
        y = y * self.param("gamma", nn.initializers.constant(_LAYER_SCALE), (filters,), jnp.result_type(float))
        y = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train)(y.astype(x.dtype))
        return x + y


class MLP(nn.Module):
    """Two layers, the inner one with four times the features."""

    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return features of the same shape."""
        fields = {"kernel_init": _kernel_init, "dtype": self.dtype, "param_dtype": jnp.result_type(float)}
        y = nn.Dense(4 * x.shape[-1], **fields, name="fc1")(x)
        return nn.Dense(x.shape[-1], **fields, name="fc2")(nn.gelu(y, approximate=False))


class Head(nn.Module):
    """The norm before the classifier."""

    @nn.compact
    def __call__(self, x_BD: jax.Array) -> jax.Array:
        """Return normalized features."""
        return _norm(None, "norm")(x_BD)


def make(fields: Any, model: ConfigDict, num_classes: int, axis_name: str | None) -> Network:
    """Return the ConvNeXt that `model` describes; `fields` holds `drop_path`."""
    del axis_name
    backbone = ConvNeXt(
        ARCHITECTURES[model.name],
        width=model.width,
        drop_path=fields.drop_path,
        dtype=networks.arithmetic(model),
        remat=model.remat,
        conv=networks.make_conv(model),
    )
    return from_flax(backbone, networks.make_head(model, num_classes))


def _conv(
    module: Any, filters: int, size: int, stride: int, name: str, *, padding: int = 0, groups: int = 1
) -> nn.Conv:
    return module.conv(
        filters,
        (size, size),
        strides=stride,
        padding=padding,
        feature_group_count=groups,
        kernel_init=_kernel_init,
        dtype=module.dtype,
        param_dtype=jnp.result_type(float),
        name=name,
    )


def _norm(dtype: jnp.dtype | None, name: str) -> nn.LayerNorm:
    """Return a LayerNorm, whose statistics are float32 or wider."""
    return nn.LayerNorm(_EPSILON, dtype=dtype, param_dtype=jnp.result_type(float), use_fast_variance=False, name=name)
