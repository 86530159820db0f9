"""ImbSAM: SAM on the tail's part of the loss.

This is a link of an optax chain; `saddle_jax.optim.link` shows how to use it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optax
from ml_collections import ConfigDict

from saddle_jax.optim.link import Ask, LinkContext, Step, make_link, value_at
from saddle_jax.optim.sam import perturbation
from saddle_jax.optim.trees import add, subtract, weights_of


def make(fields: ConfigDict, context: LinkContext) -> optax.GradientTransformationExtraArgs:
    """Build the link from the values of its fields in a config."""
    return imbsam(context.schedule("rho"), context.tail_C(fields.tail_below), aux_like=context.aux_like)


def imbsam(
    rho: optax.ScalarOrSchedule, is_tail_C: np.ndarray, *, eps: float = 1e-12, aux_like: Any = ()
) -> optax.GradientTransformationExtraArgs:
    """Return ImbSAM, which perturbs for the tail classes only: g_H(w) + g_T(w + e), e = rho · g_T / |g_T|.

    Zhou et al., "ImbSAM: A Closer Look at Sharpness-Aware Minimization in Class-Imbalanced Recognition", ICCV 2023.
    It makes three evaluations: g, g_T(w), g_T(w + e). Without tail classes it is SGD; with no others it is SAM.
    Differs from the authors' code: the loss's class weights take effect, and the loss is the weighted mean, not Σ/B;
    the tail's loss is not doubled. One commit of theirs doubles it (94a22ba), and another one (7949cbc) does not.

    Args:
      rho: length of the perturbation, or a schedule of the link's counter.
      is_tail_C: which classes are the tail.
      eps: added to the gradient's length.
      aux_like: see `make_link`.
    """
    tail_C = weights_of(is_tail_C)

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        tail, _ = ask.grad_fn(params, tail_C)
        shift, norm = perturbation(tail, params, value_at(rho, ask.count), eps=eps)
        tail_there, aux = ask.grad_fn(optax.apply_updates(params, shift), tail_C)
        return Step(add(subtract(grads, tail), tail_there), norm, 3, aux)

    return make_link(take, name="imbsam", aux_like=aux_like)
