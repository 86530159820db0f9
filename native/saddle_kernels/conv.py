"""Convolutions of NHWC images with HWIO kernels.

A convolution, its gradient in the input and its gradient in the kernel are three bilinear operations, and each is the
transpose of another. One JAX primitive holds all three, so derivatives of every order use the same kernels.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from saddle_kernels.library import has_bfloat16, load


class Kind(enum.IntEnum):
    """The three operations, with the numbers of conv.cc."""

    FORWARD = 0  # (input, kernel) -> output
    INPUT_GRADIENT = 1  # (output's gradient, kernel) -> input's gradient
    KERNEL_GRADIENT = 2  # (input, output's gradient) -> kernel's gradient


def conv(
    images_BHWI: jax.Array, kernel_HWIO: jax.Array, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> jax.Array:
    """Convolve images with a kernel; sums are float32 or wider, the result has the images' dtype.

    On CPUs oneDNN computes float32, and bfloat16 where the processor has AVX-512. XLA computes everything else.

    Args:
      images_BHWI: (batch, height, width, channels).
      kernel_HWIO: (height, width, channels / groups, filters). It may be float32 for bfloat16 images: oneDNN then sums
        its gradient in float32, too.
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
    if stride < 1 or padding < 0:
        raise ValueError(f"expected a stride of 1 or more and a padding of 0 or more, found {stride=} and {padding=}")
    height, width = (
        (size + 2 * padding - window) // stride + 1
        for size, window in zip(images_BHWI.shape[1:3], kernel_HWIO.shape[:2], strict=True)
    )
    if min(height, width) < 1:
        raise ValueError(f"a kernel {kernel_HWIO.shape} is larger than images {images_BHWI.shape} with {padding=}")
    geometry = _Geometry(stride, padding, groups, jax.config.jax_default_matmul_precision)
    if images_BHWI.dtype not in (jnp.float32, jnp.bfloat16) or kernel_HWIO.dtype == jnp.float64:
        dtype = jnp.promote_types(images_BHWI.dtype, kernel_HWIO.dtype)
        return _lax_forward(images_BHWI.astype(dtype), kernel_HWIO.astype(dtype), geometry).astype(images_BHWI.dtype)
    load()
    shape = (images_BHWI.shape[0], height, width, filters)
    return _bind(images_BHWI, kernel_HWIO.astype(jnp.float32), Kind.FORWARD, shape, geometry)


class _Geometry(NamedTuple):
    """The static settings of a convolution."""

    stride: int
    padding: int
    groups: int
    precision: str | None  # of float32 products, on devices where XLA has a choice


def _lax_forward(x: jax.Array, k: jax.Array, geometry: _Geometry) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        k,
        (geometry.stride,) * 2,
        ((geometry.padding,) * 2,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=geometry.groups,
        precision=geometry.precision,
    )


def _result(a, b, *, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> ShapedArray:
    del b, geometry
    dtype = _dtype(kind, a)
    if _varying(a):  # inside `jax.shard_map`: so does the result
        return a.update(shape=shape, dtype=dtype, weak_type=False)
    return ShapedArray(shape, dtype)


def _dtype(kind: Kind, first) -> jnp.dtype:
    """Return the dtype of a result: kernels and their gradients are float32, images have their own."""
    return jnp.dtype(jnp.float32) if kind == Kind.KERNEL_GRADIENT else first.dtype


def _varying(aval) -> frozenset[str]:
    """Return the axes of a `jax.shard_map` over which an array differs from device to device."""
    return getattr(getattr(aval, "manual_axis_type", None), "varying", frozenset())


def _by_lax(a: jax.Array, b: jax.Array, *, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> jax.Array:
    like = jax.ShapeDtypeStruct(shape, a.dtype)
    if kind == Kind.FORWARD:
        return _lax_forward(a, b.astype(a.dtype), geometry)
    if kind == Kind.INPUT_GRADIENT:
        return jax.linear_transpose(lambda x: _lax_forward(x, b.astype(a.dtype), geometry), like)(a)[0]
    return jax.linear_transpose(lambda k: _lax_forward(a, k, geometry), like)(b)[0].astype(jnp.float32)


def _by_onednn(a: jax.Array, b: jax.Array, *, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> jax.Array:
    if a.dtype == jnp.bfloat16 and not has_bfloat16():
        return _by_lax(a, b, kind=kind, shape=shape, geometry=geometry)
    result = jax.ShapeDtypeStruct(shape, _dtype(kind, a))
    numbers = {name: np.int64(getattr(geometry, name)) for name in ("stride", "padding", "groups")}
    return jax.ffi.ffi_call("saddle_conv", result)(a, b, kind=np.int64(kind), **numbers)


_conv_p = Primitive("saddle_conv")
_conv_p.def_abstract_eval(_result)
mlir.register_lowering(_conv_p, mlir.lower_fun(_by_lax, multiple_results=False))
mlir.register_lowering(_conv_p, mlir.lower_fun(_by_onednn, multiple_results=False), platform="cpu")


@functools.partial(jax.jit, static_argnames=("kind", "shape", "geometry"))
def _compiled(a: jax.Array, b: jax.Array, *, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> jax.Array:
    return _bind(a, b, kind, shape, geometry)


_conv_p.def_impl(_compiled)


def _bind(a: jax.Array, b: jax.Array, kind: Kind, shape: Sequence[int], geometry: _Geometry) -> jax.Array:
    varying = [_varying(jax.typeof(x)) for x in (a, b)]
    missing = [tuple(sorted((varying[0] | varying[1]) - own)) for own in varying]
    a, b = (lax.pcast(x, axes, to="varying") if axes else x for x, axes in zip((a, b), missing, strict=True))
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
    """Put all images into one batch if they share a kernel; otherwise compute one convolution after the other."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    a, b = (x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True))
    if axes[1] is None and kind != Kind.KERNEL_GRADIENT:
        images = a.shape[1]
        flat = _bind(a.reshape(size * images, *a.shape[2:]), b, kind, (size * images, *shape[1:]), geometry)
        return flat.reshape(size, *shape), 0

    def one(batched: tuple[jax.Array, ...]) -> jax.Array:
        first = a if axes[0] is None else batched[0]
        second = b if axes[1] is None else batched[-1]
        return _bind(first, second, kind, shape, geometry)

    batched = tuple(x for x, axis in zip((a, b), axes, strict=True) if axis is not None)
    if 0 < size <= 8:
        return jnp.stack([one(tuple(x[i] for x in batched)) for i in range(size)]), 0
    return lax.map(one, batched), 0


batching.primitive_batchers[_conv_p] = _batch
