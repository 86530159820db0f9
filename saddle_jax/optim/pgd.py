"""PGD: perturbed gradient descent.

This is a link of an optax chain; `saddle_jax.optim.link` shows how to use it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from saddle_jax.optim.link import Ask, LinkContext, Step, make_link, value_at
from saddle_jax.optim.noise import uniform_in_ball
from saddle_jax.optim.sam import stable_norm


def make(fields: ConfigDict, context: LinkContext) -> optax.GradientTransformationExtraArgs:
    """Build the link from the values of its fields in a config."""
    return pgd(context.schedule("noise"), fields.threshold or None)


def pgd(
    radius: optax.ScalarOrSchedule, threshold: float | None = None, *, seed: jax.typing.ArrayLike = 0
) -> optax.GradientTransformationExtraArgs:
    """Return perturbed gradient descent: w' = w - lr · (g(w) + z), with z uniform in the ball of that radius.

    Algorithm 1 of Jin et al., "How to Escape Saddle Points Efficiently", ICML 2017, moves w to w + ξ wherever the
    gradient is small. ξ is uniform in a ball, and gradient steps continue from there. With ξ = -lr · z that is the same
    sequence, but their iteration begins with the noise and this one with the gradient. In this form (their JACM 2021
    paper, algorithms 1 and 2, with a Gaussian of the same size), the noise decays with the learning rate and costs no
    second gradient.
    Differs from the algorithm of 2017: the ball has radius lr · radius; the steps between two perturbations and the
    stopping rule, which need the loss of all images, are left out; the gradient is a minibatch's.

    Args:
      radius: of the ball over all parameters together, in units of the gradient's length; or a schedule of it.
      threshold: add noise only where the gradient's length is at most this; None adds it at every step.
      seed: for the noise, which is a function of it and the link's counter.
    """

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        del params
        norm = stable_norm(grads)
        noise = uniform_in_ball(ask.key, grads, value_at(radius, ask.count))
        active = True if threshold is None else norm <= threshold
        noisy = jax.tree.map(lambda g, z: g + jnp.where(active, z, 0), grads, noise)
        return Step(noisy, norm, 1)

    return make_link(take, name="pgd", seed=seed)
