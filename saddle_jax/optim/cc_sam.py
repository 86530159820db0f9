"""CC-SAM: SAM with a separate radius for every class, as a link of an optax chain that perturbs the classifier.

Zhou et al., "Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed Recognition", CVPR 2023. Shapes: C
classes. One gradient of the network per class would cost C backward passes, and `grad_fn` offers no way around them.
But the classes differ in the head only, and the derivative of a sum over classes passes through the backbone once. So
the link asks for one more function, a `ClassGradFn`. `class_gradients` makes it from any loss that takes class weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from saddle_jax.optim.grad_fn import depends_on, pair
from saddle_jax.optim.link import FORWARD, Ask, LinkContext, Step, make_link, value_at
from saddle_jax.optim.sam import stable_norm

Shift = tuple[jax.Array, ...]  # one array for each leaf of the head, in tree order
Move = Callable[[optax.Params, Shift], optax.Params]
IsHead = Callable[[optax.Params], Any]  # parameters -> a tree of bools: which are perturbed


class ClassGradFn(Protocol):
    """Return gradients of Σ_c L_c(move(params, shift_c)), where L_c is the part of class c in the batch's loss."""

    def __call__(
        self, params: optax.Params, move: Move, shifts_C: Shift
    ) -> tuple[tuple[optax.Updates, Shift], jax.Array, Any]:
        """Return ((gradient, gradient with respect to shifts_C), shares_C, aux), with aux as in `class_gradients`.

        L_c has the whole batch's denominator; shares_C are the classes' parts of it, 0 for a class not in the batch.
        Gradients may be one device's part, which `shared` sums; shares and aux are the whole batch's.
        """
        ...


def class_gradients(loss_fn: Callable[..., tuple[jax.Array, Any]], shares_C: jax.Array) -> ClassGradFn:
    """Return the function for one batch. It runs the backbone forward and backward once, and the head C times.

    Args:
      loss_fn: (params, class_weights_C) -> (loss, aux), where aux depends on neither the weights nor the head.
      shares_C: the classes' parts of the loss's denominator, or without weights, of the images.

    The function's aux is (Σ_c L_c, the aux of loss_fn).
    """

    def gradients(params: optax.Params, move: Move, shifts_C: Shift) -> Any:
        def loss_of(params: optax.Params, class_weights_C: jax.Array) -> tuple[jax.Array, Any]:
            return pair("class_gradients: loss_fn", loss_fn(params, class_weights_C), "loss")

        if not depends_on(lambda class_weights_C: loss_of(params, class_weights_C)[0], shares_C):
            raise TypeError(
                "class_gradients: loss_fn ignores class_weights_C. Fix: multiply the loss of each image by the weight "
                "of its class before the sum"
            )

        def total(params: optax.Params, shifts_C: Shift) -> tuple[jax.Array, Any]:
            def of_class(shift: Shift, class_weights_C: jax.Array) -> tuple[jax.Array, Any]:
                return loss_of(move(params, shift), class_weights_C)

            one_hot_CC = jnp.eye(len(shares_C), dtype=jnp.result_type(float))
            # Whatever does not depend on the class is computed once, outside the map, and so is its derivative.
            losses_C, aux = jax.vmap(of_class, out_axes=(0, None))(shifts_C, one_hot_CC)
            return losses_C.sum(), aux

        loss_and_aux, grads = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, shifts_C)
        return grads, shares_C, loss_and_aux

    return gradients


def make(fields: ConfigDict, context: LinkContext) -> optax.GradientTransformationExtraArgs:
    """Build the link from the values of its fields in a config.

    Raises:
      ValueError: the context does not say which parameters are the classifier's.
    """
    if context.is_classifier is None:
        raise ValueError("cc_sam needs is_classifier: found None, expected the network's")
    return cc_sam(
        context.schedule("rho"),
        context.stats.counts_C,
        context.is_classifier,
        flat_ratio=fields.flat_ratio,
        aux_like=context.aux_like,
    )


def cc_sam(
    rho: optax.ScalarOrSchedule,
    counts_C: np.ndarray,
    is_head: IsHead,
    *,
    flat_ratio: float = 1.0,
    aux_like: Any = (),
) -> optax.GradientTransformationExtraArgs:
    """Return CC-SAM: (1 - flat_ratio) · g(w) + flat_ratio · Σ_c g_c(w + e_c), e_c = √k · ρ_c · h_c / |h_c|.

    ρ_c = rho · (|w| / (2 |h_c|))^½ · k^(-¼) · (n_c - 1)^(-¼). Here h_c is the gradient of the class's own mean loss
    with respect to the head, w are the head's parameters, k is their number, and n_c is the class's number of training
    images. The radius grows as a class's gradient falls. The authors use a rho of 1e-6, with flat_ratio 0.3 (CIFAR-10)
    and 0.5 (CIFAR-100).
    A class that the batch lacks, or whose gradient is 0, is not perturbed. The reported norm is (Σ_c |h_c|²)^½ over the
    classes in the batch.

    Besides the incoming gradient, the link asks for one pass and for the forward pass of the gradients h_c. With a
    flat_ratio of 1, only the forward pass of the incoming gradient is needed, and a compiled step drops the rest. The
    backbone is not perturbed, so all its forward passes are the same. The head runs forward and backward C times in
    both, and three sets of C heads are held in memory, according to XLA's analysis: 59 MB with 512 features and 100
    classes, and about 25 GB with ImageNet-LT's 2,048 features and 1,000 classes. iNaturalist would need 1.6 TB and is
    refused.

    Differs from the authors' code: |w| and |h_c| are those of the whole head (theirs are separate for kernel and bias);
    a class of one image has n_c - 1 = 1 (theirs has an infinite radius); classes are those of the loss's weights
    (theirs are those of the first of two mixed images); the loss's class weights take effect. Their second stage is
    `method=retrain`.

    Args:
      rho: factor of all radii, or a schedule of the link's counter.
      counts_C: number of training images of each class.
      is_head: marks the parameters to perturb, which are the classifier's.
      flat_ratio: weight of the gradient of the perturbed classes.
      aux_like: see `make_link`; the aux is that of class_grad_fn.

    `update` requires the keyword `class_grad_fn`, a `ClassGradFn`, in addition to `params` and `grad_fn`.
    """
    fewer_C = np.maximum(np.asarray(counts_C) - 1, 1)

    def take(grads: optax.Updates, params: optax.Params, ask: Ask) -> Step:
        if ask.class_grad_fn is None:
            raise TypeError("cc_sam needs class_grad_fn: found none, expected tx.update(..., class_grad_fn=...)")
        head = tuple(leaf for chosen, leaf in _choose(params, is_head) if chosen)
        if not head:
            raise ValueError("cc_sam: found no parameter that is_head chooses, expected those of the classifier")
        size = sum(leaf.size for leaf in head)

        def move(params: optax.Params, shift: Shift) -> optax.Params:
            parts = iter(shift)
            moved = [leaf + next(parts) if chosen else leaf for chosen, leaf in _choose(params, is_head)]
            return jax.tree.structure(params).unflatten(moved)

        def scaled(factor_C: jax.Array) -> Callable[[jax.Array], jax.Array]:
            return lambda x: (factor_C.reshape(-1, *[1] * (x.ndim - 1)) * x).astype(x.dtype)

        nowhere_C = tuple(jnp.zeros((len(fewer_C), *leaf.shape), leaf.dtype) for leaf in head)
        (_, grads_C), shares_C, _ = ask.class_grad_fn(params, move, nowhere_C)
        lengths_C = jax.vmap(stable_norm)(grads_C)
        is_there_C = (lengths_C > 0) & (shares_C > 0)
        safe_lengths_C = jnp.where(is_there_C, lengths_C, 1)
        norms_C = safe_lengths_C / jnp.where(is_there_C, shares_C, 1)  # of each class's mean loss
        radii_C = jnp.sqrt(stable_norm(head) / (2 * norms_C)) * (size * jnp.asarray(fewer_C, norms_C.dtype)) ** -0.25
        radii_C = value_at(rho, ask.count) * radii_C
        factors_C = jnp.where(is_there_C, size**0.5 * radii_C / safe_lengths_C, 0)
        (there, _), _, aux = ask.class_grad_fn(params, move, tuple(map(scaled(factors_C), grads_C)))

        norm = stable_norm(jnp.where(is_there_C, norms_C, 0))
        if flat_ratio == 1:
            return Step(there, norm, 1 + 2 * FORWARD, aux)
        mixed = jax.tree.map(lambda g, h: (1 - flat_ratio) * g + flat_ratio * h, grads, there)
        return Step(mixed, norm, 2 + FORWARD, aux)

    return make_link(take, name="cc_sam", aux_like=aux_like)


def _choose(params: optax.Params, is_head: IsHead) -> list[tuple[bool, jax.Array]]:
    return list(zip(jax.tree.leaves(is_head(params)), jax.tree.leaves(params), strict=True))
