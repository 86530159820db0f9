"""Sharpness-aware minimisation as a link of an optax chain (Foret et al., ICLR 2021; ASAM: Kwon et al., ICML 2021).

    tx = optax.chain(sam(0.1), optax.add_decayed_weights(2e-4), optax.trace(0.9), optax.scale_by_learning_rate(0.1))
    updates, state = tx.update(grads, state, params, grad_fn=grad_fn)

The link turns the gradient at w into the gradient at w + e, e = rho · g / |g|, which it asks `grad_fn` for; all that
follows it is plain optax. A chain without the link is the base optimizer, with no second pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from saddle_jax import devices


class GradFn(Protocol):
    """Return gradient and auxiliary output at given parameters, for the batch of the step."""

    def __call__(self, params: optax.Params, class_weights_C: jax.Array | None = None) -> tuple[optax.Updates, Any]:
        """Return (gradient, aux); `class_weights_C` multiplies the loss's numerator, not its denominator."""
        ...


class SamState(NamedTuple):
    """The link's own counter and what it saw last."""

    count: jax.Array  # (), int32: steps taken, which a rho schedule is a function of
    ascent_norm: jax.Array  # (): length of the gradient at w (ASAM: of |w| · g)
    aux: Any  # what grad_fn returned beside the gradient at w + e; () if the link keeps none


def sam(
    rho: optax.ScalarOrSchedule,
    *,
    adaptive: bool = False,
    adaptive_eta: float = 0.01,
    eps: float = 1e-12,
    aux_like: Any = (),
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return the link.

    Args:
      rho: length of the perturbation, or a schedule of the link's own counter, which nothing resets.
      adaptive: ASAM, see `perturbation`.
      adaptive_eta: see `perturbation`.
      eps: added to the gradient's length, as in the reference.
      aux_like: a tree with the structure, shapes and dtypes of grad_fn's aux, to keep it in the state; () drops it.
      axis_name: where the incoming gradients are each device's own, the axis of the devices, so that the reported
        ascent norm is their mean and the state stays equal on all of them. The perturbation is not averaged.

    `update` requires `params` and the keyword `grad_fn`, a `GradFn`.
    """
    keep_aux = bool(jax.tree.leaves(aux_like))

    def init(params: optax.Params) -> SamState:
        dtype = jnp.result_type(float, *jax.tree.leaves(params))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), aux_like)
        return SamState(jnp.zeros((), jnp.int32), jnp.zeros((), dtype), zeros)

    def update(
        updates: optax.Updates,
        state: SamState,
        params: optax.Params | None = None,
        *,
        grad_fn: GradFn,
        **extra: Any,
    ) -> tuple[optax.Updates, SamState]:
        del extra
        if params is None:
            raise ValueError("sam needs the parameters: found params=None, expected tx.update(grads, state, params)")
        radius = rho(state.count) if callable(rho) else rho
        shift, norm = perturbation(updates, params, radius, adaptive=adaptive, adaptive_eta=adaptive_eta, eps=eps)
        descent, aux = grad_fn(optax.apply_updates(params, shift))
        norm = devices.mean_over(norm, axis_name).astype(state.ascent_norm.dtype)
        return descent, SamState(optax.safe_increment(state.count), norm, aux if keep_aux else aux_like)

    return optax.GradientTransformationExtraArgs(init, update)


def perturbation(
    grads: optax.Updates,
    params: optax.Params,
    rho: jax.typing.ArrayLike,
    *,
    adaptive: bool = False,
    adaptive_eta: float = 0.01,
    eps: float = 1e-12,
) -> tuple[optax.Updates, jax.Array]:
    """Return e = rho · g / (|g| + eps) and |g|, over all parameters together (Foret et al., eq. 2).

    ASAM: e = rho · T²g / |T g| with T = |w| + eta (Kwon et al., eq. 9). A zero gradient gives a zero perturbation. The
    length is computed relative to the largest entry, so that it neither overflows nor underflows.
    Differs from the reference: its ASAM has no eta.
    """
    if not adaptive:
        factor, norm = _radius_over_norm(rho, grads, eps)
        return jax.tree.map(lambda g: (factor * g).astype(g.dtype), grads), norm
    scale = jax.tree.map(lambda w: jnp.abs(w) + jnp.asarray(adaptive_eta, w.dtype), params)
    scaled = jax.tree.map(jnp.multiply, grads, scale)
    factor, norm = _radius_over_norm(rho, scaled, eps)
    return jax.tree.map(lambda g, t: (factor * t * g).astype(g.dtype), scaled, scale), norm


def _radius_over_norm(rho: jax.typing.ArrayLike, grads: optax.Updates, eps: float) -> tuple[jax.Array, jax.Array]:
    norm = stable_norm(grads)
    return jnp.where(norm > 0, rho / jnp.where(norm > 0, norm + eps, 1), 0), norm


def stable_norm(tree: Any) -> jax.Array:
    """Return the global L2 norm in float32 or wider, without overflow or underflow of the squares."""
    leaves = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in jax.tree.leaves(tree)]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return unit * jnp.sqrt(sum(jnp.sum(jnp.square(leaf / unit)) for leaf in leaves))


def find_sam_state(opt_state: optax.OptState) -> SamState | None:
    """Return the state of the chain's sam link, or None where the chain has none."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, SamState))
    return next((node for node in nodes if isinstance(node, SamState)), None)
