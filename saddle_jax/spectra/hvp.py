"""Mean loss of a set of images as a fixed function of the parameters: value, gradient, and Hessian-vector products.

The images come in chunks of one shape, without augmentation. All sets therefore share one compilation, and every
product is with the same matrix. The loop over chunks runs on the host: on a CPU, the kernel gradient of a convolution
is 30 times slower inside `scan`. On other devices, a product takes long enough to hide the loop.

Shapes: P parameters as one flat vector, S vectors at once, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.flatten_util import ravel_pytree

from saddle_jax.data.images import Batch
from saddle_jax.host import devices, watchdog, xla
from saddle_jax.losses import weighted_sums
from saddle_jax.methods.base import Method


class Weights(Protocol):
    """Weights to measure: a training state, or anything else with these properties."""

    @property
    def step(self) -> Any:
        """Number of steps taken, an integer."""
        ...

    @property
    def params(self) -> Any: ...

    @property
    def model_state(self) -> Any: ...


def hash_of(weights: Weights) -> str:
    """Return a hash of weights on the host."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((weights.params, weights.model_state)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


class Point(NamedTuple):
    """Point at which the curvature is measured, replicated on every device."""

    params_P: jax.Array
    model_state: Any
    class_weights_C: jax.Array
    fixed: Any = ()  # {path: parameter} of those whose curvature is not measured


class DifferentiableLoss(Protocol):
    """Loss whose spectrum can be measured. A call with vectors returns the Hessian's products with them."""

    params_P: jax.Array
    width: int  # best number of vectors per product

    def __call__(self, vectors_SP: jax.Array) -> jax.Array:
        """Return the Hessian's product with each vector."""
        ...

    def loss(self, params_P: jax.Array | None = None) -> float:
        """Return the loss at the point, or at other parameters."""
        ...

    def gradient(self, params_P: jax.Array | None = None) -> jax.Array:
        """Return the gradient at the point, or at other parameters."""
        ...


class FunctionLoss:
    """Any scalar function of a parameter tree. Use it for models and training loops from outside this package."""

    def __init__(self, loss_fn: Callable[[Any], jax.Array], params: Any, *, width: int = 1):
        """Prepare a function and the point at which its curvature is measured.

        Args:
          loss_fn: maps a parameter tree to a scalar. It must make no random draws, and jit must be able to compile it.
          params: the parameter tree at which the curvature is measured.
          width: number of vectors per product.

        Raises:
          ConfigError: XLA computes wrong sums on this machine.
        """
        xla.require_right_sums()
        self.params_P, unravel = ravel_pytree(params)
        self.width = width

        def flat_loss(params_P: jax.Array) -> jax.Array:
            return loss_fn(unravel(params_P))

        gradient = jax.grad(flat_loss)
        self._loss, self._gradient = jax.jit(flat_loss), jax.jit(gradient)
        self._product = jax.jit(jax.vmap(lambda w_P, v_P: jax.jvp(gradient, (w_P,), (v_P,))[1], in_axes=(None, 0)))

    def __call__(self, vectors_SP: jax.Array) -> jax.Array:
        """Return the Hessian's product with each vector."""
        return self._product(self.params_P, vectors_SP)

    def loss(self, params_P: jax.Array | None = None) -> float:
        """Return the loss at the point, or at other parameters."""
        return float(self._loss(self.params_P if params_P is None else params_P))

    def gradient(self, params_P: jax.Array | None = None) -> jax.Array:
        """Return the gradient at the point, or at other parameters."""
        return self._gradient(self.params_P if params_P is None else params_P)


class Pieces(NamedTuple):
    """Functions of one chunk, mapped over devices. All sets of images and all steps share their compilation.

    All but `linearize` add the chunk's contribution to a running total and return the new total.
    """

    loss: Callable[..., jax.Array]  # (total, point, chunk)
    gradient: Callable[..., jax.Array]  # (total_P, point, chunk)
    product: Callable[..., jax.Array]  # (total_SP, vectors_SP, point, chunk)
    linearize: Callable[..., Any]  # (point, chunk) -> the Hessian as a linear map, one part per device
    apply: Callable[..., jax.Array]  # (total_SP, vectors_SP, linear map)


def flat_point(
    params: Any, model_state: Any, class_weights_C: np.ndarray, dtype: str, measured: Callable[[Any], Any] | None = None
) -> tuple[Point, Callable]:
    """Return the weights as a `Point` in `dtype`, and the function that turns a flat vector into a parameter tree.

    Args:
      measured: parameters -> a tree of bools: those to measure, which alone are in the vector; None: all of them.
    """

    def to_dtype(x: Any) -> np.ndarray:
        return np.asarray(x, dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype)

    cast = jax.tree.map(to_dtype, (params, model_state, class_weights_C))
    part, fixed = cast[0], ()
    if measured is not None:
        chosen, leaves = flatten_dict(measured(params)), flatten_dict(part)
        part = unflatten_dict({path: leaf for path, leaf in leaves.items() if chosen[path]})
        fixed = {path: leaf for path, leaf in leaves.items() if not chosen[path]}
    params_P, unravel = ravel_pytree(part)
    return devices.replicate(Point(params_P, cast[1], cast[2], fixed)), unravel


def _whole(part: Any, fixed: Any) -> Any:
    """Return all parameters: the measured ones and the others."""
    return unflatten_dict({**flatten_dict(part), **fixed}) if fixed else part


def make_pieces(method: Method, loss_fn: Callable, unravel: Callable, *, train_mode: bool) -> Pieces:
    """Return the pieces for a loss of the method's logits.

    Args:
      method: a method built for steps mapped over `devices.AXIS`.
      loss_fn: maps (logits_BC, labels_B) to losses_B.
      unravel: maps a flat vector to the tree of the measured parameters.
      train_mode: run the network in training mode. BatchNorm then normalizes with the statistics of each device's part
        of a chunk instead of the running statistics. Dropout is active with a fixed key, so every product is still with
        the same matrix.
    """
    of_network = {"train": True, "key": jax.random.key(0)} if train_mode else {"train": False}

    def numerator(params_P: jax.Array, point: Point, chunk: Batch) -> jax.Array:
        logits_BC = method.predict(_whole(unravel(params_P), point.fixed), point.model_state, chunk, **of_network)
        return weighted_sums(loss_fn(logits_BC, chunk.labels), chunk.labels, chunk.mask, point.class_weights_C)[0]

    def gradient_of(point: Point, chunk: Batch) -> Callable[[jax.Array], jax.Array]:
        return lambda params_P: jax.grad(numerator)(params_P, point, chunk)

    def loss(total: jax.Array, point: Point, chunk: Batch) -> jax.Array:
        return total + devices.sum_over(numerator(point.params_P, point, chunk), devices.AXIS)

    def gradient(total_P: jax.Array, point: Point, chunk: Batch) -> jax.Array:
        return total_P + devices.sum_over(gradient_of(point, chunk)(point.params_P), devices.AXIS)

    def product(total_SP: jax.Array, vectors_SP: jax.Array, point: Point, chunk: Batch) -> jax.Array:
        def forward_over_reverse(vector_P: jax.Array) -> jax.Array:
            return jax.jvp(gradient_of(point, chunk), (point.params_P,), (vector_P,))[1]

        return total_SP + devices.sum_over(_for_each(forward_over_reverse, vectors_SP), devices.AXIS)

    def linearize(point: Point, chunk: Batch) -> Any:
        return jax.linearize(gradient_of(point, chunk), point.params_P)[1]

    def apply(total_SP: jax.Array, vectors_SP: jax.Array, linear_map: Any) -> jax.Array:
        return total_SP + devices.sum_over(_for_each(linear_map, vectors_SP), devices.AXIS)

    return Pieces(
        loss=devices.map_step(loss, 2, donate=True),
        gradient=devices.map_step(gradient, 2, donate=True),
        product=devices.map_step(product, 3, donate=True),
        linearize=devices.map_step(linearize, 1, gather=True),
        apply=devices.map_step(apply, 2, donate=True),
    )


class MeanLoss:
    """Weighted mean loss Σ w·l / Σ w over a set of images. A call with vectors returns the Hessian's products."""

    def __init__(self, pieces: Pieces, point: Point, chunks: Sequence[Batch], *, width: int = 1):
        """Prepare the loss of all images in the chunks.

        Args:
          pieces: functions of one chunk.
          point: the point at which the curvature is measured.
          chunks: all of the same shape; the mask is False in padded slots.
          width: number of vectors per product.
        """
        self.point, self.params_P, self.width = point, devices.local(point.params_P), width
        self._pieces, self._chunks = pieces, chunks
        self._linear_maps: list[Any] | None = None
        self._weight = sum_of_weights(jax.device_get(devices.local(point.class_weights_C)), chunks)
        self.images = sum(int(chunk.mask.sum()) for chunk in chunks)
        self.products = 0  # number of Hessian-vector products so far

    def at(self, point: Point) -> MeanLoss:
        """Return the loss of the same images at another point."""
        return MeanLoss(self._pieces, point, self._chunks)

    def over(self, chunks: Sequence[Batch]) -> MeanLoss:
        """Return the loss of other images at the same point."""
        return MeanLoss(self._pieces, self.point, chunks)

    def linearize(self, on_chunk: Callable[[], Any] = lambda: None) -> None:
        """Compute and keep the linear map of every chunk, so that products skip the work independent of the vector."""
        self._linear_maps = []
        for chunk in self._chunks:
            self._linear_maps.append(devices.settle(self._pieces.linearize(self.point, devices.deal(chunk))))
            on_chunk()

    def __call__(self, vectors_SP: jax.Array) -> jax.Array:
        """Return the Hessian's product with each vector."""
        parts = [self._product(vectors_SP[i : i + self.width]) for i in range(0, len(vectors_SP), self.width)]
        self.products += len(vectors_SP)
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    def loss(self, params_P: jax.Array | None = None) -> float:
        """Return the loss at the point, or at other parameters."""
        return float(self._sum(self._pieces.loss, jnp.zeros((), self.params_P.dtype), params_P))

    def gradient(self, params_P: jax.Array | None = None) -> jax.Array:
        """Return the gradient at the point, or at other parameters."""
        return self._sum(self._pieces.gradient, jnp.zeros_like(self.params_P), params_P)

    def _product(self, vectors_SP: jax.Array) -> jax.Array:
        missing = self.width - len(vectors_SP)
        padded = devices.replicate(jnp.pad(vectors_SP, ((0, missing), (0, 0))))
        total = devices.replicate(jnp.zeros_like(padded))
        if self._linear_maps is not None:
            for linear_map in self._linear_maps:
                total = devices.settle(self._pieces.apply(total, padded, linear_map))
                watchdog.alive()
        else:
            for chunk in self._chunks:
                total = devices.settle(self._pieces.product(total, padded, self.point, devices.deal(chunk)))
                watchdog.alive()
        return devices.local(total)[: len(vectors_SP)] / self._weight

    def _sum(self, piece: Callable, zero: jax.Array, params_P: jax.Array | None) -> jax.Array:
        point = self.point if params_P is None else self.point._replace(params_P=devices.replicate(params_P))
        total = devices.replicate(zero)
        for chunk in self._chunks:
            total = devices.settle(piece(total, point, devices.deal(chunk)))
            watchdog.alive()
        return devices.local(total) / self._weight


def sum_of_weights(class_weights_C: np.ndarray, chunks: Sequence[Batch]) -> float:
    """Return Σ w over the images in the chunks."""
    return float(sum(class_weights_C[chunk.labels[chunk.mask]].astype(float).sum() for chunk in chunks))


def linear_map_bytes(pieces: Pieces, point: Point, chunk: Batch) -> int:
    """Return the bytes that the linear map of one chunk takes on each device."""
    shapes = jax.eval_shape(pieces.linearize, point, devices.deal(chunk))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) // devices.num_devices()


def _for_each(linear: Callable[[jax.Array], jax.Array], vectors_SP: jax.Array) -> jax.Array:
    return linear(vectors_SP[0])[None] if len(vectors_SP) == 1 else jax.vmap(linear)(vectors_SP)
