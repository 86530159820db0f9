"""SSE-SAM: SAM in two stages, first for head and tail, then for the tail alone.

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
from saddle_jax.optim.trees import add, only_if, subtract, weights_of


def make(fields: ConfigDict, context: LinkContext) -> optax.GradientTransformationExtraArgs:
    """Build the link from the values of its fields in a config."""
    rho, head_factor = context.schedule("rho"), float(fields.head_factor)
    return sse_sam(
        lambda step: head_factor * rho(step),
        rho,
        context.step_of("switch_at"),
        context.tail_C(fields.tail_below),
        aux_like=context.aux_like,
    )


def sse_sam(
    rho_head: optax.ScalarOrSchedule,
    rho_tail: optax.ScalarOrSchedule,
    switch_step: int,
    is_tail_C: np.ndarray,
    *,
    eps: float = 1e-12,
    aux_like: Any = (),
) -> optax.GradientTransformationExtraArgs:
    """Return SSE-SAM: g_H(w + e_H) + g_T(w + e_T), each along its own gradient with its own radius, then ImbSAM.

    Lyu et al., "SSE-SAM: Balancing Head and Tail Classes Gradually through Stage-Wise SAM", AAAI 2025. From
    `switch_step` on, the head's radius is 0. The first stage makes four evaluations (g, g_T(w), and both groups' at
    perturbed weights). The second makes three, since it needs no pass for the head; on CPUs and with several seeds at
    once, that pass is made anyway. The reported norm is the whole gradient's in the first stage and the tail's in the
    second.
    Differs from the authors' code: the loss's class weights take effect, and the loss is the weighted mean, not Σ/B;
    their four passes in training mode all move BatchNorm's running statistics, here at most the first and the last do.

    Args:
      rho_head: length of the head's perturbation, or a schedule of the link's counter.
      rho_tail: length of the tail's perturbation, or a schedule of the link's counter.
      switch_step: first step of the second stage.
      is_tail_C: which classes are the tail.
      eps: added to the gradients' lengths.
      aux_like: see `make_link`; the aux is that of the tail's pass.
    """
    tail_C = weights_of(is_tail_C)

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        first_stage = ask.count < switch_step
        tail, _ = ask.grad_fn(params, tail_C)
        head = subtract(grads, tail)

        def perturbed_head() -> optax.Updates:
            shift, _ = perturbation(head, params, value_at(rho_head, ask.count), eps=eps)
            return ask.grad_fn(optax.apply_updates(params, shift), 1 - tail_C)[0]

        head_there, passes = only_if(first_stage, perturbed_head, head)
        shift, norm = perturbation(tail, params, value_at(rho_tail, ask.count), eps=eps)
        tail_there, aux = ask.grad_fn(optax.apply_updates(params, shift), tail_C)
        norm = jnp.where(first_stage, stable_norm(grads), norm)
        return Step(add(head_there, tail_there), norm, 3 + passes, aux)

    return make_link(take, name="sse_sam", aux_like=aux_like)
