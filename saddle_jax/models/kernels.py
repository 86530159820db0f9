"""The choice of kernels for a network's layers: XLA's own, or on CPUs those of the package in `native/`.

`saddle_kernels` is optional. Without it, on devices other than CPUs, and in float64, XLA computes everything.
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
from flax.linen.dtypes import promote_dtype

from saddle_jax.errors import ConfigError
from saddle_jax.models import depthwise

PACKAGE = "saddle_kernels"


def uses_onednn(choice: str) -> bool:
    """Return whether `model.kernels` (auto, lax, or onednn) selects oneDNN here.

    Raises:
      ConfigError: it does, but the package is missing or can't be loaded.
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
    """Import and return the package of kernels."""
    return importlib.import_module(PACKAGE)


def suit(images: jax.Array, weights: jax.Array) -> bool:
    """Return whether the kernels support arrays of these dtypes."""
    return images.dtype in (jnp.float32, jnp.bfloat16) and weights.dtype == jnp.float32


def on_cpus(kernel: Callable, reference: Callable) -> Callable:
    """Return a function that runs `kernel` on CPUs, and `reference` on other devices and for derivatives."""

    @jax.custom_jvp
    def function(*arguments: Any) -> Any:
        return jax.lax.platform_dependent(*arguments, cpu=kernel, default=reference)

    @function.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        return jax.jvp(reference, primals, tangents)

    return function


def conv_fields(*, onednn: bool) -> dict[str, Any]:
    """Return the fields of `flax.linen.Conv` that make it use these kernels."""
    if not onednn:
        return {"conv_general_dilated": _convolve_by_xla}
    return {"conv_general_dilated": _convolve, "promote_dtype": _promote}


def _promote(
    images: jax.Array, kernel: jax.Array, bias: jax.Array | None, *, dtype: Any
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Cast as Flax does, but leave a float32 kernel as it is, so that its gradient is not rounded to bfloat16."""
    cast: Any = promote_dtype(images, kernel, bias, dtype=dtype)
    return cast[0], kernel if kernel.dtype == jnp.float32 else cast[1], cast[2]


def _convolve(images_BHWK: jax.Array, kernel_HWIO: jax.Array, strides, padding, **fields: Any) -> jax.Array:
    """Compute what Flax asks `jax.lax.conv_general_dilated` for. XLA does what our oneDNN kernels do not support."""
    dilations = {*fields["lhs_dilation"], *fields["rhs_dilation"]}
    if not suit(images_BHWK, kernel_HWIO) or len(set(strides)) > 1 or dilations != {1}:
        return _convolve_by_xla(images_BHWK, kernel_HWIO.astype(images_BHWK.dtype), strides, padding, **fields)
    padding = _sides(images_BHWK, kernel_HWIO, strides, padding)
    if len({side for pair in padding for side in pair}) > 1:  # as for "SAME" with a stride of 2
        images_BHWK = jnp.pad(images_BHWK, ((0, 0), *padding, (0, 0)))
        padding = ((0, 0), (0, 0))
    groups = fields["feature_group_count"]
    return library().conv(images_BHWK, kernel_HWIO, stride=strides[0], padding=padding[0][0], groups=groups)


def _convolve_by_xla(images_BHWK: jax.Array, kernel_HWIO: jax.Array, strides, padding, **fields: Any) -> jax.Array:
    """Compute what Flax asks `jax.lax.conv_general_dilated` for, depthwise convolutions by `depthwise.convolve`."""
    dilations = {*fields["lhs_dilation"], *fields["rhs_dilation"]}
    if depthwise.is_depthwise(images_BHWK.shape[-1], kernel_HWIO.shape) and dilations == {1}:
        padding = _sides(images_BHWK, kernel_HWIO, strides, padding)
        return depthwise.convolve(images_BHWK, kernel_HWIO, strides, padding, fields["precision"])
    return jax.lax.conv_general_dilated(images_BHWK, kernel_HWIO, strides, padding, **fields)


def _sides(images_BHWK: jax.Array, kernel_HWIO: jax.Array, strides, padding) -> list[tuple[int, int]]:
    """Return the zeros before and after each axis; `padding` may be a word, such as "SAME"."""
    if isinstance(padding, str):
        return jax.lax.padtype_to_pads(images_BHWK.shape[1:3], kernel_HWIO.shape[:2], strides, padding)
    return [(before, after) for before, after in padding]
