"""What is minimised, behind one small contract; and the plain method: backbone, head, loss.

`train/` calls the functions of a `Method` and knows none by name. A method's own state (a queue, a momentum encoder;
the plain one has none) is checkpointed with everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.images import Batch
from saddle_jax.longtail import ClassStats
from saddle_jax.losses import make_loss, weighted_sums
from saddle_jax.models.networks import make_network

ASCENT, DESCENT = "ascent", "descent"  # the passes of a SAM step; plain SGD makes the first only


class Variables(NamedTuple):
    """What a method's loss depends on."""

    params: Any
    batch_stats: Any
    method_state: Any


class LossOutput(NamedTuple):
    """One device's part of the batch's loss, Σ w·l / Σ w with both sums over all devices."""

    numerator: jax.Array  # Σ w·l
    denominator: jax.Array  # Σ w; must not depend on the parameters
    batch_stats: Any  # after this pass
    method_state: Any  # after this pass
    metrics: dict[str, jax.Array]  # this device's sums, to be divided by the number of images


class Method(NamedTuple):
    """A tuple of pure functions."""

    init: Callable[[jax.Array], Variables]  # random key -> variables
    loss: Callable[..., LossOutput]  # (variables, batch, class_weights_C, pass_name, extra_weights_C=None)
    after_update: Callable[[Variables], Any]  # once a step, with the new parameters -> method state
    predict: Callable[..., jax.Array]  # (params, batch_stats, batch, train=False) -> logits; train: BatchNorm's mode


def make_plain(config: ConfigDict, stats: ClassStats, image_shape: tuple[int, ...], axis_name: str | None) -> Method:
    """Return the method that trains one network with one loss.

    Args:
      image_shape: (height, width, channels).
      axis_name: axis of the devices that the steps will be mapped over; None for none.
    """
    model = make_network(config.model, stats.num_classes, axis_name)
    loss_fn = make_loss(config.loss, stats, config.loss.logit_scale if config.model.head == "normed" else 1.0)
    mean, std = np.array(config.data.mean), np.array(config.data.std)

    def normalise(images: jax.Array) -> jax.Array:
        dtype = jnp.result_type(float)
        return (images.astype(dtype) / 255 - mean.astype(dtype)) / std.astype(dtype)

    def init(key: jax.Array) -> Variables:
        images = jnp.zeros((1, *image_shape))
        variables = model.init(key, images, jnp.ones(1, bool), train=False)
        return Variables(variables["params"], variables["batch_stats"], ())

    def loss(
        variables: Variables,
        batch: Batch,
        class_weights_C: jax.Array,
        pass_name: str,
        extra_weights_C: jax.Array | None = None,
    ) -> LossOutput:
        del pass_name  # the same loss in both
        logits_BC, updated = model.apply(
            {"params": variables.params, "batch_stats": variables.batch_stats},
            normalise(batch.images),
            batch.mask,
            train=True,
            mutable=["batch_stats"],
        )
        losses_B = loss_fn(logits_BC, batch.labels)
        numerator, denominator = weighted_sums(losses_B, batch.labels, batch.mask, class_weights_C, extra_weights_C)
        correct_B = (jnp.argmax(logits_BC, axis=1) == batch.labels) & batch.mask
        metrics = {"accuracy": jnp.sum(correct_B)}
        return LossOutput(numerator, denominator, updated["batch_stats"], variables.method_state, metrics)

    def predict(params: Any, batch_stats: Any, batch: Batch, *, train: bool = False) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        images = normalise(batch.images)
        logits_BC, _ = model.apply(variables, images, batch.mask, train=train, mutable=["batch_stats"])
        return logits_BC

    return Method(init, loss, lambda variables: variables.method_state, predict)
