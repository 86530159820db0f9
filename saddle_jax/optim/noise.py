"""Random draws over all parameters at once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from saddle_jax.optim.sam import stable_norm


def uniform_in_ball(key: jax.Array, like: Any, radius: jax.typing.ArrayLike) -> Any:
    """Draw a tree uniformly from the ball of that radius, over all leaves together.

    A Gaussian vector has a uniform direction; the length of a uniform draw in n dimensions is radius · U^(1/n).
    """
    direction_key, length_key = jax.random.split(key)
    direction = gaussian(direction_key, like)
    size = sum(leaf.size for leaf in jax.tree.leaves(like))
    length = radius * jax.random.uniform(length_key) ** (1 / size)
    factor = length / stable_norm(direction)
    return jax.tree.map(lambda z: (factor * z).astype(z.dtype), direction)


def filter_noise(key: jax.Array, params: optax.Params, gamma: jax.typing.ArrayLike) -> optax.Updates:
    """Return independent Gaussians with deviation gamma · |filter|; see `lpf_sgd`."""

    def scaled(w: jax.Array, z: jax.Array) -> jax.Array:
        axes = tuple(range(w.ndim - 1)) if w.ndim > 1 else None
        length = jnp.sqrt(jnp.sum(jnp.square(w), axis=axes, keepdims=w.ndim > 1))
        return jnp.asarray(gamma * length * z, w.dtype)

    return jax.tree.map(scaled, params, gaussian(key, params))


def gaussian(key: jax.Array, like: Any) -> Any:
    """Return a tree of independent standard Gaussians with the shapes and dtypes of `like`."""
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten([jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)])
