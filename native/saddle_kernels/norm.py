"""Batch normalization, a residual, and a rectifier in one CPU kernel each way. No derivatives, no other platforms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from saddle_kernels.library import load


def norm_forward(
    x_BHWK: jax.Array,
    mask_B: jax.Array,
    scale_K: jax.Array,
    bias_K: jax.Array,
    residual_BHWK: jax.Array | None = None,
    *,
    epsilon: float,
    rectify: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return normalized images, and the mean and biased variance of every channel.

    The images become `(x - mean) / sqrt(variance + epsilon) * scale + bias + residual`, or max(0, ...) of it if
    `rectify`. Without an unmasked image they become `bias + residual`, and mean and variance are 0.

    Args:
      x_BHWK: (batch, height, width, channels), float32 or bfloat16; all else is float32.
      mask_B: images whose mask is 0 enter neither mean nor variance.
      residual_BHWK: of the images' dtype; None adds nothing.
    """
    load()
    channel = jax.ShapeDtypeStruct(scale_K.shape, jnp.float32)
    call = jax.ffi.ffi_call("saddle_norm_forward", (_like(x_BHWK), channel, channel), vmap_method="sequential")
    residual = () if residual_BHWK is None else (residual_BHWK,)
    arguments = x_BHWK, mask_B, scale_K, bias_K, *residual
    y_BHWK, mean_K, variance_K = call(*arguments, epsilon=np.float32(epsilon), rectify=rectify)
    return y_BHWK, mean_K, variance_K


def norm_backward(
    cotangent_BHWK: jax.Array,
    x_BHWK: jax.Array,
    y_BHWK: jax.Array | None,
    mask_B: jax.Array,
    scale_K: jax.Array,
    bias_K: jax.Array,
    mean_K: jax.Array,
    variance_K: jax.Array,
    *,
    epsilon: float,
    rectify: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Return the cotangents of x, scale, bias and residual, through mean and variance as well.

    Args:
      cotangent_BHWK: that of the normalized images.
      y_BHWK: the images that `norm_forward` returned, if it added a residual; otherwise None.
      mean_K: as `norm_forward` returned it; likewise `variance_K`.
    """
    load()
    channel = jax.ShapeDtypeStruct(scale_K.shape, jnp.float32)
    has_residual = y_BHWK is not None
    results = (_like(x_BHWK), channel, channel, *([_like(x_BHWK)] if has_residual else []))
    call = jax.ffi.ffi_call("saddle_norm_backward", results, vmap_method="sequential")
    arguments = cotangent_BHWK, x_BHWK, y_BHWK if has_residual else x_BHWK, mask_B, scale_K, bias_K, mean_K, variance_K
    dx_BHWK, dscale_K, dbias_K, *more = call(*arguments, epsilon=np.float32(epsilon), rectify=rectify)
    return dx_BHWK, dscale_K, dbias_K, more[0] if has_residual else None


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
