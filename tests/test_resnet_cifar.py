"""The network: the reference's figures, sizes, width, arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import optimizations
from golden_resnet import HEADS, batch, config_of, load, method_of, variables
from ml_collections import ConfigDict

from configs import default
from saddle_jax.host import devices
from saddle_jax.methods.base import ASCENT, Context
from saddle_jax.models import heads
from saddle_jax.models.networks import make_resnet


def sizes(**model) -> int:
    config = default.get_config().model
    config.update(model)
    network = make_resnet(None, config, 10, None)
    params, _ = jax.eval_shape(lambda k: network.init(k, (32, 32, 3)), jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize("head", HEADS)
def test_forward_equals_the_reference(head, x64):
    store = load(head)
    config = config_of(head)
    method = method_of(config, store)
    start = variables(store, head)
    logits = jax.jit(method.predict)(start.params, start.model_state, batch(store, 0))
    np.testing.assert_allclose(logits, store["logits_eval"], rtol=1e-8, atol=1e-10)

    network, first = make_resnet(None, config.model, 10, None), batch(store, 0)
    images = jnp.asarray(first.images)
    logits, _ = network.logits(start.params, start.model_state, images, first.mask, train=True)
    np.testing.assert_allclose(logits, store["logits_train"], rtol=1e-8, atol=1e-10)


def test_parameter_counts():
    assert sizes(name="resnet32") == 464_154  # 0.46 million, the narrow network
    assert sizes(name="resnet20") == 269_722
    assert sizes(name="resnet56") == 853_018
    assert sizes(name="resnet32", width=4.0) == sizes(name="wide_resnet32") == 7_386_186  # GLMC's "ResNet-32"
    assert sizes(name="cifar_resnet34") == 21_282_122  # torchvision's has 21,797,672: 7x7 stem, 1000 classes
    assert sizes(name="resnet32", width=0.25) < 31_000
    assert sizes(name="resnet32", head="normed") == 464_154 - 10


def test_initialization_follows_the_reference():
    config = default.get_config().model
    for head in HEADS:
        config.head = head
        network = make_resnet(None, config, 10, None)
        params, _ = devices.jit_once(lambda key, network=network: network.init(key, (32, 32, 3)))(jax.random.key(1))
        kernel = params["layer3_1"]["conv1"]["kernel"]
        assert np.std(kernel) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
        assert np.abs(kernel).max() > 3.5 * np.std(kernel)  # not truncated
        if head == "linear":
            assert np.std(params["linear"]["kernel"]) == pytest.approx((2 / 64) ** 0.5, rel=0.1)
            assert np.abs(params["linear"]["bias"]).max() <= 1 / 8
        else:
            np.testing.assert_allclose(np.linalg.norm(params["linear"]["kernel"], axis=0), 1, rtol=1e-6)


def test_normed_head_survives_zero_features():
    head = heads.Normed(3)
    variables = head.init(jax.random.key(0), jnp.ones((1, 4)))
    for gradient in jax.grad(lambda v, x: head.apply(v, x).sum(), argnums=(0, 1))(variables, jnp.zeros((2, 4))):
        for leaf in jax.tree.leaves(gradient):
            np.testing.assert_array_equal(leaf, 0)
    np.testing.assert_array_equal(head.apply(variables, jnp.zeros((1, 4))), 0)


@optimizations(few=True)
def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    config = default.get_config()
    config.update(ConfigDict({"model": {"name": "resnet8", "dtype": "bfloat16"}}))
    config.data.mean, config.data.std = (0.5,) * 3, (0.5,) * 3
    store = load("linear")
    method = method_of(config, store)
    start = devices.jit_once(method.init)(jax.random.key(0))
    images = (np.random.default_rng(0).random((8, 32, 32, 3)) * 255).astype(np.uint8)
    inputs = batch(store, 0)._replace(images=images), Context(jnp.zeros((), int), ASCENT, jnp.ones(10))
    output = jax.jit(lambda start: method.loss(start, *inputs))(start)
    assert {x.dtype for x in jax.tree.leaves((start.params, output.model_state))} == {jnp.dtype("float32")}
    config.model.dtype = "float32"
    exact = jax.jit(lambda start: method_of(config, store).loss(start, *inputs))(start)
    assert output.numerator != exact.numerator
    np.testing.assert_allclose(output.numerator, exact.numerator, rtol=0.05)
