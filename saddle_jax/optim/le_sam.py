"""LE-SAM: perturbations that raise the loss by equal amounts.

This is a link of an optax chain; `saddle_jax.optim.link` shows how to use it.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from saddle_jax.optim.link import Ask, LinkContext, Step, make_link, value_at
from saddle_jax.optim.sam import perturbation, stable_norm


def make(fields: ConfigDict, context: LinkContext) -> optax.GradientTransformationExtraArgs:
    """Build the link from the values of its fields in a config."""
    return le_sam(context.schedule("rise"), fields.rho_max or np.inf, aux_like=context.aux_like)


def le_sam(
    sigma: optax.ScalarOrSchedule,
    rho_max: optax.ScalarOrSchedule,
    *,
    eps: float = 1e-12,
    aux_like: Any = (),
) -> optax.GradientTransformationExtraArgs:
    """Return Loss-Equated SAM: SAM with rho = min(sigma / (|g| + eps), rho_max).

    Wang et al., "Fix the Loss, Not the Radius", ICML 2026, arXiv:2605.10183: to first order the loss rises by `sigma`
    at every step. The authors' code (github.com/smithgun2005/LE-SAM-ICML2026) warms sigma up linearly over 10 epochs,
    keeps it, and anneals it to 0 by a cosine over the last fifth (0.35 on CIFAR-100, with a rho_max of 999). The method
    was not made for long tails. Another loss has another |g|, and so another rho. It makes two evaluations.
    Differs from the authors' code: eps is added to |g|, not inside its root; the code's selection of the largest losses
    and its subtraction of a multiple of g(w), both off by default, are left out.

    Args:
      sigma: rise of the loss that a perturbation should cause, or a schedule of the link's counter.
      rho_max: the longest perturbation, or a schedule of it; inf for none.
      eps: added to the gradient's length.
      aux_like: see `make_link`.
    """

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        radius = jnp.minimum(value_at(sigma, ask.count) / (stable_norm(grads) + eps), value_at(rho_max, ask.count))
        shift, norm = perturbation(grads, params, radius, eps=eps)
        descent, aux = ask.grad_fn(optax.apply_updates(params, shift))
        return Step(descent, norm, 2, aux)

    return make_link(take, name="le_sam", aux_like=aux_like)
