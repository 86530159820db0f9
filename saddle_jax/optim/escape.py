"""Optimizers made to leave saddle points, as links of an optax chain: PGD, CNC-PGD, LPF-SGD.

Each is used as `saddle_jax.optim.link` shows. Where gradients are a device's own, wrap them in `shared`, which gives
every device the same noise. lr is the learning rate that follows in the chain; the equations are those of plain SGD.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from saddle_jax.optim.link import FORWARD, Ask, Step, make_link, value_at
from saddle_jax.optim.sam import stable_norm


def pgd(
    radius: optax.ScalarOrSchedule, threshold: float | None = None, *, seed: jax.typing.ArrayLike = 0
) -> optax.GradientTransformationExtraArgs:
    """Return perturbed gradient descent: w' = w - lr · (g(w) + z), z uniform in the ball of that radius.

    Jin et al., "How to Escape Saddle Points Efficiently", ICML 2017, algorithm 1: w becomes w + ξ, ξ uniform in a ball,
    wherever the gradient is small, and gradient steps go on from there. With ξ = -lr · z that is this iteration, cut
    after the noise there and before the gradient here. In this form (their JACM 2021 paper, algorithms 1 and 2, with a
    Gaussian of the same size) the noise decays with the learning rate, and it costs no second gradient.
    Differs from the algorithm of 2017: the ball is that of lr · radius; steps between two perturbations and a stopping
    rule, which need the loss of all images, are left out; the gradient is a minibatch's.

    Args:
      radius: of the ball over all parameters together, in units of the gradient's length; or a schedule of it.
      threshold: noise is added only where the gradient's length is at most this; None adds it at every step.
      seed: of the noise, which is a function of it and the link's counter.
    """

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        del params
        norm = stable_norm(grads)
        noise = uniform_in_ball(ask.key, grads, value_at(radius, ask.count))
        active = True if threshold is None else norm <= threshold
        noisy = jax.tree.map(lambda g, z: g + jnp.where(active, z, 0), grads, noise)
        return Step(noisy, norm, 1)

    return make_link(take, name="pgd", seed=seed)


def cnc_pgd(
    ratio: optax.ScalarOrSchedule,
    learning_rate: optax.ScalarOrSchedule,
    threshold: float | None = None,
    *,
    aux_like: Any = (),
) -> optax.GradientTransformationExtraArgs:
    """Return CNC-PGD, whose perturbation is a step of SGD: v = w - r · g(w), w' = v - lr · g(v), r = ratio · lr.

    Daneshmand et al., "Escaping Saddles with Stochastic Gradients", ICML 2018, algorithm 1. The gradient returned is
    ratio · g(w) + g(w - ratio · lr · g(w)), so that both steps stay in the parameters. Two evaluations.
    Differs from the algorithm: one minibatch gives both gradients (there v comes from one random example and g(v) from
    all images); steps between two perturbations and the stopping rule are left out.

    Args:
      ratio: size of the perturbing step over the learning rate (the algorithm's r over its η), or a schedule of it.
      learning_rate: of the chain, or its schedule.
      threshold: the perturbing step is made only where the gradient's length is at most this; None: always.
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


def lpf_sgd(
    gamma: optax.ScalarOrSchedule,
    samples: int = 1,
    *,
    seed: jax.typing.ArrayLike = 0,
    aux_like: Any = (),
) -> optax.GradientTransformationExtraArgs:
    """Return low-pass filter SGD: the mean of g(w + z_m) over `samples` Gaussians z_m of a scale of the weights' own.

    Bisla, Wang and Choromanska, "Low-Pass Filtering SGD for Recovering Flat Optima in the Deep Learning Optimization
    Landscape", AISTATS 2022, algorithm 1. Deviations are gamma · |filter|, as in the authors' code (their paper writes
    gamma · diag(|filter|) for the covariance): a filter is what makes one output of a kernel (Flax: its last axis), and
    a vector, such as a bias, is one filter as a whole. Their settings: one sample and gamma 0.0002 to 0.002; or eight
    and gamma_0 · (1 + α (1 - cos(πt/T)) / 2) with gamma_0 = 0.0005 and α = 15 to 35.
    Differs from the authors' code: every sample sees the whole batch, there a part of 1 / samples of it each, so that
    an update costs `samples` evaluations and not one.

    The gradient at w is not used: a compiled step drops its backward pass and keeps the forward pass of the metrics.
    The paper makes no pass at w: of a training step's policies for BatchNorm, `second` is the paper's.

    Args:
      gamma: deviation of the noise over the filters' length, or a schedule of it.
      samples: gradients that are averaged.
      seed: of the noise, which is a function of it and the link's counter.
      aux_like: see `make_link`; of the last sample.
    """

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        del grads
        scale = value_at(gamma, ask.count)

        def sample(key: jax.Array) -> tuple[optax.Updates, Any]:
            return ask.grad_fn(optax.apply_updates(params, filter_noise(key, params, scale)))

        def add(so_far: optax.Updates, key: jax.Array) -> tuple[optax.Updates, Any]:
            more, aux = sample(key)
            return jax.tree.map(jnp.add, so_far, more), aux

        keys = jax.random.split(ask.key, samples)
        total, aux = sample(keys[0])
        if samples > 1:
            # Gradients of convolution kernels are slow inside a loop on CPUs.
            total, auxs = jax.lax.scan(add, total, keys[1:], unroll=jax.default_backend() == "cpu")
            aux = jax.tree.map(lambda x: x[-1], auxs)
        return Step(jax.tree.map(lambda g: g / samples, total), 0, samples + FORWARD, aux)

    return make_link(take, name="lpf_sgd", aux_like=aux_like, seed=seed)


def uniform_in_ball(key: jax.Array, like: Any, radius: jax.typing.ArrayLike) -> Any:
    """Return a tree that is a uniform draw from the ball of that radius, over all leaves together.

    A Gaussian vector has a uniform direction; the length of a uniform draw in n dimensions is radius · U^(1/n).
    """
    direction_key, length_key = jax.random.split(key)
    gaussian = _gaussian(direction_key, like)
    size = sum(leaf.size for leaf in jax.tree.leaves(like))
    length = radius * jax.random.uniform(length_key) ** (1 / size)
    factor = length / stable_norm(gaussian)
    return jax.tree.map(lambda z: (factor * z).astype(z.dtype), gaussian)


def filter_noise(key: jax.Array, params: optax.Params, gamma: jax.typing.ArrayLike) -> optax.Updates:
    """Return independent Gaussians of deviation gamma · |filter|; see `lpf_sgd`."""

    def scaled(w: jax.Array, z: jax.Array) -> jax.Array:
        axes = tuple(range(w.ndim - 1)) if w.ndim > 1 else None
        length = jnp.sqrt(jnp.sum(jnp.square(w), axis=axes, keepdims=w.ndim > 1))
        return jnp.asarray(gamma * length * z, w.dtype)

    return jax.tree.map(scaled, params, _gaussian(key, params))


def _gaussian(key: jax.Array, like: Any) -> Any:
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten([jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)])
