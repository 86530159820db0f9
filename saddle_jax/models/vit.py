"""Vision Transformers (Dosovitskiy et al., ICLR 2021) in the three variants whose weights are published.

The networks equal timm's and follow its names: `blocks.0.attn.qkv.weight` is `blocks_0/attn/qkv/kernel` here. Features
are the class token after the last norm. CLIP's are also multiplied by its projection, `proj`, so that they can be
compared with the text features of the same CLIP.

A network is built for one size of images, which its position embedding has; `resize_positions` adapts a published one.
Initial weights follow timm's, except that the bias of the patch embedding starts at 0.
Shapes: B images, H x W pixels, K channels, T tokens, D features, N heads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError
from saddle_jax.models import adapters, heads, networks
from saddle_jax.models.base import Network, from_flax

_normal = nn.initializers.normal(0.02)  # timm's trunc_normal_ cuts at 100 standard deviations, which never happens


class Architecture(NamedTuple):
    """The sizes of a network."""

    patch: int  # side in pixels
    dim: int
    depth: int  # blocks
    heads: int
    projection: int  # dimensions of CLIP's features


_SIZES = {"s": (384, 12, 6, 384), "b": (768, 12, 12, 512), "l": (1024, 24, 16, 768)}
ARCHITECTURES = {
    f"vit_{size}{patch}": Architecture(patch, *numbers) for patch in (16, 14) for size, numbers in _SIZES.items()
}


def quick_gelu(x: jax.Array) -> jax.Array:
    """Return x * sigmoid(1.702 x), CLIP's approximation of GELU."""
    return x * nn.sigmoid(1.702 * x)


class Variant(NamedTuple):
    """What the publishers chose differently."""

    epsilon: float  # of the norms
    activation: Callable[[jax.Array], jax.Array]
    is_clip: bool = False  # no bias in the patch embedding, a norm before the blocks, a projection after them
    layer_scale: float | None = None  # initial factor on what a block adds, learned for each feature; None: no factor


_gelu = functools.partial(nn.gelu, approximate=False)
VARIANTS = {
    "augreg": Variant(1e-6, _gelu),
    "clip": Variant(1e-5, quick_gelu, is_clip=True),
    "dinov2": Variant(1e-6, _gelu, layer_scale=1e-5),
}


class VisionTransformer(nn.Module):
    """A backbone from images to features."""

    architecture: Architecture
    variant: Variant
    registers: int = 0  # tokens beside the class token. With any, the position embedding is that of the patches alone.
    drop_path: float = 0.0  # rate of the last block, see `Block`
    adapter: str = "none"  # or one of adapters.ADAPTERS, in every block
    rank: int = 0  # of the adapters
    dtype: jnp.dtype | None = None  # of the layers' arithmetic; None: that of the images. Norms and softmax: float32
    remat: bool = False  # recompute blocks in the backward pass instead of keeping their inner values
    conv: Callable[..., nn.Conv] = nn.Conv

    @nn.compact
    def __call__(self, images_BHWK: jax.Array, train: bool) -> jax.Array:
        """Return features (B, D) for normalized images.

        Raises:
          ConfigError: the images can't be cut into patches.
        """
        shape, variant = self.architecture, self.variant
        grid = _grid(images_BHWK.shape[1:3], shape.patch)
        x = images_BHWK if self.dtype is None else images_BHWK.astype(self.dtype)
        x = PatchEmbed(shape, not variant.is_clip, self.dtype, self.conv, name="patch_embed")(x)
        tokens = [self._tokens("cls_token", 1, 1e-6)]
        if self.registers:
            tokens.append(self._tokens("reg_token", self.registers, 1e-6))
        positions = self._tokens("pos_embed", math.prod(grid) + (0 if self.registers else 1), 0.02).astype(x.dtype)
        x = x + positions if self.registers else x
        x = jnp.concatenate([*(jnp.broadcast_to(t, (len(x), *t.shape[1:])).astype(x.dtype) for t in tokens), x], 1)
        x = x if self.registers else x + positions
        if variant.is_clip:
            x = _norm(variant, self.dtype, "norm_pre")(x)
        kind = nn.remat(Block, static_argnums=(2,)) if self.remat else Block  # 2: train
        for index in range(shape.depth):
            rate = self.drop_path * index / max(1, shape.depth - 1)
            x = kind(shape, variant, rate, self.adapter, self.rank, self.dtype, name=f"blocks_{index}")(x, train)
        x = _norm(variant, self.dtype, "norm")(x[:, 0])
        if variant.is_clip:
            x = _dense(shape.projection, self.dtype, "proj", use_bias=False)(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _tokens(self, name: str, count: int, deviation: float) -> jax.Array:
        shape = (1, count, self.architecture.dim)
        return self.param(name, nn.initializers.normal(deviation), shape, jnp.result_type(float))


class PatchEmbed(nn.Module):
    """A linear map of each patch's pixels."""

    architecture: Architecture
    use_bias: bool
    dtype: jnp.dtype | None
    conv: Callable[..., nn.Conv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return patches (B, T, D), row by row."""
        shape = self.architecture
        x = self.conv(
            shape.dim,
            (shape.patch, shape.patch),
            strides=shape.patch,
            padding=0,
            use_bias=self.use_bias,
            kernel_init=heads.pytorch_uniform,
            dtype=self.dtype,
            param_dtype=jnp.result_type(float),
            name="proj",
        )(x)
        return x.reshape(x.shape[0], -1, shape.dim)


class Block(nn.Module):
    """Attention and two layers, each beside a shortcut.

    In training, an image skips each of the two parts with the probability `drop_path` (stochastic depth, Huang et al.,
    ECCV 2016); where it doesn't, the part counts 1 / (1 - drop_path) times. Adapters are never skipped.
    """

    architecture: Architecture
    variant: Variant
    drop_path: float
    adapter: str
    rank: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x_BTD: jax.Array, train: bool) -> jax.Array:
        """Return tokens (B, T, D)."""
        skip = functools.partial(nn.Dropout, self.drop_path, broadcast_dims=(1, 2), deterministic=not train)
        lora_rank = self.rank if self.adapter == "lora" else 0
        y = _norm(self.variant, self.dtype, "norm1")(x_BTD)
        y = Attention(self.architecture.heads, lora_rank, self.dtype, name="attn")(y)
        x_BTD = x_BTD + skip()(self._scaled(y, "ls1"))
        y = _norm(self.variant, self.dtype, "norm2")(x_BTD)
        y = skip()(self._scaled(MLP(self.variant.activation, self.dtype, name="mlp")(y), "ls2"))
        if self.adapter == "adaptformer":
            y = y + adapters.AdaptFormer(self.rank, self.dtype, name="adapter")(x_BTD)
        return x_BTD + y

    def _scaled(self, y: jax.Array, name: str) -> jax.Array:
        start = self.variant.layer_scale
        return y if start is None else LayerScale(start, name=name)(y)


class Attention(nn.Module):
    """Attention of several heads, each on its own part of the features."""

    heads: int
    lora_rank: int  # 0: no LoRA
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Return tokens (B, T, D). Products of queries and keys, and their softmax, have at least float32."""
        batch, tokens, dim = x_BTD.shape
        q, k, v = jnp.split(_dense(3 * dim, self.dtype, "qkv")(x_BTD), 3, -1)
        if self.lora_rank:
            q = q + adapters.LoRA(self.lora_rank, self.dtype, name="lora_q")(x_BTD)
            v = v + adapters.LoRA(self.lora_rank, self.dtype, name="lora_v")(x_BTD)
        q, k, v = (part.reshape(batch, tokens, self.heads, -1) for part in (q, k, v))
        exact = jnp.promote_types(q.dtype, jnp.float32)
        scores_BNTT = jnp.einsum("bqnd,bknd->bnqk", q, k, preferred_element_type=exact)
        weights_BNTT = nn.softmax(scores_BNTT * (dim // self.heads) ** -0.5).astype(v.dtype)
        y = jnp.einsum("bnqk,bknd->bqnd", weights_BNTT, v).reshape(batch, tokens, dim)
        return _dense(dim, self.dtype, "proj")(y)


class MLP(nn.Module):
    """Two layers, the inner one with four times the features."""

    activation: Callable[[jax.Array], jax.Array]
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Return tokens (B, T, D)."""
        dim = x_BTD.shape[-1]
        return _dense(dim, self.dtype, "fc2")(self.activation(_dense(4 * dim, self.dtype, "fc1")(x_BTD)))


class LayerScale(nn.Module):
    """A learned factor on each feature (Touvron et al., Going Deeper with Image Transformers, ICCV 2021)."""

    start: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return gamma * x."""
        gamma = self.param("gamma", nn.initializers.constant(self.start), x.shape[-1:], jnp.result_type(float))
        return x * gamma.astype(x.dtype)


def resize_positions(pos_embed: Any, grid: tuple[int, int]) -> jax.Array:
    """Return the position embedding of a square grid of patches for `grid` = (rows, columns), bicubic as in timm.

    Args:
      pos_embed: (1, side² or side² + 1, D); the extra one is the class token's, which stays as it is.

    Raises:
      ValueError: the number of patches is not a square.
    """
    pos_embed = jnp.asarray(pos_embed)
    _, tokens, dim = pos_embed.shape
    side = math.isqrt(tokens)
    others = tokens - side**2
    if others > 1:
        raise ValueError(
            f"pos_embed: found {tokens} positions, expected those of a square grid of patches, with or without one "
            "for the class token"
        )
    if grid == (side, side):
        return pos_embed
    patches = pos_embed[:, others:].reshape(1, side, side, dim)
    resized = jax.image.resize(patches, (1, *grid, dim), "bicubic", antialias=True)
    return jnp.concatenate([pos_embed[:, :others], resized.reshape(1, -1, dim)], 1)


def make(fields: ConfigDict, model: ConfigDict, num_classes: int, axis_name: str | None) -> Network:
    """Return the Vision Transformer that `model` describes; `fields` are the entry's own."""
    del axis_name
    architecture, train = ARCHITECTURES[model.name], model.get("train", "all")
    backbone = VisionTransformer(
        architecture,
        VARIANTS[fields.variant],
        registers=fields.registers,
        drop_path=fields.drop_path,
        adapter=train if train in adapters.ADAPTERS else "none",
        rank=model.get("rank", 0) or adapters.rank_of(num_classes, architecture.depth),
        dtype=networks.arithmetic(model),
        remat=model.remat,
        conv=networks.make_conv(model),
    )
    return from_flax(backbone, networks.make_head(model, num_classes))


def _grid(size: tuple[int, ...], patch: int) -> tuple[int, ...]:
    if any(side % patch for side in size):
        nearest = " x ".join(str(max(patch, round(side / patch) * patch)) for side in size)
        raise ConfigError(
            f"model.name: found images of {' x '.join(map(str, size))} pixels, expected sides that are multiples of "
            f"{patch}, the side of a patch. Fix: images of {nearest} pixels (--config.data.image_size), or another "
            "network"
        )
    return tuple(side // patch for side in size)


def _norm(variant: Variant, dtype: jnp.dtype | None, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(
        variant.epsilon, dtype=dtype, param_dtype=jnp.result_type(float), use_fast_variance=False, name=name
    )


def _dense(features: int, dtype: jnp.dtype | None, name: str, *, use_bias: bool = True) -> nn.Dense:
    return nn.Dense(features, use_bias, dtype=dtype, param_dtype=jnp.result_type(float), kernel_init=_normal, name=name)
