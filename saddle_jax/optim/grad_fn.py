"""Gradients at other parameters, which a link asks the training loop for, and checks of what the loop returns.

The checks look at structures and shapes, and compute nothing. They tell the author of a training loop what is wrong
with its `grad_fn`, which would otherwise give an obscure error or a wrong gradient.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
import optax


class GradFn(Protocol):
    """Return the gradient and auxiliary output at given parameters, for the step's batch."""

    def __call__(self, params: optax.Params, class_weights_C: jax.Array | None = None) -> tuple[optax.Updates, Any]:
        """Return (gradient, aux); `class_weights_C` multiplies the loss's numerator, not its denominator.

        So g(ones) = g, the gradients of disjoint groups add up to g, and a group absent from the batch gives zeros.
        """
        ...


def checked(name: str, grad_fn: GradFn | None, *, probe: bool) -> GradFn:
    """Return grad_fn with checks of what it takes and returns.

    Args:
      name: the link, for messages.
      grad_fn: the loop's function; if it is None, only a call is an error, since some links ask for nothing.
      probe: also check that the gradient depends on the class weights. This traces grad_fn once more, which takes
        seconds with a large network.

    The returned function raises TypeError.
    """
    probed = not probe

    def call(params: optax.Params, class_weights_C: jax.Array | None = None) -> tuple[optax.Updates, Any]:
        nonlocal probed
        weights = () if class_weights_C is None else (class_weights_C,)
        expected = "grad_fn(params, class_weights_C)" if weights else "grad_fn(params)"
        if grad_fn is None:
            raise TypeError(
                f"{name} needs grad_fn: found none. Fix: tx.update(grads, state, params, grad_fn=grad_fn), or with "
                f"flax.nnx optimizer.update(model, grads, grad_fn=grad_fn). {expected} returns (gradient, aux) of the "
                "step's batch; docs/links.md shows one"
            )
        if not _takes(grad_fn, params, *weights):
            raise TypeError(f"{name} calls {expected}: found a grad_fn that does not take these arguments")
        grads, aux = pair(f"{name}: grad_fn", grad_fn(params, *weights), "gradient")
        if told := difference(grads, params):
            raise TypeError(
                f"{name}: grad_fn's gradient is not like the parameters: {told}. Fix: return (gradient, aux) in this "
                "order; jax.value_and_grad has the other one"
            )
        if weights and not probed:
            probed, asked = True, grad_fn
            if not depends_on(lambda class_weights_C: asked(params, class_weights_C)[0], class_weights_C):
                raise TypeError(
                    f"{name}: grad_fn ignores class_weights_C: its gradient does not depend on them. Fix: multiply the "
                    "loss of each image by the weight of its class before the sum, as in docs/links.md"
                )
        return grads, aux

    return call


def pair(who: str, found: Any, first: str) -> tuple[Any, Any]:
    """Return what a function returned if it is the pair (`first`, aux).

    Raises:
      TypeError: it is anything else.
    """
    if isinstance(found, tuple) and len(found) == 2:
        return found[0], found[1]
    what = f"a tuple of {len(found)}" if isinstance(found, tuple) else f"one {type(found).__name__}"
    raise TypeError(f"{who} returned {what}, expected ({first}, aux). Fix: return {first}, () if there is no aux")


def difference(found: Any, expected: Any) -> str:
    """Return the first difference in structure or shape between two trees of arrays, or ""."""
    ours, theirs = (
        [f"{jax.tree_util.keystr(path)} of shape {np.shape(leaf)}" for path, leaf in leaves]
        for leaves in map(jax.tree_util.tree_leaves_with_path, (found, expected))
    )
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            return f"found {one}, expected {other}".replace("found  of", "found an array of")
    if len(ours) != len(theirs):
        return f"found {len(ours)} arrays, expected {len(theirs)}"
    if jax.tree.structure(found) != jax.tree.structure(expected):
        return f"found a {type(found).__name__} of another structure than the {type(expected).__name__} expected"
    return ""


def depends_on(function: Callable[[jax.Array], Any], weights_C: jax.Array) -> bool:
    """Return whether a function of class weights depends on them, without computing it.

    With `out_axes=None`, vmap refuses values that differ along the mapped axis. It can tell from the operations alone.
    """
    two_2C = jax.ShapeDtypeStruct((2, *weights_C.shape), weights_C.dtype)
    try:
        jax.eval_shape(jax.vmap(function, out_axes=None), two_2C)
    except Exception:  # vmap's own error, or no map is possible; errors of the function itself show when it is called
        return True
    return False


def _takes(function: Callable, *arguments: Any) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a function that Python can't inspect
        return True
    return True
