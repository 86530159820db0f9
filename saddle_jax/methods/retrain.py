"""CC-SAM's second stage: freeze the backbone of an earlier run and train its classifier further.

Zhou et al., "Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed Recognition", CVPR 2023. All
classes are drawn equally often. In epoch t = 0, 1, ... of E, the loss of an image of class c with features f is

    loss = a · w_c · l(f + noise · w_c · g / |g_c|) + (1 - a) · l(f),  a = min((t + 1) / E, limit)

Here l is the classifier's loss as a function of the features, and g is its derivative with respect to f. |g_c| is the
length of all these derivatives together for the batch's images of class c. w_c = log(n_max / n_c + 0.01) / 2 is near 0
for the largest class. With a limit of 0, this is classifier re-training on class-balanced draws (cRT; Kang et al., ICLR
2020, who start from a new classifier). Shapes: B images, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.images import Batch
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats
from saddle_jax.losses import logit_scale, make_loss
from saddle_jax.methods import plain
from saddle_jax.methods.base import Context, LossOutput, Method, Variables, make_normalize, sums_of
from saddle_jax.models import networks
from saddle_jax.schedules import Schedules


def make(
    config: ConfigDict, stats: ClassStats, image_shape: tuple[int, ...], axis_name: str | None, schedules: Schedules
) -> Method:
    """Return the method; see `methods.base.Method`. It has the plain method's network.

    BatchNorm is in training mode, as in the authors' code: it normalizes by the batch and moves the running statistics.
    """
    network = networks.make_network(config, stats.num_classes, axis_name)
    loss_fn = make_loss(config, stats, logit_scale(config))
    normalize = make_normalize(config.data)
    flat_weights_C, retrain = flat_weights(stats), config.retrain

    def loss(variables: Variables, batch: Batch, context: Context) -> LossOutput:
        params, labels_B, mask_B = variables.params, batch.labels, batch.mask
        images = normalize(batch.images)
        features_BD, model_state = network.features(
            params, variables.model_state, images, mask_B, train=True, key=context.key
        )
        features_BD = jax.lax.stop_gradient(features_BD)
        fixed = jax.lax.stop_gradient(params)
        weights_B = jnp.asarray(flat_weights_C, features_BD.dtype)[labels_B]
        ascent_BD = class_directions(
            lambda features_BD: loss_fn(network.classify(fixed, features_BD), labels_B),
            features_BD,
            labels_B,
            mask_B,
            stats.num_classes,
            axis_name,
        )
        noisy_BD = features_BD + retrain.feature_noise * weights_B[:, None] * ascent_BD
        logits_BC = network.classify(params, features_BD)
        clean_B = loss_fn(logits_BC, labels_B)
        flat_B = weights_B * loss_fn(network.classify(params, noisy_BD), labels_B)
        a = flat_ratio(context.step, schedules, retrain.flat_limit)
        numerator, denominator, objective = sums_of(a * flat_B + (1 - a) * clean_B, batch, context)
        metrics = {
            "accuracy": jnp.sum((jnp.argmax(logits_BC, axis=1) == labels_B) & mask_B),
            "clean_loss": jnp.sum(jnp.where(mask_B, clean_B, 0)),
            "flat_loss": jnp.sum(jnp.where(mask_B, flat_B, 0)),
        }
        return LossOutput(numerator, denominator, model_state, jnp.sum(mask_B), metrics, objective)

    whole = plain.make(config, stats, image_shape, axis_name)
    return whole._replace(loss=loss, trained=network.is_classifier)


def flat_weights(stats: ClassStats) -> np.ndarray:
    """Return log(n_max / n + 0.01) / 2, the weight of a class's noise and of its loss under noise."""
    return np.log(stats.counts_C.max() / stats.safe_counts_C + 0.01) / 2


def flat_ratio(step: jax.Array, schedules: Schedules, limit: float) -> jax.Array:
    """Return the weight of the loss under noise: 1 / E in the first of E epochs, 1 in the last, at most `limit`."""
    epoch_end = (step // schedules.steps_per_epoch + 1) * schedules.steps_per_epoch
    return jnp.minimum(epoch_end.astype(jnp.result_type(float)) / schedules.total_steps, limit)


def class_directions(
    losses: Callable[[jax.Array], jax.Array],
    features_BD: jax.Array,
    labels_B: jax.Array,
    mask_B: jax.Array,
    num_classes: int,
    axis_name: str | None,
) -> jax.Array:
    """Return each image's part of the unit vector along which its class's loss rises, over all devices' images.

    No gradient passes through it. Masked rows and classes whose gradient is 0 get 0.

    Args:
      losses: features -> one loss per image.
    """

    def total(features_BD: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask_B, losses(features_BD), 0))

    grads_BD = jax.lax.stop_gradient(jax.grad(total)(features_BD))
    squares_C = jnp.zeros(num_classes, grads_BD.dtype).at[labels_B].add(jnp.sum(jnp.square(grads_BD), axis=1))
    squares_C = devices.sum_over(squares_C, axis_name)
    has_direction_C = squares_C > 0
    factor_C = jnp.where(has_direction_C, jax.lax.rsqrt(jnp.where(has_direction_C, squares_C, 1)), 0)
    return factor_C[labels_B, None] * grads_BD
