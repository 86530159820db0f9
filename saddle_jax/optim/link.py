"""The common part of SAM and its relatives: a link of an optax chain that may ask for more gradients of the batch.

    tx = optax.chain(sam(0.1), optax.add_decayed_weights(2e-4), optax.trace(0.9), optax.scale_by_learning_rate(0.1))
    updates, state = tx.update(grads, state, params, grad_fn=grad_fn)

Such a link is one function from a gradient, the parameters and an `Ask` to a `Step`; `make_link` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats
from saddle_jax.optim.grad_fn import GradFn, checked, difference

# Work is counted in gradient evaluations as they are asked for; one is a forward and a backward pass of the whole
# batch. A compiled step may merge passes that are the same: ImbSAM's g(w) and g_T(w) share a forward pass.
FORWARD = 1 / 3  # of an evaluation; a backward pass costs about two forward ones


class LinkState(NamedTuple):
    """A link's own counter, its latest values, and its random key."""

    count: jax.Array  # (), int32: steps taken; its schedules are functions of this
    ascent_norm: jax.Array  # (): length of the gradient that it perturbed along (ASAM: of |w| · g), or 0
    evaluations: jax.Array  # (), float32: passes over the whole batch in this step, with the incoming gradient's
    aux: Any  # what grad_fn returned with the last gradient; () if the link keeps none or asks for none
    key: Any  # constant raw key of a link that draws, used with `count`; () for a link that does not


class Ask(NamedTuple):
    """The inputs of a link's function, in addition to the gradient and the parameters."""

    count: jax.Array
    key: Any  # typed key of this step, or () for a link that does not draw
    grad_fn: GradFn
    class_grad_fn: Callable | None
    aux: Any = ()  # what the pass at w left: return it in a step that makes no other pass


class Step(NamedTuple):
    """The result of a link's function."""

    updates: optax.Updates
    ascent_norm: jax.typing.ArrayLike
    evaluations: jax.typing.ArrayLike
    aux: Any = ()


class LinkContext(NamedTuple):
    """The values that a link of the catalogue is built from, in addition to its own fields."""

    schedule: Callable[[str], Callable[[jax.typing.ArrayLike], jax.Array]]  # name of one of its fields -> the schedule
    step_of: Callable[[str], int]  # name of one of its fields, a position -> the step
    lr: Callable[[jax.typing.ArrayLike], jax.Array]  # step -> learning rate
    stats: ClassStats
    tail_C: Callable[[int], np.ndarray]  # classes with fewer images than this, or with 0, the evaluation's tail
    aux_like: Any  # pass it on to `make_link`
    is_classifier: Callable[[optax.Params], Any] | None  # params -> tree of bools: which are the classifier's
    axis_name: str | None  # axis of the devices, if gradients are each device's own; see `shared`


def make_link(
    take: Callable[[optax.Updates, optax.Params, Ask], Step],
    *,
    name: str,
    aux_like: Any = (),
    seed: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return the link whose step is `take`.

    Args:
      take: (incoming gradient, parameters, Ask) -> Step.
      name: for messages.
      aux_like: a tree with the structure, shapes, and dtypes of grad_fn's aux, to keep it in the state; () drops it.
      seed: for a link that draws; see `with_key`.

    `update` takes grad_fn, class_grad_fn, `aux` of the pass at w, and `probe`; see `checked`.
    """
    keep_aux = bool(jax.tree.leaves(aux_like))

    def init(params: optax.Params) -> LinkState:
        dtype = jnp.result_type(float, *jax.tree.leaves(params))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), aux_like)
        key = () if seed is None else jax.random.key_data(jax.random.key(seed))
        return LinkState(jnp.zeros((), jnp.int32), jnp.zeros((), dtype), jnp.zeros((), jnp.float32), zeros, key)

    def update(
        updates: optax.Updates,
        state: LinkState,
        params: optax.Params | None = None,
        *,
        grad_fn: GradFn | None = None,
        class_grad_fn: Callable | None = None,
        aux: Any = None,
        probe: bool = True,
        **extra: Any,
    ) -> tuple[optax.Updates, LinkState]:
        del extra
        if params is None:
            raise ValueError(
                f"{name} needs the parameters: found params=None, expected tx.update(grads, state, params)"
            )
        key = () if seed is None else jax.random.fold_in(jax.random.wrap_key_data(state.key), state.count)
        first = isinstance(state.count, jax.core.Tracer) or int(state.count) == 0
        ask_grad = checked(name, grad_fn, probe=probe and first)
        step = take(updates, params, Ask(state.count, key, ask_grad, class_grad_fn, aux_like if aux is None else aux))
        if keep_aux and (told := difference(step.aux, aux_like)):
            raise TypeError(f"{name}: aux is not like aux_like: {told}. Fix: the aux of grad_fn, or another aux_like")
        return step.updates, LinkState(
            count=optax.safe_increment(state.count),
            ascent_norm=jnp.asarray(step.ascent_norm, state.ascent_norm.dtype),
            evaluations=jnp.asarray(step.evaluations, jnp.float32),
            aux=step.aux if keep_aux else aux_like,
            key=state.key,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def shared(link: optax.GradientTransformationExtraArgs, axis_name: str | None) -> optax.GradientTransformationExtraArgs:
    """Return a link that sees the whole batch's gradients, where each device has only its own part of them.

    The incoming gradient and those that the link asks for are summed over devices before the link sees them. So its
    perturbation and its draws are the same on every device, it may mix gradients of several places, and nothing needs
    to be summed after it. Without an axis, return the link itself.
    """
    if axis_name is None:
        return link

    def summed(function: Callable) -> Callable:
        def over_devices(*args: Any, **kwargs: Any) -> Any:
            grads, *rest = function(*args, **kwargs)
            return devices.sum_over(grads, axis_name), *rest

        return over_devices

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        grad_fn: GradFn,
        class_grad_fn: Callable | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        by_class = None if class_grad_fn is None else summed(class_grad_fn)
        updates = devices.sum_over(updates, axis_name)
        return link.update(updates, state, params, grad_fn=summed(grad_fn), class_grad_fn=by_class, **extra)

    return optax.GradientTransformationExtraArgs(link.init, update)


def only(
    trained: Callable[[optax.Params], Any], inner: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """Return a chain that sees and changes only some of the parameters; the others' updates are 0.

    The other parameters have no state in the chain, enter no norm, and get neither noise nor weight decay.

    Args:
      trained: parameters -> a tree of bools: which of them the chain changes.
      inner: a chain, with or without a link that asks for `grad_fn`.
    """

    def own(mask: Any, tree: Any) -> Any:
        return jax.tree.map(lambda chosen, leaf: leaf if chosen else optax.MaskedNode(), mask, tree)

    def whole(mask: Any, part: Any, others: Any) -> Any:
        return jax.tree.map(lambda chosen, leaf, other: leaf if chosen else other, mask, part, others)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        grad_fn: GradFn,
        class_grad_fn: Callable | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del class_grad_fn  # it moves parameters of the whole tree
        mask = trained(params)

        def own_grad_fn(part: optax.Params, class_weights_C: jax.Array | None = None) -> tuple[optax.Updates, Any]:
            grads, aux = grad_fn(whole(mask, part, params), class_weights_C)
            return own(mask, grads), aux

        part, state = inner.update(own(mask, updates), state, own(mask, params), grad_fn=own_grad_fn, **extra)
        return whole(mask, part, jax.tree.map(jnp.zeros_like, params)), state

    return optax.GradientTransformationExtraArgs(lambda params: inner.init(own(trained(params), params)), update)


def value_at(schedule: optax.ScalarOrSchedule, count: jax.Array) -> jax.typing.ArrayLike:
    """Return a number as it is, or a schedule's value at a link's counter."""
    return schedule(count) if callable(schedule) else schedule


def _is_state(node: Any) -> bool:
    return isinstance(node, LinkState)


def find_link_state(opt_state: optax.OptState) -> LinkState | None:
    """Return the state of the chain's link, or None if the chain has none."""
    return next(filter(_is_state, jax.tree.leaves(opt_state, is_leaf=_is_state)), None)


def with_key(opt_state: optax.OptState, key: jax.Array) -> optax.OptState:
    """Return the state with the key of each link that draws set to `key`, so that several seeds draw differently."""

    def put(node: Any) -> Any:
        draws = _is_state(node) and bool(jax.tree.leaves(node.key))
        return node._replace(key=jax.random.key_data(key)) if draws else node

    return jax.tree.map(put, opt_state, is_leaf=_is_state)
