"""Per-example losses for long-tailed classes, and the sums behind their weighted mean.

Shapes: B examples, C classes. A loss takes logits and labels and returns one value per example. The mean over the whole
batch, on all devices, is Σ w·l / Σ w.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError
from saddle_jax.experiment.catalogue import group_of, is_dotted, make, own_code
from saddle_jax.longtail import ClassStats

Loss = Callable[[jax.Array, jax.Array], jax.Array]  # (logits_BC, labels_B) -> losses_B


def logit_scale(config: ConfigDict) -> float:
    """Return the factor by which the loss multiplies the network's outputs, such as a normed head's cosines.

    Probabilities are softmax(factor · logits).
    """
    return config.loss.logit_scale if config.model.head == "normed" else 1.0


def make_loss(config: ConfigDict, stats: ClassStats, scale: float = 1.0, name: str = "") -> Loss:
    """Return the loss that the config names, with its margins and priors from the class counts.

    Args:
      scale: factor on the logits, applied before anything except LDAM's margin; a normed head's s.
      name: the loss; config.loss.name by default.

    Raises:
      ConfigError: a user-defined loss does not return one number per example.
    """
    name = name or config.loss.name
    loss = make("loss.name", name, config.get(group_of(name)), stats, scale)
    if is_dotted(name):
        _require_one_value_an_example(name, loss, stats.num_classes)
    return loss


def _require_one_value_an_example(name: str, loss: Loss, num_classes: int) -> None:
    logits_BC, labels_B = jax.ShapeDtypeStruct((2, num_classes), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    with own_code("loss.name", name):
        found = jax.eval_shape(loss, logits_BC, labels_B)
    if getattr(found, "shape", None) != (2,) or not jnp.issubdtype(found.dtype, jnp.floating):
        shown = f"{found.dtype} of shape {found.shape}" if hasattr(found, "shape") else type(found).__name__
        raise ConfigError(
            f"loss.name: {name} returns {shown} for logits (2, {num_classes}) and labels (2,), expected one "
            "floating-point number per example, shape (2,). Fix: return one loss for each example; the mean is taken "
            "for you"
        )


def make_cross_entropy(fields: ConfigDict, stats: ClassStats, scale: float) -> Loss:
    """Return the cross-entropy of scale · logits."""
    del fields, stats
    return lambda logits_BC, labels_B: cross_entropy(logits_BC * scale, labels_B)


def make_focal(fields: ConfigDict, stats: ClassStats, scale: float) -> Loss:
    """Return the focal loss of scale · logits."""
    del stats
    return lambda logits_BC, labels_B: focal(logits_BC * scale, labels_B, fields.gamma)


def make_ldam(fields: ConfigDict, stats: ClassStats, scale: float) -> Loss:
    """Return LDAM on cosines, with its margins."""
    margins_C = stats.ldam_margins_C(fields.max_margin)
    return lambda cosines_BC, labels_B: ldam(cosines_BC, labels_B, margins_C, scale)


def make_logit_adjustment(fields: ConfigDict, stats: ClassStats, scale: float) -> Loss:
    """Return logit adjustment: vector scaling without the factors."""
    return _adjusted(stats.multiplicative_factors_C(0.0), fields.tau * np.log(stats.priors_C()), scale)


def make_class_dependent_temperatures(fields: ConfigDict, stats: ClassStats, scale: float) -> Loss:
    """Return CDT: vector scaling without the additive terms."""
    return _adjusted(stats.multiplicative_factors_C(fields.gamma), np.zeros(stats.num_classes), scale)


def make_vector_scaling(fields: ConfigDict, stats: ClassStats, scale: float) -> Loss:
    """Return vector scaling, with factors and additive terms."""
    return _adjusted(stats.multiplicative_factors_C(fields.gamma), fields.tau * np.log(stats.priors_C()), scale)


def _adjusted(delta_C: np.ndarray, iota_C: np.ndarray, scale: float) -> Loss:
    return lambda logits_BC, labels_B: vector_scaling(logits_BC * scale, labels_B, delta_C, iota_C)


def cross_entropy(logits_BC: jax.Array, labels_B: jax.Array) -> jax.Array:
    """Return -log softmax(logits)[label]."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits_BC), labels_B[:, None], axis=1)[:, 0]


def focal(logits_BC: jax.Array, labels_B: jax.Array, gamma: float) -> jax.Array:
    """Return (1 - p)^gamma · -log p (Lin et al., ICCV 2017, eq. 4).

    Differs from the reference: a class weight only multiplies the loss. In the reference, it also enters p.
    """
    negative_log_p_B = cross_entropy(logits_BC, labels_B)
    # At p = 1, the derivative of a power below 1 is infinite, but its product with log p tends to 0.
    miss_B = jnp.maximum(-jnp.expm1(-negative_log_p_B), jnp.finfo(logits_BC.dtype).tiny)
    return miss_B**gamma * negative_log_p_B


def ldam(cosines_BC: jax.Array, labels_B: jax.Array, margins_C: np.ndarray, scale: float) -> jax.Array:
    """Return the cross-entropy of scale · (cosine - margin of the label's class) (Cao et al., NeurIPS 2019, eq. 13)."""
    margins_BC = jax.nn.one_hot(labels_B, len(margins_C), dtype=cosines_BC.dtype) * margins_C.astype(cosines_BC.dtype)
    return cross_entropy(scale * (cosines_BC - margins_BC), labels_B)


def vector_scaling(logits_BC: jax.Array, labels_B: jax.Array, delta_C: np.ndarray, iota_C: np.ndarray) -> jax.Array:
    """Return the cross-entropy of logits / Δ + ι (Kini et al., NeurIPS 2021, eq. 3)."""
    dtype = logits_BC.dtype
    return cross_entropy(logits_BC / delta_C.astype(dtype) + iota_C.astype(dtype), labels_B)


def weighted_sums(
    losses_B: jax.Array,
    labels_B: jax.Array,
    mask_B: jax.Array,
    weights_C: jax.Array,
    extra_weights_C: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return Σ w·l and Σ w over the unmasked examples. A mask of numbers from 0 to 1 counts parts of examples.

    `extra_weights_C` multiplies only the numerator, so that the gradients of groups of classes add up to the batch's.
    """
    weights_B = weights_C.astype(losses_B.dtype)[labels_B] * mask_B
    numerator_B = weights_B if extra_weights_C is None else weights_B * extra_weights_C[labels_B]
    # A masked example's loss may be infinite, and 0 · inf would be NaN.
    return jnp.sum(numerator_B * jnp.where(mask_B != 0, losses_B, 0)), jnp.sum(weights_B)
