"""The plain method: one network, one loss, one view of each image."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from saddle_jax.data.images import Batch
from saddle_jax.longtail import ClassStats
from saddle_jax.losses import logit_scale, make_loss
from saddle_jax.methods.base import Context, LossOutput, Method, Stream, Variables, make_normalise, sums_of
from saddle_jax.models import networks
from saddle_jax.schedules import Schedules


def make(
    config: ConfigDict,
    stats: ClassStats,
    image_shape: tuple[int, ...],
    axis_name: str | None,
    schedules: Schedules | None = None,
) -> Method:
    """Return the method that trains one network with one loss.

    Args:
      image_shape: (height, width, channels).
      axis_name: axis of the devices that the steps will be mapped over, or None.
      schedules: not used.
    """
    del schedules
    network = networks.make_network(config, stats.num_classes, axis_name)
    loss_fn = make_loss(config, stats, logit_scale(config))
    normalise = make_normalise(config.data)
    share_C = stats.sampling_C(config.data.sampling, config.loss.effective_beta)

    def init(key: jax.Array) -> Variables:
        return Variables(*network.init(key, image_shape), ())

    def loss(variables: Variables, batch: Batch, context: Context) -> LossOutput:
        images = normalise(batch.images)
        logits_BC, model_state = network.logits(
            variables.params, variables.model_state, images, batch.mask, train=True, key=context.key
        )
        losses_B = loss_fn(logits_BC, batch.labels)
        numerator, denominator, objective = sums_of(losses_B, batch, context)
        correct_B = (jnp.argmax(logits_BC, axis=1) == batch.labels) & batch.mask
        metrics = {"accuracy": jnp.sum(correct_B)}
        return LossOutput(numerator, denominator, model_state, jnp.sum(batch.mask), metrics, objective)

    def predict(
        params: Any, model_state: Any, batch: Batch, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        images = normalise(batch.images)
        return network.logits(params, model_state, images, batch.mask, train=train, key=key)[0]

    return Method(
        streams=(Stream(share_C, (config.data.augmentation,)),),
        init=init,
        prepare=lambda _variables, views, _step, _key=None: views[0],
        loss=loss,
        after_update=lambda variables, _inputs: variables.method_state,
        predict=predict,
        network_of=lambda params, model_state: (params, model_state),
        is_classifier=network.is_classifier,
        linear=network.linear,
    )
