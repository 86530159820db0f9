"""Which kernels compute a network's layers: XLA's own, or on CPUs those of the package in `native/`.

`saddle_kernels` is optional. Where it is not installed, on other devices than CPUs and for float64, XLA computes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from saddle_jax.errors import ConfigError

PACKAGE = "saddle_kernels"


def uses_onednn(choice: str) -> bool:
    """Return whether `model.kernels`, one of auto, lax and onednn, means oneDNN here.

    Raises:
      ConfigError: it does, and the package is missing or can't be loaded.
    """
    if choice == "lax" or (choice == "auto" and importlib.util.find_spec(PACKAGE) is None):
        return False
    try:
        library().load()
    except ImportError as error:
        raise ConfigError(f"model.kernels={choice!r}: {error}; or --config.model.kernels=lax") from error
    return True


@functools.cache
def library() -> ModuleType:
    """Return the package of kernels."""
    return importlib.import_module(PACKAGE)


def suit(images: jax.Array, weights: jax.Array) -> bool:
    """Return whether the kernels take arrays of these dtypes."""
    return images.dtype in (jnp.float32, jnp.bfloat16) and weights.dtype == jnp.float32


def on_cpus(kernel: Callable, reference: Callable) -> Callable:
    """Return a function that is `kernel` on CPUs and `reference` on other devices and for derivatives."""

    @jax.custom_jvp
    def function(*arguments: Any) -> Any:
        return jax.lax.platform_dependent(*arguments, cpu=kernel, default=reference)

    @function.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        return jax.jvp(reference, primals, tangents)

    return function


def convolution(*, onednn: bool) -> Callable[..., jax.Array] | None:
    """Return what `flax.linen.Conv` is to call instead of `jax.lax.conv_general_dilated`; None for that itself."""
    return _convolve if onednn else None


def _convolve(images_BHWK: jax.Array, kernel_HWIO: jax.Array, strides, padding, **fields: Any) -> jax.Array:
    """Take the arguments of `jax.lax.conv_general_dilated` as flax gives them for square, undilated kernels."""
    (stride,), (pad,) = set(strides), {side for pair in padding for side in pair}
    groups = fields["feature_group_count"]
    return library().conv(images_BHWK, kernel_HWIO, stride=stride, padding=pad, groups=groups)
