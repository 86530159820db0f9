"""From config to the optax chain that a run trains with; it reads as the algorithm."""

from __future__ import annotations

from typing import Any

import optax
from ml_collections import ConfigDict

from saddle_jax import devices
from saddle_jax.optim.link import shared
from saddle_jax.optim.sam import sam
from saddle_jax.schedules import Schedules


def make_optimizer(
    config: ConfigDict, schedules: Schedules, *, aux_like: Any = (), axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """Return SGD with momentum, behind SAM if the config enables it.

    Gradients come in as each device's own part of the batch's gradient, from the caller and from grad_fn alike.
    `shared` sums them for `sam`, and every device has the same perturbation; summed only after it, each its own
    (m-sharpness).
    """
    sgd = (
        optax.add_decayed_weights(config.optim.weight_decay),
        optax.trace(config.optim.momentum),
        optax.scale_by_learning_rate(schedules.lr),
    )
    if not config.sam.enabled:
        return optax.chain(sum_over_devices(axis_name), *sgd)
    is_shared = config.sam.perturbation == "shared"
    link = sam(
        schedules.rho,
        adaptive=config.sam.adaptive,
        adaptive_eta=config.sam.adaptive_eta,
        aux_like=aux_like,
        axis_name=None if is_shared else axis_name,
    )
    if is_shared:
        return optax.chain(shared(link, axis_name), *sgd)
    return optax.chain(link, sum_over_devices(axis_name), *sgd)


def sum_over_devices(axis_name: str | None) -> optax.GradientTransformation:
    """Return the link that adds up the devices' parts of a gradient."""
    return optax.stateless(lambda updates, _: devices.sum_over(updates, axis_name))
