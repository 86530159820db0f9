"""GLMC, with or without SAM: two mixed images per pair, two classifiers, one contrastive term (Du et al., CVPR 2023).

A pair is an image from a uniform stream and one from a re-sampled stream, each in two views. MixUp mixes the first
views and CutMix the second views; a batch has one λ for both. In a run of E epochs, the loss of the two mixed images is

    loss = a · balance + (1 - a) · rebalance + κ · contrast,  a = 1 - (epoch / E)²

`balance` is the plain classifier's cross-entropy on both images, and `rebalance` is the balanced classifier's, with
class-weighted labels. `contrast` is the negative cosine between the prediction of one image and the projection of the
other. SAM perturbs along the loss without the contrast and descends with it, as in the code of Rangwani et al.
(NeurIPS 2022). The balanced classifier makes the predictions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.images import Batch
from saddle_jax.longtail import ClassStats
from saddle_jax.methods.base import DESCENT, Context, LossOutput, Method, Stream, Variables, make_normalize
from saddle_jax.methods.mixing import Mixture, draw_mixture, paste
from saddle_jax.models import heads, networks
from saddle_jax.models.base import beside, functions_of
from saddle_jax.schedules import Schedules

_MIXING = 1  # folded into the run's key for the mixtures; the key itself initializes the network


class Inputs(NamedTuple):
    """The mixed images of a device's pairs."""

    mixup_BHWK: jax.Array
    cutmix_BHWK: jax.Array
    mixup_targets_BC: jax.Array  # soft labels that sum to 1
    cutmix_targets_BC: jax.Array
    mask_B: jax.Array  # bool: no image of the pair is masked


class Outputs(NamedTuple):
    """The network's outputs, one row per image."""

    plain_BC: jax.Array  # logits
    balanced_BC: jax.Array  # logits
    projected_BP: jax.Array
    predicted_BP: jax.Array  # predicts the other mixed image's projection


class Terms(NamedTuple):
    """The terms of the loss, one value per pair."""

    balance: jax.Array
    rebalance: jax.Array
    contrast: jax.Array


class Heads(nn.Module):
    """The heads that GLMC adds to the network's own classifier."""

    linear_balanced: nn.Module
    projector: nn.Module
    predictor: nn.Module

    def __call__(self, features_BD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the balanced classifier's logits, the projection, and the prediction of the other projection."""
        projected_BP = self.projector(features_BD)
        return self.linear_balanced(features_BD), projected_BP, self.predictor(projected_BP)


def make(
    config: ConfigDict,
    stats: ClassStats,
    image_shape: tuple[int, ...],
    axis_name: str | None,
    schedules: Schedules,
) -> Method:
    """Return the method. Its state is a random key, which together with the step determines each batch's mixture.

    Args:
      image_shape: (height, width, channels).
      axis_name: axis of the devices that the steps will be mapped over, or None.
      schedules: give the length of an epoch and of the run.
    """
    glmc = config.glmc
    height, width, _ = image_shape
    network = networks.make_network(config, stats.num_classes, axis_name)
    own_heads = functions_of(
        Heads(
            linear_balanced=networks.make_linear(config.model, stats.num_classes),
            projector=networks.make_linear(config.model, glmc.projection_dim),
            predictor=networks.make_linear(config.model, glmc.projection_dim),
        )
    )
    normalize = make_normalize(config.data)
    label_weights_C = label_weights(stats, glmc.label_weight_power)

    def init(key: jax.Array) -> Variables:
        params, model_state = network.init(key, image_shape)
        own, _ = own_heads.init(key, network.blank_features(params, model_state, image_shape))
        mixing_key = jax.random.key_data(jax.random.fold_in(key, _MIXING))
        return Variables(beside(params, own), model_state, mixing_key)

    def prepare(
        variables: Variables, views: tuple[Batch, ...], step: jax.Array, key: jax.Array | None = None
    ) -> Inputs:
        del key  # the key for mixtures is in the method's state
        of_step = jax.random.fold_in(jax.random.wrap_key_data(variables.method_state), step)
        mixture = draw_mixture(of_step, height, width, glmc.beta)
        views = tuple(view._replace(images=normalize(view.images)) for view in views)
        return mix(views, mixture, stats.num_classes, area_corrected=glmc.area_corrected)

    def forward(
        params: Any, model_state: Any, images_BHWK: jax.Array, mask_B: jax.Array, *, train: bool, key: jax.Array | None
    ) -> tuple[Outputs, Any]:
        features_BD, model_state = network.features(params, model_state, images_BHWK, mask_B, train=train, key=key)
        (balanced_BC, projected_BP, predicted_BP), _ = own_heads.apply(params, {}, features_BD)
        return Outputs(network.classify(params, features_BD), balanced_BC, projected_BP, predicted_BP), model_state

    def loss(variables: Variables, inputs: Inputs, context: Context) -> LossOutput:
        params, mask_B = variables.params, inputs.mask_B
        of_mixup, of_cutmix = (None, None) if context.key is None else jax.random.split(context.key)
        # Two separate passes, so that each normalizes by its own statistics and moves the running ones.
        start, mixup_BHWK, cutmix_BHWK = variables.model_state, inputs.mixup_BHWK, inputs.cutmix_BHWK
        mixup, model_state = forward(params, start, mixup_BHWK, mask_B, train=True, key=of_mixup)
        cutmix, model_state = forward(params, model_state, cutmix_BHWK, mask_B, train=True, key=of_cutmix)
        terms = loss_terms(mixup, cutmix, inputs, label_weights_C)
        a = balance_weight(context.step, schedules)
        losses_B = a * terms.balance + (1 - a) * terms.rebalance
        objective_B = losses_B + glmc.contrast * terms.contrast
        if context.pass_name == DESCENT or glmc.contrast_in_ascent:
            losses_B = objective_B
        if context.extra_weights_C is not None:
            # Linear in the soft labels, so that the gradients of groups of classes add up to the batch's.
            targets_BC = (inputs.mixup_targets_BC + inputs.cutmix_targets_BC) / 2
            weights_B = targets_BC @ context.extra_weights_C.astype(targets_BC.dtype)
            losses_B = weights_B * losses_B
        values = (losses_B, objective_B, *terms)
        numerator, objective, *sums = (jnp.sum(jnp.where(mask_B, values_B, 0)) for values_B in values)
        pairs = jnp.sum(mask_B)
        metrics = dict(zip(Terms._fields, sums, strict=True))
        return LossOutput(numerator, pairs.astype(numerator.dtype), model_state, pairs, metrics, objective)

    def predict(
        params: Any, model_state: Any, batch: Batch, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        outputs, _ = forward(params, model_state, normalize(batch.images), batch.mask, train=train, key=key)
        return outputs.balanced_BC

    def is_classifier(params: Any) -> Any:
        balanced = jax.tree.map(lambda _: True, params["linear_balanced"])
        return {**network.is_classifier(params), "linear_balanced": balanced}

    def network_of(params: Any, model_state: Any) -> tuple[Any, Any]:
        own = ("linear_balanced", "projector", "predictor")
        network_params = {name: tree for name, tree in params.items() if name not in own}
        return {**network_params, "linear": params["linear_balanced"]}, model_state

    two_views = (config.data.augmentation,) * 2
    return Method(
        streams=(Stream(None, two_views), Stream(resampling_share(stats, glmc.resample_power), two_views)),
        init=init,
        prepare=prepare,
        loss=loss,
        after_update=lambda variables, _: variables.method_state,
        predict=predict,
        network_of=network_of,
        is_classifier=is_classifier,
        linear="linear_balanced",
    )


def resampling_share(stats: ClassStats, power: float) -> np.ndarray:
    """Return each class's share of the re-sampled stream, which draws images in proportion to n^(-power)."""
    share_C = np.where(stats.counts_C > 0, stats.safe_counts_C ** (1.0 - power), 0.0)
    return share_C / share_C.sum()


def label_weights(stats: ClassStats, power: float) -> np.ndarray:
    """Return class weights that are proportional to n^(-power) and sum to C."""
    weights_C = np.where(stats.counts_C > 0, stats.safe_counts_C**-power, 0.0)
    return weights_C / weights_C.sum() * stats.num_classes


def balance_weight(step: jax.Array, schedules: Schedules) -> jax.Array:
    """Return a = 1 - (epoch / E)², with epochs counted from 0: it falls from 1 in the first epoch toward 0."""
    epoch_start = step // schedules.steps_per_epoch * schedules.steps_per_epoch
    return 1 - jnp.square(epoch_start / schedules.total_steps)


def mix(views: tuple[Batch, ...], mixture: Mixture, num_classes: int, *, area_corrected: bool) -> Inputs:
    """Return the mixed images and their soft labels.

    Args:
      views: two of the uniform stream, then two of the re-sampled one, with normalized images.
      area_corrected: compute CutMix's soft labels from the box's true share of the image, which clipping and rounding
        change. The published method uses λ.
    """
    uniform_1, uniform_2, resampled_1, resampled_2 = views
    lam = mixture.lam.astype(uniform_1.images.dtype)

    def soft_labels(part: jax.Array) -> jax.Array:
        uniform_BC = jax.nn.one_hot(uniform_1.labels, num_classes, dtype=part.dtype)
        resampled_BC = jax.nn.one_hot(resampled_1.labels, num_classes, dtype=part.dtype)
        return part * uniform_BC + (1 - part) * resampled_BC

    cutmix_BHWK, kept = paste(uniform_2.images, resampled_2.images, mixture.box)
    return Inputs(
        mixup_BHWK=lam * uniform_1.images + (1 - lam) * resampled_1.images,
        cutmix_BHWK=cutmix_BHWK,
        mixup_targets_BC=soft_labels(lam),
        cutmix_targets_BC=soft_labels(kept if area_corrected else lam),
        mask_B=uniform_1.mask & uniform_2.mask & resampled_1.mask & resampled_2.mask,
    )


def loss_terms(mixup: Outputs, cutmix: Outputs, inputs: Inputs, label_weights_C: np.ndarray) -> Terms:
    """Return the terms of each pair, summed over its two mixed images."""
    mixup_BC, cutmix_BC = inputs.mixup_targets_BC, inputs.cutmix_targets_BC
    weights_C = label_weights_C.astype(mixup_BC.dtype)
    return Terms(
        balance=_soft_cross_entropy(mixup.plain_BC, mixup_BC) + _soft_cross_entropy(cutmix.plain_BC, cutmix_BC),
        rebalance=_soft_cross_entropy(mixup.balanced_BC, weights_C * mixup_BC)
        + _soft_cross_entropy(cutmix.balanced_BC, weights_C * cutmix_BC),
        contrast=-_cosine(mixup.predicted_BP, cutmix.projected_BP) - _cosine(cutmix.predicted_BP, mixup.projected_BP),
    )


def _soft_cross_entropy(logits_BC: jax.Array, targets_BC: jax.Array) -> jax.Array:
    return -jnp.sum(jax.nn.log_softmax(logits_BC) * targets_BC, axis=1)


def _cosine(predicted_BP: jax.Array, projected_BP: jax.Array) -> jax.Array:
    """Return cosines. The projection is a target and gets no gradient."""
    target_BP = heads.unit(jax.lax.stop_gradient(projected_BP), axis=1)
    return jnp.sum(heads.unit(predicted_BP, axis=1) * target_BP, axis=1)
