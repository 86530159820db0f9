"""A run's network as one function of pixels: in evaluation mode, in float32, and with XLA's own kernels.

Shapes: N images, H x W pixels, K channels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from saddle_jax.data.images import Batch
from saddle_jax.inference.classifier import Classifier
from saddle_jax.losses import logit_scale
from saddle_jax.methods.base import Method
from saddle_jax.methods.choose import make_method

OUTPUTS = ("logits", "probabilities")
Function = Callable[[jax.Array], dict[str, jax.Array]]


def method_of(classifier: Classifier) -> Method:
    """Return the run's method for one device, without parts that only some machines have or only training needs."""
    config = classifier.config.copy_and_resolve_references()
    config.model.update(kernels="lax", dtype="float32", remat=False)
    return make_method(config, classifier.stats, classifier.image_shape, None, classifier.program.schedules)


def function_of(classifier: Classifier) -> Function:
    """Return the function from uint8 pixels (N, H, W, K), before normalization, to OUTPUTS, (N, C) float32.

    The weights are constants in it. Trace it in `host.devices.exact_arithmetic("float32")`.
    """
    method, scale = method_of(classifier), logit_scale(classifier.config)

    def predict(images_NHWK: jax.Array) -> dict[str, jax.Array]:
        number = images_NHWK.shape[0]
        zeros, draws = jnp.zeros(number, jnp.int32), jnp.zeros((number, 0), jnp.int32)
        batch: Any = Batch(images_NHWK, zeros, jnp.ones(number, bool), zeros, draws)
        logits_NC = method.predict(classifier.params, classifier.model_state, batch) * scale
        if classifier.offsets_C.any():
            logits_NC = logits_NC - classifier.offsets_C
        return dict(zip(OUTPUTS, (logits_NC, jax.nn.softmax(logits_NC, axis=1)), strict=True))

    return predict


def pixels_of(classifier: Classifier, number: int | None = None) -> jax.ShapeDtypeStruct:
    """Return the type of the pixels of some images; None leaves their number free."""
    numbers = export.symbolic_shape("batch") if number is None else (number,)
    return jax.ShapeDtypeStruct((*numbers, *classifier.image_shape), jnp.uint8)


def is_free(classifier: Classifier) -> bool:
    """Return whether the function can be traced with the number of images left free.

    It can't if the user's own code needs a number while it is traced, as len(images) does.
    """
    try:
        jax.eval_shape(function_of(classifier), pixels_of(classifier))
    except Exception:  # whatever such code raises; if the cause is another, it raises again when it is exported
        return False
    return True
