"""Normalize a batch, add a residual, and rectify, as one operation with its own derivative.

The derivative is in closed form and reads the images less often than the one that JAX would derive. Sums run over each
image first and then over the images: XLA computes these on all of a CPU's cores, but a single sum over everything on
only a few. Reverse mode and forward-over-reverse mode work; plain forward mode does not. Shapes: B images, K channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from saddle_jax.host import devices
from saddle_jax.models import kernels
from saddle_jax.models.activation import relu


class Settings(NamedTuple):
    """The static settings, known before any image."""

    epsilon: float
    rectify: bool
    adds: bool  # there is a residual
    axis_name: str | None  # axis of the devices that share their statistics
    onednn: bool


class Saved(NamedTuple):
    """The values that the backward pass needs from the forward pass."""

    x: jax.Array
    y: jax.Array | None  # the result, with a rectifier: its sign is needed
    rows_B: jax.Array
    count: jax.Array
    scale_K: jax.Array
    bias_K: jax.Array
    mean_K: jax.Array
    variance_K: jax.Array


def normalize(
    x: jax.Array,
    mask_B: jax.Array,
    scale_K: jax.Array,
    bias_K: jax.Array,
    residual: jax.Array | None = None,
    *,
    epsilon: float,
    rectify: bool = False,
    axis_name: str | None = None,
    onednn: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return (x - mean) / sqrt(variance + epsilon) * scale + bias + residual, and the batch's statistics.

    Args:
      x: (B, ..., K), of any floating dtype; the result has the same.
      mask_B: images whose mask is False do not enter the statistics.
      residual: like x; None adds nothing.
      rectify: return max(0, ...) of it.
      axis_name: axis of the devices that share their statistics; None: each device has its own.
      onednn: use the kernels of the package `saddle_kernels` where the arrays suit them.

    Returns:
      The result; the mean, (K,); the biased variance, (K,); and the number of values in each channel, (). No
      derivative passes through the last three. If no image counts, the result is bias + residual.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rows_B = mask_B.astype(wide)
    count = devices.sum_over(rows_B.sum() * math.prod(x.shape[1:-1]), axis_name)
    suits = onednn and axis_name is None and x.ndim == 4 and kernels.suit(x, scale_K)
    settings = Settings(epsilon, rectify, residual is not None, axis_name, suits)
    residual = None if residual is None else residual.astype(x.dtype)
    results: Any = _normalize(x, rows_B, count, scale_K, bias_K, residual, settings)
    y, mean_K, variance_K = results
    return y, jax.lax.stop_gradient(mean_K), jax.lax.stop_gradient(variance_K), count


def affine(
    x: jax.Array,
    mean_K: jax.Array,
    factor_K: jax.Array,
    bias_K: jax.Array,
    residual: jax.Array | None = None,
    *,
    rectify: bool = False,
) -> jax.Array:
    """Return (x - mean) * factor + bias + residual, or max(0, ...) of it; computed in float32 or wider."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y = (x.astype(wide) - mean_K) * factor_K + bias_K
    y = y if residual is None else y + residual.astype(wide)
    return (relu(y) if rectify else y).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _normalize(x, rows_B, count, scale_K, bias_K, residual, settings: Settings):
    return _forward(x, rows_B, count, scale_K, bias_K, residual, settings)[0]


def _forward(x, rows_B, count, scale_K, bias_K, residual, settings: Settings):
    arguments = x, rows_B, count, scale_K, bias_K, residual
    y, mean_K, variance_K = _choose(_forward_by_onednn, _forward_by_xla, settings)(*arguments)
    return (y, mean_K, variance_K), Saved(x, y if settings.rectify else None, *arguments[1:5], mean_K, variance_K)


def _backward(settings: Settings, saved: Saved, cotangents):
    dx, dscale_K, dbias_K, dresidual = _choose(_backward_by_onednn, _backward_by_xla, settings)(cotangents[0], saved)
    dscale_K, dbias_K = dscale_K.astype(saved.scale_K.dtype), dbias_K.astype(saved.bias_K.dtype)
    return dx, jnp.zeros_like(saved.rows_B), jnp.zeros_like(saved.count), dscale_K, dbias_K, dresidual


_normalize.defvjp(_forward, _backward)


def _choose(by_onednn: Callable, by_xla: Callable, settings: Settings) -> Callable:
    by_xla = functools.partial(by_xla, settings)
    return kernels.on_cpus(functools.partial(by_onednn, settings), by_xla) if settings.onednn else by_xla


def _forward_by_xla(settings: Settings, x, rows_B, count, scale_K, bias_K, residual):
    wide, number = x.astype(rows_B.dtype), jnp.maximum(count, 1)
    mean_K = devices.sum_over(_sum(wide, rows_B), settings.axis_name) / number
    variance_K = devices.sum_over(_sum(jnp.square(wide - mean_K), rows_B), settings.axis_name) / number
    factor_K = scale_K * _inverse_deviation(variance_K, count, settings)
    return affine(x, mean_K, factor_K, bias_K, residual, rectify=settings.rectify), mean_K, variance_K


def _backward_by_xla(settings: Settings, cotangent, saved: Saved):
    cotangent = cotangent if saved.y is None else jnp.where(saved.y <= 0, 0, cotangent)
    wide, centered = cotangent.astype(saved.rows_B.dtype), saved.x.astype(saved.rows_B.dtype) - saved.mean_K
    inverse_K = _inverse_deviation(saved.variance_K, saved.count, settings)
    sums = _sum(wide), _sum(wide * centered)
    # The loss is summed over devices, so the cotangent of a shared statistic is the sum of all of theirs.
    of_mean_K, of_deviation_K = devices.sum_over(sums, settings.axis_name)
    number = jnp.maximum(saved.count, 1)
    of_statistics = (of_mean_K + jnp.square(inverse_K) * of_deviation_K * centered) / number
    dx = saved.scale_K * inverse_K * (wide - of_statistics * saved.rows_B.reshape(-1, *(1,) * (wide.ndim - 1)))
    return dx.astype(saved.x.dtype), sums[1] * inverse_K, sums[0], cotangent if settings.adds else None


def _inverse_deviation(variance_K: jax.Array, count: jax.Array, settings: Settings) -> jax.Array:
    """Return 1 / sqrt(variance + epsilon), or 0 without an image.

    Without an image the variance is 0. Divided by its root, padding would grow to infinity from layer to layer.
    """
    return jnp.where(count > 0, jax.lax.rsqrt(jnp.where(count > 0, variance_K, 1) + settings.epsilon), 0)


def _sum(x: jax.Array, rows_B: jax.Array | None = None) -> jax.Array:
    """Return the sum (K,) over the images (B, ..., K) that count, in two steps, which is faster on CPUs."""
    sums_BK = x.sum(tuple(range(1, x.ndim - 1)))
    sums_BK = sums_BK if rows_B is None else sums_BK * rows_B[:, None]
    return jax.lax.optimization_barrier(sums_BK).sum(0)


def _forward_by_onednn(settings: Settings, x, rows_B, count, scale_K, bias_K, residual):
    del count
    return kernels.library().norm_forward(
        x, rows_B, scale_K, bias_K, residual, epsilon=settings.epsilon, rectify=settings.rectify
    )


def _backward_by_onednn(settings: Settings, cotangent, saved: Saved):
    # Without a rectifier the kernel does not read y. Passing any array only says that there was a residual.
    y = (saved.x if saved.y is None else saved.y) if settings.adds else None
    return kernels.library().norm_backward(
        cotangent, saved.x, y, saved.rows_B, saved.scale_K, saved.bias_K, saved.mean_K, saved.variance_K,
        epsilon=settings.epsilon, rectify=settings.rectify,
    )  # fmt: skip
