"""Convolutions of NHWC images with HWIO kernels.

A convolution, its gradient in the input and its gradient in the kernel are three bilinear operations, and each is the
transpose of another. One JAX primitive holds all three, so derivatives of every order are made of the same kernels.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from saddle_kernels.library import load


class Kind(enum.IntEnum):
    """Which of the three operations; the numbers are those of conv.cc."""

    FORWARD = 0  # (input, kernel) -> output
    INPUT_GRADIENT = 1  # (output's gradient, kernel) -> input's gradient
    KERNEL_GRADIENT = 2  # (input, output's gradient) -> kernel's gradient


def conv(
    images_BHWI: jax.Array, kernel_HWIO: jax.Array, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> jax.Array:
    """Convolve images with a kernel; sums are float32 or wider, the result has the images' dtype.

    On CPUs oneDNN computes float32 and bfloat16. Other devices and dtypes are left to XLA.

    Args:
      images_BHWI: (batch, height, width, channels).
      kernel_HWIO: (height, width, channels / groups, filters); float32 also for bfloat16 images, for exact gradients.
      stride: pixels, in both directions.
      padding: zeros on each of the four sides.
      groups: into which channels and filters are split.

    Raises:
      ValueError: shapes do not fit together.
    """
    if images_BHWI.ndim != 4 or kernel_HWIO.ndim != 4:
        raise ValueError(f"expected 4 axes each, found images {images_BHWI.shape} and kernel {kernel_HWIO.shape}")
    channels, filters = images_BHWI.shape[3], kernel_HWIO.shape[3]
    if channels != kernel_HWIO.shape[2] * groups or filters % groups:
        raise ValueError(
            f"{channels} channels and a kernel {kernel_HWIO.shape} do not go together in {groups} groups: expected "
            f"(height, width, channels / groups, a multiple of groups)"
        )
    height, width = (
        (size + 2 * padding - window) // stride + 1
        for size, window in zip(images_BHWI.shape[1:3], kernel_HWIO.shape[:2], strict=True)
    )
    if min(height, width) < 1:
        raise ValueError(f"a kernel {kernel_HWIO.shape} is larger than images {images_BHWI.shape} with {padding=}")
    if images_BHWI.dtype not in (jnp.float32, jnp.bfloat16) or kernel_HWIO.dtype == jnp.float64:
        dtype = jnp.promote_types(images_BHWI.dtype, kernel_HWIO.dtype)
        return _lax_forward(images_BHWI.astype(dtype), kernel_HWIO.astype(dtype), stride, padding, groups)
    load()
    shape = (images_BHWI.shape[0], height, width, filters)
    kernel = kernel_HWIO.astype(jnp.float32)
    return _bind(images_BHWI, kernel, Kind.FORWARD, shape, _Geometry((stride, padding, groups)))


_NUMBERS = ("NHWC", "HWIO", "NHWC")
_Geometry = tuple  # (stride, padding, groups)


def _lax_forward(x: jax.Array, k: jax.Array, stride: int, padding: int, groups: int) -> jax.Array:
    return lax.conv_general_dilated(
        x, k, (stride, stride), ((padding, padding),) * 2, dimension_numbers=_NUMBERS, feature_group_count=groups
    )


def _result(a, b, *, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> ShapedArray:
    del b, geometry
    return ShapedArray(shape, jnp.float32 if kind == Kind.KERNEL_GRADIENT else a.dtype)


def _by_lax(a: jax.Array, b: jax.Array, *, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> jax.Array:
    forward = functools.partial(_lax_forward, **dict(zip(("stride", "padding", "groups"), geometry, strict=True)))
    like = jax.ShapeDtypeStruct(shape, a.dtype)
    if kind == Kind.FORWARD:
        return forward(a, b.astype(a.dtype))
    if kind == Kind.INPUT_GRADIENT:
        return jax.linear_transpose(lambda x: forward(x, b.astype(a.dtype)), like)(a)[0]
    return jax.linear_transpose(lambda k: forward(a, k), like)(b)[0].astype(jnp.float32)


def _by_onednn(a: jax.Array, b: jax.Array, *, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> jax.Array:
    result = _result(a, b, kind=kind, shape=shape, geometry=geometry)
    stride, padding, groups = map(np.int64, geometry)
    call = jax.ffi.ffi_call("saddle_conv", jax.ShapeDtypeStruct(result.shape, result.dtype))
    return call(a, b, kind=np.int64(kind), stride=stride, padding=padding, groups=groups)


_conv_p = Primitive("saddle_conv")
_conv_p.def_abstract_eval(_result)
mlir.register_lowering(_conv_p, mlir.lower_fun(_by_lax, multiple_results=False))
mlir.register_lowering(_conv_p, mlir.lower_fun(_by_onednn, multiple_results=False), platform="cpu")


@functools.partial(jax.jit, static_argnames=("kind", "shape", "geometry"))
def _compiled(a: jax.Array, b: jax.Array, *, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> jax.Array:
    return _bind(a, b, kind, shape, geometry)


_conv_p.def_impl(_compiled)


def _bind(a: jax.Array, b: jax.Array, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> jax.Array:
    return _conv_p.bind(a, b, kind=kind, shape=tuple(shape), geometry=geometry)


def _transpose_first(cotangent, a, b, *, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> jax.Array:
    del shape
    wanted = a.aval.shape
    if kind == Kind.FORWARD:
        return _bind(cotangent, b, Kind.INPUT_GRADIENT, wanted, geometry)
    if kind == Kind.INPUT_GRADIENT:
        return _bind(cotangent, b, Kind.FORWARD, wanted, geometry)
    return _bind(b, cotangent, Kind.INPUT_GRADIENT, wanted, geometry)


def _transpose_second(cotangent, a, b, *, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> jax.Array:
    del shape
    wanted = b.aval.shape
    if kind == Kind.FORWARD:
        return _bind(a, cotangent, Kind.KERNEL_GRADIENT, wanted, geometry)
    if kind == Kind.INPUT_GRADIENT:
        return _bind(cotangent, a, Kind.KERNEL_GRADIENT, wanted, geometry)
    return _bind(a, cotangent, Kind.FORWARD, wanted, geometry)


ad.defbilinear(_conv_p, _transpose_first, _transpose_second)


def _batch(operands, axes, *, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> tuple[jax.Array, int]:
    """Put the images of all into one batch where they share a kernel; else compute one after the other."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    a, b = (x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True))
    if axes[1] is None and kind != Kind.KERNEL_GRADIENT:
        images = a.shape[1]
        flat = _bind(a.reshape(size * images, *a.shape[2:]), b, kind, (size * images, *shape[1:]), geometry)
        return flat.reshape(size, *shape), 0

    def one(i: int) -> jax.Array:
        return _bind(a if axes[0] is None else a[i], b if axes[1] is None else b[i], kind, shape, geometry)

    return jnp.stack([one(i) for i in range(size)]), 0


batching.primitive_batchers[_conv_p] = _batch
