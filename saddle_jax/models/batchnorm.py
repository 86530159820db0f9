"""Batch normalisation with a mask, PyTorch's running variance and a choice of whose statistics normalise.

Differs from flax.linen.BatchNorm: padded rows enter no statistics, and the running variance is the unbiased one.
Running statistics are the device's own here; the training step averages them over the devices, all layers at once, so
that a state called replicated is equal on all of them.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from saddle_jax import devices


class BatchNorm(nn.Module):
    """Normalise every channel over the rows that are not masked."""

    axis_name: str | None  # axis of the devices, for synchronized; None outside a mapped function
    synchronized: bool = False  # normalise by the statistics of all devices' rows instead of the device's own
    momentum: float = 0.1  # weight of the new batch in the running statistics
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x_BHWK: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        """Return the normalised activations, in the dtype of the input; statistics are float32 or wider."""
        channels = x_BHWK.shape[-1]
        dtype = jnp.promote_types(x_BHWK.dtype, jnp.float32)
        param_dtype = jnp.result_type(float)
        scale_K = self.param("scale", nn.initializers.ones, (channels,), param_dtype)
        bias_K = self.param("bias", nn.initializers.zeros, (channels,), param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), param_dtype)

        x = x_BHWK.astype(dtype)
        if train:
            mean_K, var_K, count = self._batch_statistics(x, mask_B)
            if not self.is_initializing():
                self._update(running_mean, running_var, mean_K, var_K, count)
            # Without a row the variance is 0: divided by its root, padding would grow to infinity from layer to layer.
            has_rows = count > 0
            factor_K = jnp.where(has_rows, scale_K * jax.lax.rsqrt(jnp.where(has_rows, var_K, 1) + self.epsilon), 0)
        else:
            mean_K = running_mean.value
            factor_K = scale_K * jax.lax.rsqrt(running_var.value + self.epsilon)
        return ((x - mean_K) * factor_K + bias_K).astype(x_BHWK.dtype)

    def _batch_statistics(self, x: jax.Array, mask_B: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        axis_name = self.axis_name if self.synchronized and not self.is_initializing() else None
        rows = mask_B.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
        axes = tuple(range(x.ndim - 1))
        pixels = x.size // (x.shape[0] * x.shape[-1])
        # The derivative of this sum over devices is again one: right for the loss that is summed over devices.
        count = devices.sum_over(rows.sum() * pixels, axis_name)
        mean_K = devices.sum_over((x * rows).sum(axes), axis_name) / jnp.maximum(count, 1)
        var_K = devices.sum_over((jnp.square(x - mean_K) * rows).sum(axes), axis_name) / jnp.maximum(count, 1)
        return mean_K, var_K, count

    def _update(self, running_mean, running_var, mean_K: jax.Array, var_K: jax.Array, count: jax.Array) -> None:
        unbiased_K = var_K * (count / jnp.maximum(count - 1, 1))
        weight = jnp.where(count > 0, self.momentum, 0.0).astype(mean_K.dtype)
        running_mean.value = (1 - weight) * running_mean.value + weight * jax.lax.stop_gradient(mean_K)
        running_var.value = (1 - weight) * running_var.value + weight * jax.lax.stop_gradient(unbiased_K)
