"""Links of SAM for long tails: they choose the classes that are perturbed, how far, or how much their sharpness counts.

Each is used as `saddle_jax.optim.link` shows. They mix gradients at w and at w + e: the incoming gradient must be
grad_fn's at w, and where gradients are a device's own they need `shared`. g_H and g_T are the gradients of the head's
and of the tail's part of the batch's loss, both over the whole batch's denominator: g = g_H + g_T, and a group that the
batch lacks gives zeros and no perturbation. (SSE-SAM's code of ImbSAM divides by the group's size, which then is 0.)
CC-SAM is in `cc_sam`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from saddle_jax.optim.link import Ask, Step, make_link, value_at
from saddle_jax.optim.sam import perturbation, stable_norm


def imbsam(
    rho: optax.ScalarOrSchedule, is_tail_C: np.ndarray, *, eps: float = 1e-12, aux_like: Any = ()
) -> optax.GradientTransformationExtraArgs:
    """Return ImbSAM, SAM of the tail classes alone: g_H(w) + g_T(w + e), e = rho · g_T / |g_T|.

    Zhou et al., "ImbSAM: A Closer Look at Sharpness-Aware Minimization in Class-Imbalanced Recognition", ICCV 2023.
    Three evaluations: g, g_T(w), g_T(w + e). Without a tail class it is SGD, with nothing else SAM.
    Differs from the authors' code: class weights of the loss act, and the loss is their weighted mean, not Σ/B; the
    tail's loss is not doubled, which one commit of theirs does (94a22ba) and another one (7949cbc) does not.

    Args:
      rho: length of the perturbation, or a schedule of the link's counter.
      is_tail_C: which classes are the tail.
      eps: added to the gradient's length.
      aux_like: see `make_link`.
    """
    tail_C = _weights(is_tail_C)

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        tail, _ = ask.grad_fn(params, tail_C)
        shift, norm = perturbation(tail, params, value_at(rho, ask.count), eps=eps)
        tail_there, aux = ask.grad_fn(optax.apply_updates(params, shift), tail_C)
        return Step(_add(_subtract(grads, tail), tail_there), norm, 3, aux)

    return make_link(take, name="imbsam", aux_like=aux_like)


def sse_sam(
    rho_head: optax.ScalarOrSchedule,
    rho_tail: optax.ScalarOrSchedule,
    switch_step: int,
    is_tail_C: np.ndarray,
    *,
    eps: float = 1e-12,
    aux_like: Any = (),
) -> optax.GradientTransformationExtraArgs:
    """Return SSE-SAM: g_H(w + e_H) + g_T(w + e_T), each along its own gradient with its own radius; later ImbSAM.

    Lyu et al., "SSE-SAM: Balancing Head and Tail Classes Gradually through Stage-Wise SAM", AAAI 2025: from
    `switch_step` on the head's radius is 0. Four evaluations before (g, g_T(w), and both at their own places), three
    after, when the head's pass is not needed: on CPUs, and with several seeds at once, it is made in vain. The reported
    norm is that of the whole gradient before, and of the tail's after.
    Differs from the authors' code: class weights of the loss act, and the loss is their weighted mean, not Σ/B; there
    four passes in training mode move BatchNorm's running statistics, here two at most, the first and the last.

    Args:
      rho_head: length of the head's perturbation, or a schedule of the link's counter.
      rho_tail: likewise of the tail's.
      switch_step: first step of the second stage.
      is_tail_C: which classes are the tail.
      eps: added to the gradients' lengths.
      aux_like: see `make_link`; of the tail's pass.
    """
    tail_C = _weights(is_tail_C)

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        first_stage = ask.count < switch_step
        tail, _ = ask.grad_fn(params, tail_C)
        head = _subtract(grads, tail)

        def perturbed_head() -> optax.Updates:
            shift, _ = perturbation(head, params, value_at(rho_head, ask.count), eps=eps)
            return ask.grad_fn(optax.apply_updates(params, shift), 1 - tail_C)[0]

        head_there, passes = _only_if(first_stage, perturbed_head, head)
        shift, norm = perturbation(tail, params, value_at(rho_tail, ask.count), eps=eps)
        tail_there, aux = ask.grad_fn(optax.apply_updates(params, shift), tail_C)
        norm = jnp.where(first_stage, stable_norm(grads), norm)
        return Step(_add(head_there, tail_there), norm, 3 + passes, aux)

    return make_link(take, name="sse_sam", aux_like=aux_like)


def focal_sam(
    rho: optax.ScalarOrSchedule,
    gamma: float,
    lam: optax.ScalarOrSchedule,
    priors_C: np.ndarray,
    *,
    eps: float = 1e-12,
    aux_like: Any = (),
) -> optax.GradientTransformationExtraArgs:
    """Return Focal-SAM, which counts a class's sharpness with (1 - π)^gamma: g(w) + λ (g'(w + e) - g'(w)).

    Li et al., "Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed Classification", ICML 2025: the loss is
    L + λ (L'(w + e) - L'(w)) with L' = Σ_c (1 - π_c)^gamma L_c, L_c the part of class c in L, and e = rho · g' / |g'|.
    Three evaluations: g, g'(w), g'(w + e). λ = 0 is SGD; gamma = 0 and λ = 1 is SAM.
    Differs from the authors' code: class weights of the loss act, and the loss is their weighted mean, not Σ/B.

    Args:
      rho: length of the perturbation, or a schedule of the link's counter.
      gamma: at least 0; the larger, the less the large classes' sharpness counts.
      lam: weight of the sharpness, λ, or a schedule of it.
      priors_C: parts of the training images.
      eps: added to the gradient's length.
      aux_like: see `make_link`.
    """
    focal_C = jnp.asarray((1 - np.asarray(priors_C)) ** gamma, jnp.result_type(float))

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        weight = value_at(lam, ask.count)
        here, _ = ask.grad_fn(params, focal_C)
        shift, norm = perturbation(here, params, value_at(rho, ask.count), eps=eps)
        there, aux = ask.grad_fn(optax.apply_updates(params, shift), focal_C)
        # In this order λ = 1 with g' = g leaves nothing but g'(w + e), to the bit.
        mixed = jax.tree.map(lambda g, a, b: ((g - weight * a) + weight * b).astype(g.dtype), grads, here, there)
        return Step(mixed, norm, 3, aux)

    return make_link(take, name="focal_sam", aux_like=aux_like)


def le_sam(
    sigma: optax.ScalarOrSchedule,
    rho_max: optax.ScalarOrSchedule,
    *,
    eps: float = 1e-12,
    aux_like: Any = (),
) -> optax.GradientTransformationExtraArgs:
    """Return Loss-Equated SAM: SAM with rho = min(sigma / (|g| + eps), rho_max).

    Wang et al., "Fix the Loss, Not the Radius", ICML 2026, arXiv:2605.10183: to first order the loss rises by `sigma`
    at every step, which the authors' code (github.com/smithgun2005/LE-SAM-ICML2026) warms up linearly over 10 epochs,
    keeps, and anneals to 0 by a cosine over the last fifth (0.35 on CIFAR-100, where it has a rho_max of 999). Not
    made for long tails; with other losses |g|, and so rho, is another. Two evaluations.
    Differs from the authors' code: eps is added to |g|, not inside its root; its part of the largest losses and its
    subtracted multiple of g(w), both off by default, are left out.

    Args:
      sigma: rise of the loss that a perturbation is to make, or a schedule of the link's counter.
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


def _only_if(
    condition: jax.Array, pass_: Callable[[], optax.Updates], otherwise: optax.Updates
) -> tuple[optax.Updates, jax.typing.ArrayLike]:
    """Return the pass's gradient if the condition holds, else the other one; and the number of passes, 1 or 0."""
    passes = condition.astype(jnp.float32)
    # On CPUs gradients of convolution kernels are 40 times slower inside a branch.
    if jax.default_backend() == "cpu":
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), pass_(), otherwise), passes
    # The condition is the same on all devices, so either all of them meet in the pass's sums or none does.
    return jax.lax.cond(condition, pass_, lambda: otherwise), passes


def _weights(is_member_C: np.ndarray) -> jax.Array:
    return jnp.asarray(np.asarray(is_member_C, bool), jnp.result_type(float))


def _add(a: optax.Updates, b: optax.Updates) -> optax.Updates:
    return jax.tree.map(jnp.add, a, b)


def _subtract(a: optax.Updates, b: optax.Updates) -> optax.Updates:
    return jax.tree.map(jnp.subtract, a, b)
