"""Max pooling for the ImageNet stem, by slices and selections.

The gradient of a windowed reduction is a select-and-scatter. On GPUs it adds the values that fall on one pixel in no
fixed order, and XLA refuses to compile it under --xla_gpu_deterministic_ops. Slices and selections have neither fault.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def max_pool(x_BHWK: jax.Array) -> jax.Array:
    """Return the largest of each 3x3 window, stride 2, padding 1; NaN stays NaN.

    The gradient goes to the first of equal values, row by row, as in PyTorch. After a rectifier, most ties are zeros.
    """
    return _halve(_halve(x_BHWK, axis=2), axis=1)


def _halve(x: jax.Array, axis: int) -> jax.Array:
    halved = (x.shape[axis] + 1) // 2
    padding = [(0, 0)] * x.ndim
    padding[axis] = (1, 1)
    padded = jnp.pad(x, padding, constant_values=-jnp.inf)
    largest, *others = (jax.lax.slice_in_dim(padded, k, k + 2 * halved - 1, 2, axis) for k in range(3))
    for other in others:
        largest = jnp.where((other > largest) | jnp.isnan(other), other, largest)
    return largest
