"""A run's network as one function of pixels: in evaluation mode, in float32, and with XLA's own kernels.

Shapes: N images, H x W pixels, K channels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from saddle_jax.data.images import Batch
from saddle_jax.inference.classifier import Classifier
from saddle_jax.losses import logit_scale
from saddle_jax.methods.base import Method
from saddle_jax.methods.choose import make_method

OUTPUTS = ("logits", "probabilities")
Function = Callable[[jax.Array], dict[str, jax.Array]]


class Network(NamedTuple):
    """A network whose logits may have been adjusted after training."""

    classifier: Classifier
    params: Any
    offsets_C: np.ndarray | None = None  # subtracted from the logits; None: nothing

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, and channels of its images."""
        return self.classifier.image_shape

    def method(self) -> Method:
        """Return the run's method for one device, without what only some machines have and what only training needs."""
        config = self.classifier.config.copy_and_resolve_references()
        config.model.update(kernels="lax", dtype="float32", remat=False)
        stats, schedules = self.classifier.stats, self.classifier.program.schedules
        return make_method(config, stats, self.image_shape, None, schedules)

    def function(self) -> Function:
        """Return the function of uint8 pixels (N, H, W, K), as they are before normalization, to OUTPUTS, (N, C).

        The weights are constants of it. Trace it in `host.devices.exact_arithmetic("float32")`.
        """
        method, scale, offsets_C = self.method(), logit_scale(self.classifier.config), self.offsets_C

        def predict(images_NHWK: jax.Array) -> dict[str, jax.Array]:
            number = images_NHWK.shape[0]
            zeros, draws = jnp.zeros(number, jnp.int32), jnp.zeros((number, 0), jnp.int32)
            batch: Any = Batch(images_NHWK, zeros, jnp.ones(number, bool), zeros, draws)
            logits_NC = method.predict(self.params, self.classifier.model_state, batch) * scale
            if offsets_C is not None:
                logits_NC = logits_NC - jnp.asarray(offsets_C, logits_NC.dtype)
            return dict(zip(OUTPUTS, (logits_NC, jax.nn.softmax(logits_NC, axis=1)), strict=True))

        return predict

    def pixels(self, number: int | None = None) -> jax.ShapeDtypeStruct:
        """Return the type of the pixels of some images; None leaves their number free."""
        numbers = export.symbolic_shape("batch") if number is None else (number,)
        return jax.ShapeDtypeStruct((*numbers, *self.image_shape), jnp.uint8)

    def is_free(self) -> bool:
        """Return whether the function can be traced with the number of images left free.

        It can't if code of the user's own needs a number while it is traced, as len(images) does.
        """
        try:
            jax.eval_shape(self.function(), self.pixels())
        except Exception:  # whatever such code raises; if the cause is another, it raises again when it is exported
            return False
        return True
