"""The rectifier, in a form that XLA computes only once.

XLA fuses an operation on one array into each of its readers, together with the operations before it. `jax.nn.relu` is
such an operation. With it, on CPUs, the gradient of every convolution kernel, which reads its input transposed,
recomputed the residual stream from the stage's first block on. A selection reads two arrays, the sign and the value, so
XLA computes it once and keeps it. `benchmarks/train_step.py --rectifiers` measures both forms.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def relu(x: jax.Array) -> jax.Array:
    """Return max(x, 0). NaN stays NaN; the derivative at 0 is 0."""
    return jnp.where(x <= 0, jnp.zeros_like(x), x)
