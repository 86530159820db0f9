"""Depthwise convolutions, in which each channel has its own filter, in a form that is fast on CPUs without oneDNN.

XLA's own are slow there. Sums of shifted products take their place: XLA fuses them into one loop. There are three
operations: a convolution, its gradient in the images, and its gradient in the kernel. Each is bilinear and the
transpose of another, as in `saddle_kernels.conv`. So derivatives of every order need only these three.
`benchmarks/depthwise.py` measures them.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


class _Kind(enum.Enum):
    FORWARD = "(images, kernel) -> output"
    IMAGES = "(output's gradient, kernel) -> images' gradient"
    KERNEL = "(images, output's gradient) -> kernel's gradient"


class _Geometry(NamedTuple):
    """The static settings of a convolution; pairs are (height, width)."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]  # zeros before and after
    precision: Any


_ONLY_XLA = contextvars.ContextVar("_ONLY_XLA", default=False)


@contextlib.contextmanager
def only_xla() -> Iterator[None]:
    """Trace XLA's own operations only; converters of traced functions know no others."""
    token = _ONLY_XLA.set(True)
    try:
        yield
    finally:
        _ONLY_XLA.reset(token)


def is_depthwise(channels: int, kernel_shape: Sequence[int]) -> bool:
    """Return whether a kernel (height, width, channels / groups, filters) has one filter for each channel."""
    return kernel_shape[2] == 1 and kernel_shape[3] == channels > 1


def convolve(
    images_BHWK: jax.Array,
    kernel_HW1K: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    precision: Any = None,
) -> jax.Array:
    """Convolve each channel with its own filter; sums are float32 or wider.

    Args:
      images_BHWK: of the dtype of the result.
      kernel_HW1K: (height, width, 1, channels), of the same dtype.
      strides: pixels, of the height and of the width.
      padding: zeros (before, after) of the height and of the width.
      precision: of products, on devices where XLA has a choice.
    """
    precision = precision or jax.config.jax_default_matmul_precision
    geometry = _Geometry(tuple(strides), tuple(map(tuple, padding)), precision)
    if _ONLY_XLA.get():
        return _forward_by_xla(images_BHWK, kernel_HW1K, geometry)
    output = jax.eval_shape(lambda x, k: _forward_by_xla(x, k, geometry), images_BHWK, kernel_HW1K)
    return _depthwise_p.bind(images_BHWK, kernel_HW1K, kind=_Kind.FORWARD, shape=output.shape, geometry=geometry)


def _forward_by_xla(images: jax.Array, kernel: jax.Array, geometry: _Geometry) -> jax.Array:
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        geometry.strides,
        geometry.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=images.shape[-1],
        precision=geometry.precision,
    )


def _by_xla(a: jax.Array, b: jax.Array, *, kind: _Kind, shape: tuple[int, ...], geometry: _Geometry) -> jax.Array:
    like = jax.ShapeDtypeStruct(shape, a.dtype)
    if kind == _Kind.FORWARD:
        return _forward_by_xla(a, b, geometry)
    if kind == _Kind.IMAGES:
        return jax.linear_transpose(lambda x: _forward_by_xla(x, b, geometry), like)(a)[0]
    return jax.linear_transpose(lambda k: _forward_by_xla(a, k, geometry), like)(b)[0]


def _by_shifts(a: jax.Array, b: jax.Array, *, kind: _Kind, shape: tuple[int, ...], geometry: _Geometry) -> jax.Array:
    dtype = a.dtype
    a, b = (x.astype(jnp.promote_types(dtype, jnp.float32)) for x in (a, b))
    if kind == _Kind.FORWARD:
        result = _correlate(_pad(a, geometry.padding), b[:, :, 0], shape[1:3], geometry.strides)
    elif kind == _Kind.IMAGES:
        # A pixel's gradient sums the outputs that it enters: zeros between them undo the stride, the kernel is flipped.
        sides = []
        for axis in range(2):
            before = b.shape[axis] - 1 - geometry.padding[axis][0]
            last = (a.shape[axis + 1] - 1) * geometry.strides[axis]
            sides.append((before, shape[axis + 1] - 1 + geometry.padding[axis][0] - last))
        spread = _pad(a, sides, [stride - 1 for stride in geometry.strides])
        result = _correlate(spread, b[::-1, ::-1, 0], shape[1:3], (1, 1))
    else:
        result = _kernel_gradient(_pad(a, geometry.padding), b, shape, geometry.strides)
    return result.astype(dtype)


def _pad(x: jax.Array, sides: Sequence[tuple[int, int]], between: Sequence[int] = (0, 0)) -> jax.Array:
    """Put zeros around the pixels and between them; a negative number removes pixels."""
    config = [(0, 0, 0), *((*side, zeros) for side, zeros in zip(sides, between, strict=True)), (0, 0, 0)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)


def _correlate(padded_BHWK: jax.Array, kernel_HWK: jax.Array, size: Sequence[int], strides: Sequence[int]) -> jax.Array:
    """Return the sum of the pixels at each place of the kernel times its weights."""
    total = jnp.zeros((), padded_BHWK.dtype)
    for row in range(kernel_HWK.shape[0]):
        rows = _every(padded_BHWK, row, size[0], strides[0], axis=1)
        for column in range(kernel_HWK.shape[1]):
            total += _every(rows, column, size[1], strides[1], axis=2) * kernel_HWK[row, column]
    return total


def _kernel_gradient(
    padded_BHWK: jax.Array, output_BHWK: jax.Array, shape: tuple[int, ...], strides: Sequence[int]
) -> jax.Array:
    """Sum image by image, and one row of the kernel after the other: both arrays then stay in the CPU's cache."""
    height, width = output_BHWK.shape[1:3]

    def add(total_HWK: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        padded_HWK, output_HWK = pair

        def row_of_kernel(row: jax.Array) -> jax.Array:
            rows = jax.lax.dynamic_slice_in_dim(padded_HWK, row, (height - 1) * strides[0] + 1, axis=0)[:: strides[0]]
            columns = (_every(rows, column, width, strides[1], axis=1) for column in range(shape[1]))
            return jnp.stack([jnp.sum(pixels * output_HWK, (0, 1)) for pixels in columns])

        return total_HWK + jax.lax.map(row_of_kernel, jnp.arange(shape[0])), None

    zeros = jnp.zeros((*shape[:2], shape[3]), padded_BHWK.dtype)
    return jax.lax.scan(add, zeros, (padded_BHWK, output_BHWK))[0].reshape(shape)


def _every(x: jax.Array, start: int, count: int, stride: int, axis: int) -> jax.Array:
    return jax.lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)


_depthwise_p = Primitive("depthwise_convolution")
mlir.register_lowering(_depthwise_p, mlir.lower_fun(_by_xla, multiple_results=False))
mlir.register_lowering(_depthwise_p, mlir.lower_fun(_by_shifts, multiple_results=False), platform="cpu")


@_depthwise_p.def_abstract_eval
def _result(a: Any, b: Any, *, kind: _Kind, shape: tuple[int, ...], geometry: _Geometry) -> ShapedArray:
    del b, kind, geometry
    return ShapedArray(shape, a.dtype)


@_depthwise_p.def_impl
@functools.partial(jax.jit, static_argnames=("kind", "shape", "geometry"))
def _compiled(a: jax.Array, b: jax.Array, **how: Any) -> jax.Array:
    return _depthwise_p.bind(a, b, **how)


# Which of the three is the transpose in the first and in the second argument. The cotangent takes that argument's
# place, or if the result is a kernel's gradient, the second argument's.
def _transpose_first(cotangent: Any, a: Any, b: Any, *, kind: _Kind, shape: Any, geometry: _Geometry) -> jax.Array:
    del shape
    how = {"shape": a.aval.shape, "geometry": geometry}
    if kind == _Kind.KERNEL:
        return _depthwise_p.bind(b, cotangent, kind=_Kind.IMAGES, **how)
    other = _Kind.IMAGES if kind == _Kind.FORWARD else _Kind.FORWARD
    return _depthwise_p.bind(cotangent, b, kind=other, **how)


def _transpose_second(cotangent: Any, a: Any, b: Any, *, kind: _Kind, shape: Any, geometry: _Geometry) -> jax.Array:
    del shape
    how = {"shape": b.aval.shape, "geometry": geometry}
    if kind == _Kind.IMAGES:
        return _depthwise_p.bind(cotangent, a, kind=_Kind.KERNEL, **how)
    other = _Kind.KERNEL if kind == _Kind.FORWARD else _Kind.FORWARD
    return _depthwise_p.bind(a, cotangent, kind=other, **how)


ad.defbilinear(_depthwise_p, _transpose_first, _transpose_second)


def _batch(operands: Any, axes: Any, *, kind: _Kind, shape: tuple[int, ...], geometry: _Geometry) -> tuple[Any, int]:
    """Make the mapped axis a part of the channels, since channels do not interact."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)

    def flat(x: jax.Array, axis: int | None) -> jax.Array:
        x = jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], size * x.shape[-1])

    a, b = (flat(x, axis) for x, axis in zip(operands, axes, strict=True))
    together = (*shape[:-1], size * shape[-1])
    result = _depthwise_p.bind(a, b, kind=kind, shape=together, geometry=geometry)
    return result.reshape(*shape[:-1], size, shape[-1]), len(shape) - 1


batching.primitive_batchers[_depthwise_p] = _batch
