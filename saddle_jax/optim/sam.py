"""Sharpness-aware minimization as a link of an optax chain (Foret et al., ICLR 2021; ASAM: Kwon et al., ICML 2021).

    tx = optax.chain(sam(0.1), optax.add_decayed_weights(2e-4), optax.trace(0.9), optax.scale_by_learning_rate(0.1))
    updates, state = tx.update(grads, state, params, grad_fn=grad_fn)

The link replaces the gradient at w with the gradient at w + e, e = rho · g / |g|, which it asks `grad_fn` for. All that
follows it is plain optax. A chain without the link is the base optimizer and makes no second pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError
from saddle_jax.host import devices
from saddle_jax.models import tuning
from saddle_jax.optim.link import Ask, LinkContext, Step, make_link, value_at


def make(fields: ConfigDict, context: LinkContext) -> optax.GradientTransformationExtraArgs:
    """Build the link from the values of its fields in a config.

    Raises:
      ConfigError: the classifier alone is to be perturbed, but the method does not say which parameters are its. From
        `init`: none of the parameters that are trained is to be perturbed.
    """
    if fields.perturbed == "head" and context.is_classifier is None:
        raise ConfigError(
            "sam.perturbed='head' needs a method that marks its classifier's parameters, but this one does not. "
            "Fix: --config.sam.perturbed=all, or let the method return Method(..., is_classifier=...)"
        )
    perturbed = {"all": None, "norm": tuning.norms, "head": context.is_classifier}[fields.perturbed]
    link = sam(context.schedule("rho"), perturbed=perturbed, axis_name=context.axis_name, aux_like=context.aux_like)

    def init(params: optax.Params) -> Any:
        if perturbed is not None and not any(jax.tree.leaves(perturbed(params))):
            raise ConfigError(
                f"sam.perturbed={fields.perturbed!r} perturbs nothing: no such parameter is trained. "
                "Fix: --config.sam.perturbed=all"
            )
        return link.init(params)

    return optax.GradientTransformationExtraArgs(init, link.update)


def make_adaptive(fields: ConfigDict, context: LinkContext) -> optax.GradientTransformationExtraArgs:
    """Build ASAM from the values of its fields in a config."""
    return sam(
        context.schedule("rho"),
        adaptive=True,
        adaptive_eta=fields.eta,
        axis_name=context.axis_name,
        aux_like=context.aux_like,
    )


def sam(
    rho: optax.ScalarOrSchedule,
    *,
    adaptive: bool = False,
    adaptive_eta: float = 0.01,
    eps: float = 1e-12,
    perturbed: Callable[[optax.Params], Any] | None = None,
    aux_like: Any = (),
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return the link of SAM or ASAM.

    Args:
      rho: length of the perturbation, or a schedule of the link's own counter, which nothing resets.
      adaptive: use ASAM; see `perturbation`.
      adaptive_eta: see `perturbation`.
      eps: added to the gradient's length, as in the reference.
      perturbed: parameters -> a tree of bools: those that are perturbed. The length counts them alone, and the gradient
        at w + e moves all. None perturbs all.
      aux_like: a tree with the structure, shapes, and dtypes of grad_fn's aux, to keep it in the state; () drops it.
      axis_name: axis of the devices, if the incoming gradients are each device's own. The reported ascent norm is then
        the mean over the devices, so that the state stays equal on all of them. The perturbation is not averaged.

    `update` requires `params` and the keyword `grad_fn`, a `GradFn`.
    """

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        radius = value_at(rho, ask.count)
        if perturbed is not None:
            grads = jax.tree.map(lambda chosen, g: g if chosen else jnp.zeros_like(g), perturbed(params), grads)
        shift, norm = perturbation(grads, params, radius, adaptive=adaptive, adaptive_eta=adaptive_eta, eps=eps)
        descent, aux = ask.grad_fn(optax.apply_updates(params, shift))
        return Step(descent, devices.mean_over(norm, axis_name), 2, aux)

    return make_link(take, name="sam", aux_like=aux_like)


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
    Differs from the reference: its ASAM has no eta. Differs from the authors' code of ASAM: it scales only
    parameters with `weight` in their name and perturbs biases as SAM does; here all are scaled, as published.
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
