"""The arithmetic of a network, as multiply-adds of its convolutions and its head."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util


def multiply_adds(backbone: nn.Module, num_classes: int, size: int) -> int:
    """Return the multiply-adds of a forward pass on one image of `size` x `size` pixels, including those on padding.

    This is the convention of published tables: ResNet-50 at 224 has 4.09e9. Normalization and elementwise work do not
    count. A training pass counts as three forward passes. Recomputation for rematerialization counts as no work.
    """
    images, mask = jnp.zeros((1, size, size, 3)), jnp.ones(1, bool)

    def forward(key):
        return backbone.init_with_output(key, images, mask, False, mutable=True, capture_intermediates=True)

    features, variables = jax.eval_shape(forward, jax.random.key(0))
    outputs = traverse_util.flatten_dict(variables["intermediates"])
    leaves = traverse_util.flatten_dict(variables["params"])
    kernels = {path[:-1]: leaf for path, leaf in leaves.items() if path[-1] == "kernel"}
    # A kernel is used once at each pixel of its output: (..., inputs of a group, outputs) has a product an entry.
    products = [math.prod(outputs[(*path, "__call__")][0].shape[:-1]) * one.size for path, one in kernels.items()]
    return sum(products) + features.size * num_classes
