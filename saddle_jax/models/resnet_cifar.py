"""ResNets for small images: 3x3 stem, three stages of 16, 32, 64 filters, parameter-free shortcuts (He et al., 2016).

ResNet-32 at width 1 has 0.46 million parameters: the narrow network of the paper. Names follow the reference's, so that
its checkpoints map to ours name by name.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from saddle_jax.models import heads
from saddle_jax.models.activation import relu
from saddle_jax.models.batchnorm import BatchNorm

BLOCKS_PER_STAGE = {"resnet8": 1, "resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}


class ResNet(nn.Module):
    """Images to features."""

    blocks: int  # in each of the three stages
    width: float
    dtype: jnp.dtype | None  # of the layers' arithmetic; None is that of the images
    remat: bool  # compute blocks again in the backward pass instead of keeping what is inside them
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, images_BHWK: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        """Return features (B, D) for normalised images; masked rows enter no statistics."""
        x = images_BHWK if self.dtype is None else images_BHWK.astype(self.dtype)
        filters = [max(1, round(self.width * size)) for size in (16, 32, 64)]
        x = _conv(filters[0], 1, self.dtype, "conv1")(x)
        x = relu(self.norm(name="bn1")(x, mask_B, train))
        kind = nn.remat(Block, static_argnums=(3,)) if self.remat else Block  # 3: train
        for stage, size in enumerate(filters):
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"layer{stage + 1}_{block}"
                x = kind(size, stride, self.dtype, self.norm, name=name)(x, mask_B, train)
        return x.mean((1, 2)).astype(jnp.promote_types(x.dtype, jnp.float32))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut that subsamples and pads channels with zeros (option A)."""

    filters: int
    stride: int
    dtype: jnp.dtype | None
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(self, x: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        """Return relu(convolutions(x) + shortcut(x))."""
        y = _conv(self.filters, self.stride, self.dtype, "conv1")(x)
        y = relu(self.norm(name="bn1")(y, mask_B, train))
        y = _conv(self.filters, 1, self.dtype, "conv2")(y)
        y = self.norm(name="bn2")(y, mask_B, train)
        missing = self.filters - x.shape[-1]
        shortcut = x[:, :: self.stride, :: self.stride]
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        return relu(y + shortcut)


def _conv(filters: int, stride: int, dtype: jnp.dtype | None, name: str) -> nn.Conv:
    return nn.Conv(
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
