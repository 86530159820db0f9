"""CNC-PGD: gradient descent perturbed by a step of SGD.

This is a link of an optax chain; `saddle_jax.optim.link` shows how to use it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from saddle_jax.optim.link import Ask, LinkContext, Step, make_link, value_at
from saddle_jax.optim.sam import stable_norm


def make(fields: ConfigDict, context: LinkContext) -> optax.GradientTransformationExtraArgs:
    """Build the link from the values of its fields in a config."""
    return cnc_pgd(context.schedule("step"), context.lr, fields.threshold or None, aux_like=context.aux_like)


def cnc_pgd(
    ratio: optax.ScalarOrSchedule,
    learning_rate: optax.ScalarOrSchedule,
    threshold: float | None = None,
    *,
    aux_like: Any = (),
) -> optax.GradientTransformationExtraArgs:
    """Return CNC-PGD, whose perturbation is a step of SGD: v = w - r · g(w), w' = v - lr · g(v), r = ratio · lr.

    Daneshmand et al., "Escaping Saddles with Stochastic Gradients", ICML 2018, algorithm 1. The link returns
    ratio · g(w) + g(w - ratio · lr · g(w)), so that the parameters keep both steps. It makes two evaluations.
    Differs from the algorithm: one minibatch gives both gradients (the algorithm takes v from one random example and
    g(v) from all images); the steps between two perturbations and the stopping rule are left out.

    Args:
      ratio: size of the perturbing step over the learning rate (the algorithm's r over its η), or a schedule of it.
      learning_rate: of the chain, or its schedule.
      threshold: take the perturbing step only where the gradient's length is at most this; None: always.
      aux_like: see `make_link`.
    """

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        norm = stable_norm(grads)
        size = jnp.where(True if threshold is None else norm <= threshold, value_at(ratio, ask.count), 0)
        step = size * value_at(learning_rate, ask.count)
        there = jax.tree.map(lambda w, g: w - (step * g).astype(w.dtype), params, grads)
        second, aux = ask.grad_fn(there)
        both = jax.tree.map(lambda g, h: (size * g).astype(h.dtype) + h, grads, second)
        return Step(both, norm, 2, aux)

    return make_link(take, name="cnc_pgd", aux_like=aux_like)
