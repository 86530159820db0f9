"""The contract of a method, which defines what is minimized.

`training/` calls the functions of a `Method` and knows no method by name. A method's own state, such as a queue or a
momentum encoder, is saved in every checkpoint. The plain method has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.images import Batch
from saddle_jax.losses import weighted_sums

ASCENT, DESCENT = "ascent", "descent"  # purpose of a pass: SAM's perturbation, or the step (plain SGD's only pass)


class Stream(NamedTuple):
    """A sequence of training images. Its views show the same images in the same slots, each augmented independently."""

    class_share_C: np.ndarray | None  # None: each image once per epoch; else drawn with replacement
    augmentations: tuple[str, ...]  # one per view


class Variables(NamedTuple):
    """The variables that a method's loss depends on."""

    params: Any
    model_state: Any  # opaque: see `models.base.Network`
    method_state: Any


class Context(NamedTuple):
    """The other values that a method's loss depends on."""

    step: jax.Array  # (), int32: steps taken before this one
    pass_name: str  # ASCENT | DESCENT
    class_weights_C: jax.Array
    extra_weights_C: jax.Array | None = None  # multiplies the numerator only, so that groups' gradients add up
    # Random key for the network's own draws (dropout). It differs between devices and between micro-batches, and is the
    # same in all passes of a step. Networks that draw nothing need none. All other fields are the same on all devices.
    key: jax.Array | None = None


class LossOutput(NamedTuple):
    """One device's part of the batch's loss, which is Σ w·l / Σ w with both sums over all devices."""

    numerator: jax.Array  # Σ w·l
    denominator: jax.Array  # Σ w; must not depend on the parameters
    model_state: Any  # after this pass
    images: jax.Array  # number of images; 0 on a device that has only padding. Without any, the step is skipped
    metrics: dict[str, jax.Array]  # sums over this device's images
    # Σ w·l of what is minimized, if the pass computes another loss or only some classes' part of it
    objective: jax.Array | None = None


class Method(NamedTuple):
    """The pure functions that define a method, and the image streams that they need."""

    streams: tuple[Stream, ...]
    init: Callable[[jax.Array], Variables]  # random key -> variables
    # (variables, views of all streams in order, step, key=None) -> inputs of the passes. Called once per step; no
    # gradient passes through it. The key is like `Context.key`, but a different one. With micro-batches, the leading
    # axis of every leaf must be that of the device's images.
    prepare: Callable[..., Any]
    loss: Callable[[Variables, Any, Context], LossOutput]  # takes the inputs; all passes see the same method state
    after_update: Callable[[Variables, Any], Any]  # (with new parameters, inputs) -> method state; once per step
    # (params, model_state, batch, train=False, key=None) -> logits; train: the network's mode, key: for its draws
    predict: Callable[..., jax.Array]
    # (params, model_state) -> those of the config's network alone, whose logits `predict` returns; None: it returns
    # something else
    network_of: Callable[[Any, Any], tuple[Any, Any]] | None = None
    # parameters -> a tree of bools: which of them the optimizer changes; None: all of them
    trained: Callable[[Any], Any] | None = None
    # parameters -> a tree of bools: which of them are the classifier's, or all classifiers'; None: links that perturb
    # them alone can't be used
    is_classifier: Callable[[Any], Any] | None = None
    linear: str | None = None  # entry of the classifier that predicts, if it is linear; see `models.base.Network`


def sums_of(losses_B: jax.Array, batch: Batch, context: Context) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return numerator, denominator, and objective (see `LossOutput`) of a loss with one value per image."""
    of_batch = losses_B, batch.labels, batch.mask, context.class_weights_C
    numerator, denominator = weighted_sums(*of_batch, context.extra_weights_C)
    return numerator, denominator, None if context.extra_weights_C is None else weighted_sums(*of_batch)[0]


def make_normalize(data: ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """Return the function that maps uint8 pixels to network inputs, (x / 255 - mean) / std.

    Features (B, D) of a frozen backbone, which take the place of images, are returned as they are.
    """
    mean, std = np.array(data.mean), np.array(data.std)

    def normalize(images_BHWK: jax.Array) -> jax.Array:
        if images_BHWK.ndim == 2:
            return images_BHWK
        dtype = jnp.result_type(float)
        return (images_BHWK.astype(dtype) / 255 - mean.astype(dtype)) / std.astype(dtype)

    return normalize
