"""Batch normalization with a mask, PyTorch's running variance, and a choice of whose statistics normalize.

Differs from flax.linen.BatchNorm: padded rows do not enter the statistics, and the running variance is unbiased.
The running statistics computed here are each device's own. The training step averages those of all layers over the
devices at once, so that the replicated state really is equal on all of them.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from saddle_jax.models.normalize import affine, normalize


class BatchNorm(nn.Module):
    """Normalizes every channel over the rows that are not masked."""

    axis_name: str | None  # axis of the devices, for synchronized; None outside a mapped function
    synchronized: bool = False  # normalize by the statistics of all devices' rows instead of the device's own
    momentum: float = 0.1  # weight of the new batch in the running statistics
    epsilon: float = 1e-5
    onednn: bool = False  # use the compiled kernels in training mode, where they support the arrays

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask_B: jax.Array,
        train: bool,
        residual: jax.Array | None = None,
        rectify: bool = False,
    ) -> jax.Array:
        """Return the normalized activations plus the residual, or max(0, ...) of them, in the dtype of the input.

        Statistics are float32 or wider.
        """
        channels, dtype = x.shape[-1], jnp.result_type(float)
        scale_K = self.param("scale", nn.initializers.ones, (channels,), dtype)
        bias_K = self.param("bias", nn.initializers.zeros, (channels,), dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), dtype)
        if not train:
            factor_K = scale_K * jax.lax.rsqrt(running_var.value + self.epsilon)
            return affine(x, running_mean.value, factor_K, bias_K, residual, rectify=rectify)

        axis_name = self.axis_name if self.synchronized and not self.is_initializing() else None
        how = {"epsilon": self.epsilon, "rectify": rectify, "axis_name": axis_name, "onednn": self.onednn}
        y, mean_K, variance_K, count = normalize(x, mask_B, scale_K, bias_K, residual, **how)
        if not self.is_initializing():
            unbiased_K = variance_K * (count / jnp.maximum(count - 1, 1))
            weight = jnp.where(count > 0, self.momentum, 0.0).astype(mean_K.dtype)
            running_mean.value = (1 - weight) * running_mean.value + weight * mean_K
            running_var.value = (1 - weight) * running_var.value + weight * unbiased_K
        return y
