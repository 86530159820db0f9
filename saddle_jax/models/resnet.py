"""ResNets and ResNeXts for large images: 7x7 stem, max-pool, four stages of 64 to 512 filters (He et al., 2016).

The networks equal torchvision's and follow its names; a bottleneck has its stride in the 3x3 convolution ("v1.5").
ResNet-10 comes from the long-tail literature and has one basic block per stage. The CIFAR ResNet-34 is a variant for
small images: 3x3 stem, no max-pool, 21 million parameters. Images may have any size from 1 pixel up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from saddle_jax.models.batchnorm import BatchNorm
from saddle_jax.models.pooling import max_pool

# PyTorch's kaiming_normal_ with mode="fan_out", not truncated; grouped kernels count the filters of all groups.
_kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Architecture(NamedTuple):
    """The settings in which the networks differ."""

    blocks: tuple[int, int, int, int]  # in each stage
    bottleneck: bool
    groups: int = 1  # of the 3x3 convolution; bottlenecks only
    group_width: int = 64  # filters of each of its groups in the first stage; bottlenecks only
    small_images: bool = False  # 3x3 stem that keeps the image's size, no max-pool


ARCHITECTURES = {
    "resnet10": Architecture((1, 1, 1, 1), bottleneck=False),
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3), bottleneck=True),
    "resnet101": Architecture((3, 4, 23, 3), bottleneck=True),
    "resnet152": Architecture((3, 8, 36, 3), bottleneck=True),
    "cifar_resnet34": Architecture((3, 4, 6, 3), bottleneck=False, small_images=True),
    "resnext50_32x4d": Architecture((3, 4, 6, 3), bottleneck=True, groups=32, group_width=4),
}


class ResNet(nn.Module):
    """A backbone from images to features."""

    architecture: Architecture
    width: float  # factor on all filters; for a ResNeXt, on those of each group
    dtype: jnp.dtype | None  # of the layers' arithmetic; None: that of the images
    remat: bool  # recompute blocks in the backward pass instead of keeping their inner values
    conv: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, images_BHWK: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        """Return features (B, D) for normalized images. Masked rows do not enter the statistics."""
        x = images_BHWK if self.dtype is None else images_BHWK.astype(self.dtype)
        size, stride = (3, 1) if self.architecture.small_images else (7, 2)
        x = _conv(self.conv, self._scaled(64), size, stride, self.dtype, "conv1")(x)
        x = self.norm(name="bn1")(x, mask_B, train, rectify=True)
        x = x if self.architecture.small_images else max_pool(x)
        for stage, blocks in enumerate(self.architecture.blocks):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = self._block(stage, stride, f"layer{stage + 1}_{block}")(x, mask_B, train)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))

    def _block(self, stage: int, stride: int, name: str) -> nn.Module:
        shape = self.architecture
        filters = self._scaled(64 * 2**stage)
        fields: dict[str, Any] = {"filters": filters}
        if shape.bottleneck:
            inner = shape.groups * self._scaled(shape.group_width * 2**stage)
            fields = {"filters": 4 * filters, "inner": inner, "groups": shape.groups}
        kind = Bottleneck if shape.bottleneck else Basic
        kind = nn.remat(kind, static_argnums=(3,)) if self.remat else kind  # 3: train
        return kind(**fields, stride=stride, dtype=self.dtype, conv=self.conv, norm=self.norm, name=name)

    def _scaled(self, filters: int) -> int:
        return max(1, round(self.width * filters))


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    filters: int
    stride: int
    dtype: jnp.dtype | None
    conv: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        """Return relu(convolutions(x) + shortcut(x))."""
        y = _conv(self.conv, self.filters, 3, self.stride, self.dtype, "conv1")(x)
        y = self.norm(name="bn1")(y, mask_B, train, rectify=True)
        y = _conv(self.conv, self.filters, 3, 1, self.dtype, "conv2")(y)
        if self.stride > 1 or x.shape[-1] != self.filters:
            x = _conv(self.conv, self.filters, 1, self.stride, self.dtype, "downsample_conv")(x)
            x = self.norm(name="downsample_bn")(x, mask_B, train)
        return self.norm(name="bn2")(y, mask_B, train, residual=x, rectify=True)


class Bottleneck(nn.Module):
    """A 3x3 convolution, possibly grouped, between two 1x1 convolutions, beside a shortcut."""

    filters: int  # of its output
    inner: int  # of the 3x3 convolution
    groups: int
    stride: int
    dtype: jnp.dtype | None
    conv: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        """Return relu(convolutions(x) + shortcut(x))."""
        y = _conv(self.conv, self.inner, 1, 1, self.dtype, "conv1")(x)
        y = self.norm(name="bn1")(y, mask_B, train, rectify=True)
        y = _conv(self.conv, self.inner, 3, self.stride, self.dtype, "conv2", self.groups)(y)
        y = self.norm(name="bn2")(y, mask_B, train, rectify=True)
        y = _conv(self.conv, self.filters, 1, 1, self.dtype, "conv3")(y)
        if self.stride > 1 or x.shape[-1] != self.filters:
            x = _conv(self.conv, self.filters, 1, self.stride, self.dtype, "downsample_conv")(x)
            x = self.norm(name="downsample_bn")(x, mask_B, train)
        return self.norm(name="bn3")(y, mask_B, train, residual=x, rectify=True)


def _conv(
    conv: Callable[..., nn.Conv],
    filters: int,
    size: int,
    stride: int,
    dtype: jnp.dtype | None,
    name: str,
    groups: int = 1,
) -> nn.Conv:
    return conv(
        filters,
        (size, size),
        strides=stride,
        padding=size // 2,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=_kaiming_normal,
        dtype=dtype,
        param_dtype=jnp.result_type(float),
        name=name,
    )
