"""EfficientNet-Lite: EfficientNets without squeeze-and-excitation and with ReLU6, for phones and CPUs.

The networks equal timm's tf_efficientnet_lite0 to lite2 (Tan and Le, 2019; Google's Lite variants, 2020) and follow
their names. Convolutions pad as TensorFlow does: an odd zero goes to the right and to the bottom.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from saddle_jax.models import networks
from saddle_jax.models.base import Network, from_flax
from saddle_jax.models.batchnorm import BatchNorm

_EPSILON = 1e-3  # of BatchNorm
# Normal with variance 2 / (height · width · filters), not truncated; of a depthwise kernel 2 / (height · width).
_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_DEPTHWISE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Stage(NamedTuple):
    """Blocks of the same shape; only the first one has the stride."""

    blocks: int
    size: int  # of the depthwise kernel
    stride: int
    expansion: int  # filters of the depthwise convolution per filter of the block's input
    filters: int


class Architecture(NamedTuple):
    """The settings in which the networks differ: factors on the stages' filters and blocks."""

    width: float = 1.0
    depth: float = 1.0  # the first and the last stage keep their number of blocks
    stages: tuple[Stage, ...] = (
        Stage(1, 3, 1, 1, 16),
        Stage(2, 3, 2, 6, 24),
        Stage(2, 5, 2, 6, 40),
        Stage(3, 3, 2, 6, 80),
        Stage(3, 5, 1, 6, 112),
        Stage(4, 5, 2, 6, 192),
        Stage(1, 3, 1, 6, 320),
    )


ARCHITECTURES = {
    "efficientnet_lite0": Architecture(),
    "efficientnet_lite1": Architecture(depth=1.1),
    "efficientnet_lite2": Architecture(width=1.1, depth=1.2),
}


class EfficientNetLite(nn.Module):
    """A backbone from images to features."""

    architecture: Architecture
    width: float  # factor on all filters, also on those of the first and the last convolution
    dtype: jnp.dtype | None  # of the layers' arithmetic; None: that of the images
    remat: bool  # recompute blocks in the backward pass instead of keeping their inner values
    conv: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, images_BHWK: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        """Return features (B, D) for normalized images. Masked rows do not enter the statistics."""
        x = images_BHWK if self.dtype is None else images_BHWK.astype(self.dtype)
        layer = {"dtype": self.dtype, "conv": self.conv, "norm": self.norm}
        x = _conv(self, _rounded(32 * self.width), 3, 2, "conv_stem")(x)
        x = _clipped(self.norm(name="bn1")(x, mask_B, train, rectify=True))
        kind = nn.remat(Block, static_argnums=(3,)) if self.remat else Block  # 3: train
        stages = self.architecture.stages
        for number, stage in enumerate(stages):
            scales = 0 < number < len(stages) - 1
            filters = _rounded(stage.filters * self.architecture.width * self.width)
            for block in range(math.ceil(stage.blocks * self.architecture.depth) if scales else stage.blocks):
                shape = stage._replace(stride=1 if block else stage.stride, filters=filters)
                x = kind(shape, **layer, name=f"blocks_{number}_{block}")(x, mask_B, train)
        x = _conv(self, _rounded(1280 * self.width), 1, 1, "conv_head")(x)
        x = _clipped(self.norm(name="bn2")(x, mask_B, train, rectify=True))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))


class Block(nn.Module):
    """A depthwise convolution between two 1x1 convolutions, of which the second is linear.

    Without expansion, the first 1x1 convolution is left out.
    """

    shape: Stage
    dtype: jnp.dtype | None
    conv: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        """Return the convolutions of x, plus x if the shapes are the same."""
        shape, expands = self.shape, self.shape.expansion > 1
        shortcut = x if shape.stride == 1 and x.shape[-1] == shape.filters else None
        if expands:
            x = _conv(self, shape.expansion * x.shape[-1], 1, 1, "conv_pw")(x)
            x = _clipped(self.norm(name="bn1")(x, mask_B, train, rectify=True))
        x = _conv(self, x.shape[-1], shape.size, shape.stride, "conv_dw", groups=x.shape[-1])(x)
        x = _clipped(self.norm(name="bn2" if expands else "bn1")(x, mask_B, train, rectify=True))
        x = _conv(self, shape.filters, 1, 1, "conv_pwl" if expands else "conv_pw")(x)
        return self.norm(name="bn3" if expands else "bn2")(x, mask_B, train, residual=shortcut)


def make(fields: Any, model: ConfigDict, num_classes: int, axis_name: str | None) -> Network:
    """Return the EfficientNet-Lite that `model` describes. It has no fields of its own."""
    del fields
    backbone = EfficientNetLite(
        ARCHITECTURES[model.name],
        width=model.width,
        dtype=networks.arithmetic(model),
        remat=model.remat,
        conv=networks.make_conv(model),
        norm=networks.make_norm(model, axis_name, epsilon=_EPSILON),
    )
    return from_flax(backbone, networks.make_head(model, num_classes))


def _conv(module: Any, filters: int, size: int, stride: int, name: str, groups: int = 1) -> nn.Conv:
    return module.conv(
        filters,
        (size, size),
        strides=stride,
        padding="SAME",
        feature_group_count=groups,
        use_bias=False,
        kernel_init=_FAN_OUT if groups == 1 else _DEPTHWISE,
        dtype=module.dtype,
        param_dtype=jnp.result_type(float),
        name=name,
    )


def _clipped(x: jax.Array) -> jax.Array:
    """Return min(x, 6), which makes a ReLU6 of a rectifier. The derivative at 6 is 0, as in PyTorch."""
    return jnp.where(x >= 6, jnp.full_like(x, 6), x)


def _rounded(filters: float) -> int:
    """Return a near multiple of 8 that is at least 0.9 times as large, by the rule of TensorFlow's code."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * filters else rounded + 8
