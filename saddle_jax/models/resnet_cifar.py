"""ResNets for small images: 3x3 stem, three stages of 16, 32, 64 filters, parameter-free shortcuts (He et al., 2016).

ResNet-32 at width 1 is the narrow network of the paper, with 0.46 million parameters. The network that GLMC's authors
call ResNet-32 has four times the filters and 7.4 million parameters; here it is the wide one. Names follow the
reference's, so that its checkpoints map to ours name by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from saddle_jax.models import heads
from saddle_jax.models.batchnorm import BatchNorm


class Architecture(NamedTuple):
    """The settings in which the networks differ."""

    blocks: int  # in each of the three stages
    filters: int = 16  # of the first stage; each later stage has twice as many as the one before


ARCHITECTURES = {
    "resnet8": Architecture(1),
    "resnet20": Architecture(3),
    "resnet32": Architecture(5),
    "resnet44": Architecture(7),
    "resnet56": Architecture(9),
    "resnet110": Architecture(18),
    "wide_resnet32": Architecture(5, filters=64),
}


class ResNet(nn.Module):
    """A backbone from images to features."""

    architecture: Architecture
    width: float  # factor on all filters
    dtype: jnp.dtype | None  # of the layers' arithmetic; None: that of the images
    remat: bool  # recompute blocks in the backward pass instead of keeping their inner values
    conv: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, images_BHWK: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        """Return features (B, D) for normalized images. Masked rows do not enter the statistics."""
        x = images_BHWK if self.dtype is None else images_BHWK.astype(self.dtype)
        filters = [max(1, round(self.width * self.architecture.filters * 2**stage)) for stage in range(3)]
        x = _conv(self.conv, filters[0], 1, self.dtype, "conv1")(x)
        x = self.norm(name="bn1")(x, mask_B, train, rectify=True)
        kind = nn.remat(Block, static_argnums=(3,)) if self.remat else Block  # 3: train
        for stage, size in enumerate(filters):
            for block in range(self.architecture.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"layer{stage + 1}_{block}"
                x = kind(size, stride, self.dtype, self.conv, self.norm, name=name)(x, mask_B, train)
        return x.mean((1, 2)).astype(jnp.promote_types(x.dtype, jnp.float32))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut that subsamples and pads channels with zeros (option A)."""

    filters: int
    stride: int
    dtype: jnp.dtype | None
    conv: Callable[..., nn.Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        """Return relu(convolutions(x) + shortcut(x))."""
        y = _conv(self.conv, self.filters, self.stride, self.dtype, "conv1")(x)
        y = self.norm(name="bn1")(y, mask_B, train, rectify=True)
        y = _conv(self.conv, self.filters, 1, self.dtype, "conv2")(y)
        missing = self.filters - x.shape[-1]
        shortcut = x[:, :: self.stride, :: self.stride]
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        return self.norm(name="bn2")(y, mask_B, train, residual=shortcut, rectify=True)


def _conv(conv: Callable[..., nn.Conv], filters: int, stride: int, dtype: jnp.dtype | None, name: str) -> nn.Conv:
    return conv(
        filters,
        (3, 3),
        strides=stride,
        padding=1,
        use_bias=False,
        kernel_init=heads.kaiming_normal,
        dtype=dtype,
        param_dtype=jnp.result_type(float),
        name=name,
    )
