"""A batch of three classes, each with a quadratic loss of its own: every gradient is known."""

import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

NUM_CLASSES, SIZE = 3, 10
PARAMS = {
    "block": {"kernel": np.array([[0.3, -1.2], [0.7, 0.4], [-0.5, 0.9]]), "bias": np.array([0.2, -0.6])},
    "linear": {"kernel": np.array([[1.1, -0.8]])},
}


class Batch:
    """L(w) = Σ_c s_c (w - m_c)ᵀ H_c (w - m_c) / 2, with s_c the part of class c in the batch."""

    def __init__(self, shares_C=(0.5, 0.3, 0.2), seed=0):
        rng = np.random.default_rng(seed)
        halves = rng.normal(size=(NUM_CLASSES, SIZE, SIZE))
        self.hessians = halves + halves.swapaxes(1, 2)
        self.centers = rng.normal(size=(NUM_CLASSES, SIZE))
        self.shares_C = np.array(shares_C)
        self.calls = 0

    def gradient(self, w, class_weights_C=(1, 1, 1)):
        """Return the gradient at a vector, in NumPy."""
        parts = [H @ (w - m) for H, m in zip(self.hessians, self.centers, strict=True)]
        return np.einsum("c,c,ci->i", self.shares_C, np.asarray(class_weights_C, float), np.stack(parts))

    def loss_fn(self, params, class_weights_C=None):
        w, _ = ravel_pytree(params)
        away_CP = w - self.centers
        losses_C = jnp.einsum("cp,cpq,cq->c", away_CP, self.hessians, away_CP) / 2
        weights_C = self.shares_C if class_weights_C is None else self.shares_C * class_weights_C
        return weights_C @ losses_C, {"first": params["block"]["bias"][0]}

    def grad_fn(self, params, class_weights_C=None):
        self.calls += 1
        w, unravel = ravel_pytree(params)
        weights_C = self.shares_C if class_weights_C is None else self.shares_C * class_weights_C
        parts_CP = jnp.einsum("cpq,cq->cp", self.hessians, w - self.centers)
        return unravel(weights_C @ parts_CP), {"first": params["block"]["bias"][0]}


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def start():
    return {name: {leaf: jnp.asarray(x) for leaf, x in module.items()} for name, module in PARAMS.items()}
