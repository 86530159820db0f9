"""The gradient of one device's part of a batch, computed at once or in micro-batches that need less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from saddle_jax.host import devices
from saddle_jax.methods.base import Context, LossOutput, Method, Variables
from saddle_jax.optim.cc_sam import ClassGradFn, Move, Shift, class_gradients

Loss = Callable[[Variables, Any, Any], LossOutput]  # (variables, inputs, random key or None)


class Pass(NamedTuple):
    """The results of a forward and backward pass, apart from the gradient. They are equal on all devices."""

    loss: jax.Array  # of the whole batch: what is minimized, even if the pass is for another loss
    model_state: Any
    metrics: dict[str, jax.Array]  # means over the whole batch
    images: Any = ()  # number of images in the whole batch

    @property
    def for_link(self) -> Pass:
        """The part that a link keeps in its state."""
        return self._replace(metrics={}, images=())


def pass_like(method: Method) -> Pass:
    """Return the shapes of a pass's results, for which SAM keeps a slot."""
    variables = jax.eval_shape(method.init, jax.random.key(0))
    loss = jax.ShapeDtypeStruct((), jnp.result_type(float))
    return Pass(loss, variables.model_state, {})


def make_gradient(
    method: Method, inputs: Any, axis_name: str | None, micro_batches: int = 1
) -> Callable[[Variables, Context], tuple[Any, Pass]]:
    """Return a function (variables, context) -> this device's part of the batch's gradient, and the pass.

    Each device differentiates its own numerator over all devices' denominator, so the gradients sum to the batch's.
    """

    def total(denominator: jax.Array) -> jax.Array:
        return devices.sum_over(jax.lax.stop_gradient(denominator), axis_name)

    def gradient(variables: Variables, context: Context) -> tuple[Any, Pass]:
        def loss(variables: Variables, part: Any, key: jax.Array | None) -> LossOutput:
            return method.loss(variables, part, context._replace(key=key))

        if micro_batches == 1:
            grads, part, images = _differentiate(loss, variables, inputs, context.key, total)
        else:
            grads, part, images = _accumulate(loss, variables, inputs, context.key, total, micro_batches)
        return grads, _over_devices(part, images, axis_name)

    return gradient


def make_class_gradient(
    method: Method, inputs: Any, start: Variables, context: Context, axis_name: str | None
) -> ClassGradFn:
    """Return the function that CC-SAM asks for. Gradients are this device's part; shares and pass are the batch's."""

    def total(denominators: jax.Array) -> jax.Array:
        return devices.sum_over(jax.lax.stop_gradient(denominators), axis_name)

    def denominator_of(class_weights_C: jax.Array) -> jax.Array:
        return method.loss(start, inputs, context._replace(class_weights_C=class_weights_C)).denominator

    def gradient(params: Any, move: Move, shifts_C: Shift) -> tuple[Any, jax.Array, Pass]:
        weights_C = context.class_weights_C
        denominator = total(denominator_of(weights_C))
        shares_C = total(jax.vmap(denominator_of)(jnp.diag(weights_C))) / denominator

        def loss_fn(params: Any, class_weights_C: jax.Array) -> tuple[jax.Array, tuple[Any, jax.Array]]:
            variables = start._replace(params=params)
            output = method.loss(variables, inputs, context._replace(extra_weights_C=class_weights_C))
            return output.numerator / denominator, (output.model_state, output.images)

        found = class_gradients(loss_fn, shares_C)(params, move, shifts_C)
        grads, shares_C, (loss, (model_state, images)) = found
        return grads, shares_C, _over_devices(Pass(loss, model_state, {}), images, axis_name).for_link

    return gradient


def _over_devices(part: Pass, images: jax.Array, axis_name: str | None) -> Pass:
    """Return the whole batch's pass from one device's part, whose metrics are sums over `images` images.

    Floating-point leaves of the model's state, such as running statistics, become the mean over the devices that have
    an image. All other leaves are the same on all devices.
    """
    has_images = (images > 0).astype(part.loss.dtype)
    leaves, structure = jax.tree.flatten(part.model_state)
    weighted = [x * has_images.astype(x.dtype) for x in leaves if _is_floating(x)]
    value, sums, images, weighted, parts = devices.sum_over(  # one sum over devices for everything
        (part.loss, part.metrics, images, weighted, has_images), axis_name
    )
    means = iter([x / parts.astype(x.dtype) for x in weighted])
    model_state = structure.unflatten([next(means) if _is_floating(x) else x for x in leaves])
    return Pass(value, model_state, {name: total / images for name, total in sums.items()}, images)


def _is_floating(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _differentiate(
    loss: Loss, variables: Variables, inputs: Any, key: Any, total: Callable[[jax.Array], jax.Array]
) -> tuple[Any, Pass, jax.Array]:
    """Return one device's gradient, pass, and image count. The pass has its part of the loss and sums as metrics."""

    def of_pass(params: Any) -> tuple[jax.Array, tuple[jax.Array, LossOutput]]:
        output = loss(variables._replace(params=params), inputs, key)
        denominator = total(output.denominator)
        objective = output.numerator if output.objective is None else output.objective
        return output.numerator / denominator, (objective / denominator, output)

    grads, (objective, output) = jax.grad(of_pass, has_aux=True)(variables.params)
    return grads, Pass(objective, output.model_state, output.metrics), output.images


def _accumulate(
    loss: Loss, variables: Variables, inputs: Any, key: Any, total: Callable[[jax.Array], jax.Array], micro_batches: int
) -> tuple[Any, Pass, jax.Array]:
    """Return the same as `_differentiate`, micro-batch by micro-batch, each over the whole batch's denominator.

    The sum is the gradient of the batch, along which SAM perturbs. BatchNorm normalizes each micro-batch by itself and
    moves its running statistics with each. Each micro-batch has its own random key.
    """
    # Images are dealt out in turn, to spread the padding at a batch's end over all micro-batches.
    parts = jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), inputs)
    keyed_parts = parts, None if key is None else jax.random.split(key, micro_batches)
    unroll = devices.on_cpu()  # gradients of convolution kernels are slow in a loop there

    def denominator(_: None, part: Any) -> tuple[None, jax.Array]:  # the compiler drops all but the sum of weights
        return None, loss(variables, *part).denominator

    whole = total(jax.lax.scan(denominator, None, keyed_parts, unroll=unroll)[1].sum())

    def differentiate(so_far: Pass, part: Any) -> tuple[Any, Pass, jax.Array]:
        inputs, key = part
        return _differentiate(loss, variables._replace(model_state=so_far.model_state), inputs, key, lambda _: whole)

    def add(so_far: tuple[Any, Pass, jax.Array], part: Any) -> tuple[tuple[Any, Pass, jax.Array], None]:
        grads, before, images = so_far
        more, after, more_images = differentiate(before, part)
        grads, value, metrics, images = jax.tree.map(
            jnp.add, (grads, before.loss, before.metrics, images), (more, after.loss, after.metrics, more_images)
        )
        return (grads, Pass(value, after.model_state, metrics), images), None

    start = Pass(jnp.zeros(()), variables.model_state, {})
    like = jax.eval_shape(differentiate, start, jax.tree.map(lambda x: x[0], keyed_parts))
    grads, nothing, images = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    start = nothing._replace(model_state=variables.model_state)
    return jax.lax.scan(add, (grads, start, images), keyed_parts, unroll=unroll)[0]
