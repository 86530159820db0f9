"""What is minimised, behind one small contract.

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
from saddle_jax.losses import weighted_sums

ASCENT, DESCENT = "ascent", "descent"  # what a pass is for: SAM's perturbation, or the step (plain SGD's only one)


class Stream(NamedTuple):
    """A sequence of training images; its views show the same images in the same slots, each augmented anew."""

    class_share_C: np.ndarray | None  # None: each image once an epoch; else drawn with replacement
    augmentations: tuple[str, ...]  # one a view


class Variables(NamedTuple):
    """What a method's loss depends on."""

    params: Any
    model_state: Any  # opaque: see `models.base.Network`
    method_state: Any


class Context(NamedTuple):
    """What else it depends on."""

    step: jax.Array  # (), int32: steps taken before this one
    pass_name: str  # ASCENT | DESCENT
    class_weights_C: jax.Array
    extra_weights_C: jax.Array | None = None  # multiplies the numerator only, so that groups' gradients add up
    # Random key of the network's own draws (dropout), another on each device and for each micro-batch, the same in all
    # passes of a step; None: networks that draw nothing do without. The rest of the context is the same on all devices.
    key: jax.Array | None = None


class LossOutput(NamedTuple):
    """One device's part of the batch's loss, Σ w·l / Σ w with both sums over all devices."""

    numerator: jax.Array  # Σ w·l
    denominator: jax.Array  # Σ w; must not depend on the parameters
    model_state: Any  # after this pass
    images: jax.Array  # how many there are; 0 on a device with padding only
    metrics: dict[str, jax.Array]  # this device's sums over its images
    # Σ w·l of what is minimised, where the pass is for another loss or for some classes' part
    objective: jax.Array | None = None


class Method(NamedTuple):
    """A tuple of pure functions, and the images that they want."""

    streams: tuple[Stream, ...]
    init: Callable[[jax.Array], Variables]  # random key -> variables
    # (variables, views of all streams in order, step, key=None) -> inputs of the passes: once a step, without a
    # gradient. The key is as in `Context`, another than the passes'. With micro-batches the leading axis of every leaf
    # is that of the device's images.
    prepare: Callable[..., Any]
    loss: Callable[[Variables, Any, Context], LossOutput]  # of the inputs; the method's state is the same in all passes
    after_update: Callable[[Variables, Any], Any]  # (with the new parameters, inputs) -> method state; once a step
    # (params, model_state, batch, train=False, key=None) -> logits; train: the network's mode, key: what it draws with
    predict: Callable[..., jax.Array]
    # parameters -> a tree of bools over them: what the optimizer changes; None: all of them
    trained: Callable[[Any], Any] | None = None
    # likewise: which are the classifier's, for CC-SAM; None: it can't be used with this method
    is_classifier: Callable[[Any], Any] | None = None


def sums_of(losses_B: jax.Array, batch: Batch, context: Context) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return numerator, denominator and objective of a loss that is one of an image and its label; see `LossOutput`."""
    of_batch = losses_B, batch.labels, batch.mask, context.class_weights_C
    numerator, denominator = weighted_sums(*of_batch, context.extra_weights_C)
    return numerator, denominator, None if context.extra_weights_C is None else weighted_sums(*of_batch)[0]


def make_normalise(data: ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """Return the function from uint8 pixels to what networks see: (x / 255 - mean) / std."""
    mean, std = np.array(data.mean), np.array(data.std)

    def normalise(images_BHWK: jax.Array) -> jax.Array:
        dtype = jnp.result_type(float)
        return (images_BHWK.astype(dtype) / 255 - mean.astype(dtype)) / std.astype(dtype)

    return normalise
