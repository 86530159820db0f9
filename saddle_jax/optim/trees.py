"""Arithmetic on gradients, and weights for groups of classes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from saddle_jax.host import devices


def only_if(
    condition: jax.Array, pass_: Callable[[], optax.Updates], otherwise: optax.Updates
) -> tuple[optax.Updates, jax.typing.ArrayLike]:
    """Return the pass's gradient if the condition holds, else `otherwise`; and the number of passes, 1 or 0."""
    passes = condition.astype(jnp.float32)
    # On CPUs gradients of convolution kernels are 40 times slower inside a branch.
    if devices.on_cpu():
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), pass_(), otherwise), passes
    # The condition is the same on all devices, so either all devices take part in the pass's sums or none does.
    return jax.lax.cond(condition, pass_, lambda: otherwise), passes


def weights_of(is_member_C: np.ndarray) -> jax.Array:
    """Return weights of 1 for the group's classes and 0 for the others."""
    return jnp.asarray(np.asarray(is_member_C, bool), jnp.result_type(float))


def add(a: optax.Updates, b: optax.Updates) -> optax.Updates:
    """Return a + b."""
    return jax.tree.map(jnp.add, a, b)


def subtract(a: optax.Updates, b: optax.Updates) -> optax.Updates:
    """Return a - b."""
    return jax.tree.map(jnp.subtract, a, b)
