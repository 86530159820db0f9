"""Heads that map features to logits: a linear one, and LDAM's cosine head. Shapes: B rows, D features, C classes."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer

# PyTorch's kaiming_normal_: standard deviation sqrt(2 / fan_in), not truncated.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# Initial weights of PyTorch's Linear: U(-1, 1) / sqrt(fan_in).
pytorch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Linear(nn.Module):
    """Logits w·x + b. By default, the weights are initialized as in the reference's CIFAR networks."""

    num_classes: int
    kernel_init: Initializer = kaiming_normal

    @nn.compact
    def __call__(self, features_BD: jax.Array) -> jax.Array:
        """Return unbounded logits."""
        features, dtype = features_BD.shape[-1], jnp.result_type(float)
        kernel_DC = self.param("kernel", self.kernel_init, (features, self.num_classes), dtype)
        bias_C = self.param("bias", _uniform, (self.num_classes,), dtype, features**-0.5)
        return features_BD @ kernel_DC + bias_C


class Normed(nn.Module):
    """Cosines between features and class vectors; no bias, no scale."""

    num_classes: int

    @nn.compact
    def __call__(self, features_BD: jax.Array) -> jax.Array:
        """Return logits between -1 and 1."""
        kernel_DC = self.param(
            "kernel", _uniform_directions, (features_BD.shape[-1], self.num_classes), jnp.result_type(float)
        )
        return unit(features_BD, axis=1) @ unit(kernel_DC, axis=0)


def unit(x: jax.Array, axis: int) -> jax.Array:
    """Scale vectors to length 1. One shorter than 1e-12 has no direction and becomes 0, with gradient 0.

    Differs from the reference: it divides such a vector by 1e-12, which multiplies the gradient by 10^12. Narrow
    networks do produce features that are all 0, and such a step would end the run.
    """
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    has_direction = square > 1e-24
    # Ones and zeros of the same dtype: the export to ONNX takes plain numbers in a selection for float64.
    scaled = x * jax.lax.rsqrt(jnp.where(has_direction, square, jnp.ones_like(square)))
    return jnp.where(has_direction, scaled, jnp.zeros_like(x))


def _uniform(key: jax.Array, shape: tuple, dtype, limit: float) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def _uniform_directions(key: jax.Array, shape: tuple, dtype) -> jax.Array:
    return unit(_uniform(key, shape, dtype, 1.0), axis=0)
