"""LPF-SGD: low-pass filtered SGD.

This is a link of an optax chain; `saddle_jax.optim.link` shows how to use it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from saddle_jax.host import devices
from saddle_jax.optim.link import FORWARD, Ask, LinkContext, Step, make_link, value_at
from saddle_jax.optim.noise import filter_noise


def make(fields: ConfigDict, context: LinkContext) -> optax.GradientTransformationExtraArgs:
    """Build the link from the values of its fields in a config."""
    return lpf_sgd(context.schedule("noise"), fields.samples, aux_like=context.aux_like)


def lpf_sgd(
    gamma: optax.ScalarOrSchedule,
    samples: int = 1,
    *,
    seed: jax.typing.ArrayLike = 0,
    aux_like: Any = (),
) -> optax.GradientTransformationExtraArgs:
    """Return low-pass filtered SGD: the mean of g(w + z_m) over `samples` Gaussians z_m that scale with the weights.

    Bisla, Wang and Choromanska, "Low-Pass Filtering SGD for Recovering Flat Optima in the Deep Learning Optimization
    Landscape", AISTATS 2022, algorithm 1. Deviations are gamma · |filter|, as in the authors' code (their paper writes
    gamma · diag(|filter|) for the covariance). A filter is the part of a kernel that makes one output (Flax: one index
    of the last axis); a vector, such as a bias, is one filter as a whole. Their settings are one sample with gamma
    0.0002 to 0.002, or eight samples with gamma_0 · (1 + α (1 - cos(πt/T)) / 2), gamma_0 = 0.0005, and α = 15 to 35.
    Differs from the authors' code: every sample sees the whole batch, not a part of 1 / samples of it, so an update
    costs `samples` evaluations instead of one.

    The gradient at w is not used. A compiled step drops its backward pass and keeps the forward pass for the metrics.
    The paper makes no pass at w, so of a training step's policies for BatchNorm, `second` matches the paper.

    Args:
      gamma: deviation of the noise over the filters' length, or a schedule of it.
      samples: number of gradients that are averaged.
      seed: for the noise, which is a function of it and the link's counter.
      aux_like: see `make_link`; the aux is that of the last sample.
    """

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        del grads
        scale = value_at(gamma, ask.count)

        def sample(key: jax.Array) -> tuple[optax.Updates, Any]:
            return ask.grad_fn(optax.apply_updates(params, filter_noise(key, params, scale)))

        def add_sample(so_far: optax.Updates, key: jax.Array) -> tuple[optax.Updates, Any]:
            more, aux = sample(key)
            return jax.tree.map(jnp.add, so_far, more), aux

        keys = jax.random.split(ask.key, samples)
        total, aux = sample(keys[0])
        if samples > 1:
            # Gradients of convolution kernels are slow inside a loop on CPUs.
            total, auxs = jax.lax.scan(add_sample, total, keys[1:], unroll=devices.on_cpu())
            aux = jax.tree.map(lambda x: x[-1], auxs)
        return Step(jax.tree.map(lambda g: g / samples, total), 0, samples + FORWARD, aux)

    return make_link(take, name="lpf_sgd", aux_like=aux_like, seed=seed)
