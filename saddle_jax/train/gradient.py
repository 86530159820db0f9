"""The gradient of one device's part of a batch: at once, or in micro-batches that need less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from saddle_jax import devices
from saddle_jax.data.images import Batch
from saddle_jax.methods.base import LossOutput, Method, Variables

Loss = Callable[[Variables, Batch], LossOutput]


class Pass(NamedTuple):
    """What a forward and backward pass leaves beside the gradient; equal on all devices but for method_state."""

    loss: jax.Array  # of the whole batch
    batch_stats: Any
    method_state: Any
    metrics: dict[str, jax.Array]  # means over the whole batch


def pass_like(method: Method) -> Pass:
    """Return the shapes of what a pass leaves, for SAM to keep a slot for."""
    variables = jax.eval_shape(method.init, jax.random.key(0))
    loss = jax.ShapeDtypeStruct((), jnp.result_type(float))
    return Pass(loss, variables.batch_stats, variables.method_state, {})


def make_gradient(
    method: Method, batch: Batch, weights_C: jax.Array, axis_name: str | None, micro_batches: int = 1
) -> Callable[..., tuple[Any, Pass]]:
    """Return (variables, pass_name, extra_weights_C=None) -> this device's part of the batch's gradient, and the pass.

    Each device differentiates its own numerator over the denominator of all: gradients add up to the batch's.
    """

    def total(denominator: jax.Array) -> jax.Array:
        return devices.sum_over(jax.lax.stop_gradient(denominator), axis_name)

    def gradient(variables: Variables, pass_name: str, extra_weights_C=None) -> tuple[Any, Pass]:
        def loss(variables: Variables, part: Batch) -> LossOutput:
            return method.loss(variables, part, weights_C, pass_name, extra_weights_C)

        if micro_batches == 1:
            grads, part = _differentiate(loss, variables, batch, total)
        else:
            grads, part = _accumulate(loss, variables, batch, total, micro_batches)
        # Running statistics become the mean over the devices that have an image. One sum over devices for everything.
        images = jnp.sum(batch.mask)
        has_images = (images > 0).astype(part.loss.dtype)
        weighted = jax.tree.map(lambda x: x * has_images.astype(x.dtype), part.batch_stats)
        value, sums, images, weighted, parts = devices.sum_over(
            (part.loss, part.metrics, images, weighted, has_images), axis_name
        )
        batch_stats = jax.tree.map(lambda x: x / parts.astype(x.dtype), weighted)
        metrics = {name: total / images for name, total in sums.items()}
        return grads, Pass(value, batch_stats, part.method_state, metrics)

    return gradient


def _differentiate(
    loss: Loss, variables: Variables, batch: Batch, total: Callable[[jax.Array], jax.Array]
) -> tuple[Any, Pass]:
    """Return gradient and pass of a device's images alone: its part of the loss, and sums for metrics."""

    def objective(params: Any) -> tuple[jax.Array, LossOutput]:
        output = loss(variables._replace(params=params), batch)
        return output.numerator / total(output.denominator), output

    (value, output), grads = jax.value_and_grad(objective, has_aux=True)(variables.params)
    return grads, Pass(value, output.batch_stats, output.method_state, output.metrics)


def _accumulate(
    loss: Loss, variables: Variables, batch: Batch, total: Callable[[jax.Array], jax.Array], micro_batches: int
) -> tuple[Any, Pass]:
    """Return what `_differentiate` does, one micro-batch after the other, each over the whole batch's denominator.

    The sum is the gradient of the batch, which is what SAM perturbs along. BatchNorm normalises each micro-batch by
    itself, and its running statistics move with each.
    """
    # Dealt in turn, so that the padding at a batch's end is spread over all.
    parts = jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), batch)
    unroll = jax.default_backend() == "cpu"  # where gradients of convolution kernels are slow inside a loop

    def denominator(_: None, part: Batch) -> tuple[None, jax.Array]:  # the compiler drops all but the sum of weights
        return None, loss(variables, part).denominator

    whole = total(jax.lax.scan(denominator, None, parts, unroll=unroll)[1].sum())

    def differentiate(so_far: Pass, part: Batch) -> tuple[Any, Pass]:
        start = variables._replace(batch_stats=so_far.batch_stats, method_state=so_far.method_state)
        return _differentiate(loss, start, part, lambda _: whole)

    def add(so_far: tuple[Any, Pass], part: Batch) -> tuple[tuple[Any, Pass], None]:
        grads, before = so_far
        more, after = differentiate(before, part)
        value, metrics = jax.tree.map(jnp.add, (before.loss, before.metrics), (after.loss, after.metrics))
        return (jax.tree.map(jnp.add, grads, more), after._replace(loss=value, metrics=metrics)), None

    start = Pass(jnp.zeros(()), variables.batch_stats, variables.method_state, {})
    like = jax.eval_shape(differentiate, start, jax.tree.map(lambda x: x[0], parts))
    grads, nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    start = start._replace(loss=nothing.loss, metrics=nothing.metrics)
    return jax.lax.scan(add, (grads, start), parts, unroll=unroll)[0]
