"""The rectifier, in the form that XLA computes once.

XLA fuses an operation of one array into each of its readers, and what came before it likewise. `jax.nn.relu` is such an
operation: on CPUs the gradient of every convolution's kernel, which reads its input transposed, then computed the
residual stream again from the stage's first block on. A selection reads two arrays, the sign and the value, is
computed once and kept. Chosen by `benchmarks/train_step.py --rectifiers`, which measures both forms.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def relu(x: jax.Array) -> jax.Array:
    """Return max(x, 0); NaN stays NaN, the derivative at 0 is 0."""
    return jnp.where(x <= 0, jnp.zeros_like(x), x)
