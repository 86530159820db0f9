"""The plain method: one network, one loss, one view of each image."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from saddle_jax.data.images import Batch
from saddle_jax.longtail import ClassStats
from saddle_jax.losses import logit_scale, make_loss
from saddle_jax.methods.base import Context, LossOutput, Method, Stream, Variables, make_normalize, sums_of
from saddle_jax.methods.mixing import Mixed, mix, smoothed
from saddle_jax.models import networks, tuning
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
    mixup, cutmix, smoothing = config.plain.mixup, config.plain.cutmix, config.plain.label_smoothing
    loss_fn = smoothed(make_loss(config, stats, logit_scale(config)), smoothing)
    normalize = make_normalize(config.data)
    trained = tuning.trained(config.model.train, network)
    share_C = stats.sampling_C(config.data.sampling, config.loss.effective_beta)

    def init(key: jax.Array) -> Variables:
        return Variables(*network.init(key, image_shape), ())

    def prepare(
        variables: Variables, views: tuple[Batch, ...], step: jax.Array, key: jax.Array | None = None
    ) -> Batch | Mixed:
        del variables, step
        if not (mixup or cutmix) or key is None:
            return views[0]
        return mix(views[0]._replace(images=normalize(views[0].images)), key, mixup, cutmix)

    def loss(variables: Variables, inputs: Batch | Mixed, context: Context) -> LossOutput:
        batch = inputs.batch if isinstance(inputs, Mixed) else inputs
        images = batch.images if isinstance(inputs, Mixed) else normalize(batch.images)
        params = tuning.hold(variables.params, trained)
        logits_BC, model_state = network.logits(
            params, variables.model_state, images, batch.mask, train=True, key=context.key
        )
        if isinstance(inputs, Mixed):
            shares = (batch.labels, inputs.share_B), (inputs.others_B, 1 - inputs.share_B)
            parts = [batch._replace(labels=labels_B, mask=share_B * batch.mask) for labels_B, share_B in shares]
        else:
            parts = [batch]
        sums = [sums_of(loss_fn(logits_BC, part.labels), part, context) for part in parts]
        numerator, denominator, objective = functools.reduce(functools.partial(jax.tree.map, jnp.add), sums)
        correct_B = (jnp.argmax(logits_BC, axis=1) == batch.labels) & batch.mask
        metrics = {"accuracy": jnp.sum(correct_B)}
        return LossOutput(numerator, denominator, model_state, jnp.sum(batch.mask), metrics, objective)

    def predict(
        params: Any, model_state: Any, batch: Batch, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        images = normalize(batch.images)
        return network.logits(params, model_state, images, batch.mask, train=train, key=key)[0]

    return Method(
        streams=(Stream(share_C, (config.data.augmentation,)),),
        init=init,
        prepare=prepare,
        loss=loss,
        after_update=lambda variables, _inputs: variables.method_state,
        predict=predict,
        network_of=lambda params, model_state: (params, model_state),
        trained=trained,
        is_classifier=network.is_classifier,
        linear=network.linear,
    )
