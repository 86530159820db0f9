"""Focal-SAM: SAM that gives the sharpness of large classes less weight.

This is a link of an optax chain; `saddle_jax.optim.link` shows how to use it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from saddle_jax.optim.link import Ask, LinkContext, Step, make_link, value_at
from saddle_jax.optim.sam import perturbation


def make(fields: ConfigDict, context: LinkContext) -> optax.GradientTransformationExtraArgs:
    """Build the link from the values of its fields in a config."""
    return focal_sam(
        context.schedule("rho"),
        fields.gamma,
        fields.sharpness_weight,
        context.stats.priors_C(),
        aux_like=context.aux_like,
    )


def focal_sam(
    rho: optax.ScalarOrSchedule,
    gamma: float,
    lam: optax.ScalarOrSchedule,
    priors_C: np.ndarray,
    *,
    eps: float = 1e-12,
    aux_like: Any = (),
) -> optax.GradientTransformationExtraArgs:
    """Return Focal-SAM, which weights a class's sharpness by (1 - π)^gamma: g(w) + λ (g'(w + e) - g'(w)).

    Li et al., "Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed Classification", ICML 2025: the loss is
    L + λ (L'(w + e) - L'(w)) with L' = Σ_c (1 - π_c)^gamma L_c, where L_c is the part of class c in L, and
    e = rho · g' / |g'|. It makes three evaluations: g, g'(w), g'(w + e). λ = 0 is SGD; gamma = 0 and λ = 1 is SAM.
    Differs from the authors' code: the loss's class weights take effect, and the loss is the weighted mean, not Σ/B.

    Args:
      rho: length of the perturbation, or a schedule of the link's counter.
      gamma: at least 0; the larger it is, the less the sharpness of large classes counts.
      lam: weight of the sharpness, λ, or a schedule of it.
      priors_C: each class's part of the training images.
      eps: added to the gradient's length.
      aux_like: see `make_link`.
    """
    focal_C = jnp.asarray((1 - np.asarray(priors_C)) ** gamma, jnp.result_type(float))

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        weight = value_at(lam, ask.count)
        here, _ = ask.grad_fn(params, focal_C)
        shift, norm = perturbation(here, params, value_at(rho, ask.count), eps=eps)
        there, aux = ask.grad_fn(optax.apply_updates(params, shift), focal_C)
        # In this order, λ = 1 with g' = g gives g'(w + e) to the bit.
        mixed = jax.tree.map(lambda g, a, b: ((g - weight * a) + weight * b).astype(g.dtype), grads, here, there)
        return Step(mixed, norm, 3, aux)

    return make_link(take, name="focal_sam", aux_like=aux_like)
