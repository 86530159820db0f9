"""The rectifier: jax.nn.relu's values and derivatives, and that XLA computes it once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT  # noqa: F401 (its devices)

from configs import default
from saddle_jax.models.activation import relu
from saddle_jax.models.networks import make_resnet

POINTS = np.array([-np.inf, -2.0, -1e-30, -0.0, 0.0, 1e-30, 3.0, np.inf, np.nan])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_first_derivatives(dtype):
    x = jnp.asarray(POINTS, dtype)
    assert relu(x).dtype == x.dtype
    np.testing.assert_array_equal(np.float32(relu(x)), np.float32(jax.nn.relu(x)))
    ours, theirs = (np.float32(jax.vmap(jax.grad(f))(x[:-1])) for f in (relu, jax.nn.relu))
    np.testing.assert_array_equal(ours, theirs)


def test_hessian_products(x64):
    draw = np.random.default_rng(0)
    weights, direction = draw.standard_normal((2, 6, 5))
    inputs = draw.standard_normal((7, 6))

    def product(f):
        gradient = jax.grad(lambda w: jnp.sum(jnp.square(f(f(inputs @ w) - 0.3))))
        _, linear = jax.linearize(gradient, weights)
        forward = jax.jvp(gradient, (weights,), (direction,))[1]
        np.testing.assert_allclose(linear(direction), forward, rtol=1e-12)
        return forward

    np.testing.assert_allclose(product(relu), product(jax.nn.relu), rtol=1e-12)


def test_no_kernel_gradient_computes_the_residual_stream_again():
    if jax.default_backend() != "cpu":
        pytest.skip("is about XLA's fusions on CPUs")
    config = default.get_config().model
    config.name, config.kernels = "resnet20", "lax"
    network = make_resnet(None, config, 10, None)
    images, mask = jnp.zeros((8, 16, 16, 3)), jnp.ones(8, bool)
    variables = jax.eval_shape(lambda key: network.init(key, (16, 16, 3)), jax.random.key(0))

    def loss(params, model_state, images):
        logits, _ = network.logits(params, model_state, images, mask, train=True)
        return jnp.sum(jnp.square(logits))

    compiled = jax.jit(jax.grad(loss)).lower(*variables, images).compile()
    transpositions = re.findall(r"%transpose_copy_fusion\S* = \S+ fusion\(([^)]*)\)", compiled.as_text())
    if not transpositions:
        pytest.skip("this XLA has other names for its fusions")
    # Arrays that one fusion reads: 9 at any depth. With jax.nn.relu they grow with it: 20 here.
    assert max(operands.count("%") for operands in transpositions) < 15
