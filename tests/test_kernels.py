"""Networks are the same whichever kernels compute them: values, gradients, statistics and Hessian-vector products."""

import functools
import importlib.util
import types
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT  # noqa: F401 (its devices)

from configs import default, digits_lt
from saddle_jax.errors import ConfigError
from saddle_jax.experiment.checks import problems_of
from saddle_jax.host import devices
from saddle_jax.models import kernels
from saddle_jax.models.networks import make_resnet
from saddle_jax.models.normalize import normalize

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(kernels.PACKAGE) is None, reason="pip install ./native: needs a C++ compiler"
)
NETWORKS = {
    "resnet8": {"name": "resnet8"},
    "resnet10": {"name": "resnet10", "width": 0.25, "remat": True},  # 7x7 stem, 1x1 shortcuts
}


def network_of(choice, **fields):
    model = default.get_config().model
    model.update(width=0.5, kernels=choice)
    model.update(fields)
    return make_resnet(None, model, 5, None)


def problem(**fields):
    """Return a function of parameters and batch for each mode of BatchNorm, parameters, direction and batch."""
    draw = np.random.default_rng(0)
    network = network_of("lax", **fields)
    images = draw.standard_normal((6, 33, 32, 3)).astype(np.float32)
    variables = devices.jit_once(lambda key: network.init(key, images.shape[1:]))(jax.random.key(0))
    params, model_state = jax.tree.map(
        lambda x: np.asarray(x) + 0.05 * draw.standard_normal(x.shape).astype(np.float32), variables
    )
    direction = jax.tree.map(lambda x: draw.standard_normal(x.shape).astype(np.float32), params)
    return params, model_state, direction, images, np.arange(6) != 2


def results_of(choice, train, fields, params, model_state, direction, images, mask, *, curvature=True):
    """Return loss, statistics, gradient and, for its curvature, Hessian-vector product."""

    def loss(params):
        state = jax.tree.map(jnp.abs, model_state)
        logits, updated = network_of(choice, **fields).logits(params, state, images, mask, train=train)
        return jnp.sum(jnp.square(jnp.sin(logits)) * mask[:, None]), updated

    (value, updated), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    if not curvature:
        return value, updated, gradient
    product = jax.jvp(jax.grad(lambda params: loss(params)[0]), (params,), (direction,))[1]
    return value, updated, gradient, product


@needs_package
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", ["resnet8", pytest.param("resnet10", marks=[pytest.mark.slow, pytest.mark.nightly])])
def test_networks_are_those_of_float64(name, train):
    fields = NETWORKS[name]
    arguments = problem(**fields)
    found = jax.jit(functools.partial(results_of, "onednn", train, fields))(*arguments)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x if x.dtype == bool else np.float64(x), arguments)
        right = jax.device_get(jax.jit(functools.partial(results_of, "lax", train, fields))(*wide))
    # A rectifier within rounding of 0 moves single entries; it moves those of XLA's float32 likewise.
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        assert np.linalg.norm(np.asarray(a, np.float64) - b) < 5e-4 * (np.linalg.norm(b) + 1e-3)


@needs_package
def test_training_is_computed_by_the_package_and_nothing_else_is():
    library = importlib.import_module(f"{kernels.PACKAGE}.library")
    arguments = problem(**NETWORKS["resnet8"])

    def text(choice, **fields):
        gradient = functools.partial(results_of, choice, True, {"name": "resnet8", **fields}, curvature=False)
        return jax.jit(gradient).lower(*arguments).as_text()

    names = ("saddle_conv", "saddle_norm_forward", "saddle_norm_backward")
    usual, rounded = text("auto"), text("onednn", dtype="bfloat16")
    assert all(f"@{name}" in usual for name in names)
    in_bfloat16 = names if library.has_bfloat16() else names[1:]  # without AVX-512, XLA computes its convolutions
    assert all(f"@{name}" in rounded for name in in_bfloat16)
    assert "@saddle_" not in text("lax")
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x if x.dtype == bool else np.float64(x), arguments)
        lowered = jax.jit(functools.partial(results_of, "onednn", True, {"name": "resnet8"})).lower(*wide)
    assert "@saddle_" not in lowered.as_text()


@needs_package
def test_compiled_for_other_devices_it_is_xla():
    network = network_of("onednn", name="resnet8")
    images, mask = jnp.zeros((2, 32, 32, 3)), jnp.ones(2, bool)
    params, model_state = devices.jit_once(lambda key: network.init(key, (32, 32, 3)))(jax.random.key(0))

    def gradient(params):
        return jax.grad(lambda p: network.logits(p, model_state, images, mask, train=True)[0].sum())(params)

    exported = jax.export.export(jax.jit(gradient), platforms=["cuda", "tpu"])(params)
    assert "@saddle_" not in exported.mlir_module()


@needs_package
def test_bfloat16_is_near_float32():
    params, model_state, direction, images, mask = problem(name="resnet8")
    found = []
    for fields in ({"name": "resnet8"}, {"name": "resnet8", "dtype": "bfloat16"}):
        results = functools.partial(results_of, "onednn", True, fields, curvature=False)
        _, updated, gradient = jax.jit(results)(params, model_state, direction, images, mask)
        assert {leaf.dtype for leaf in jax.tree.leaves((updated, gradient))} == {jnp.dtype("float32")}
        found.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]))
    cosine = found[0] @ found[1] / np.linalg.norm(found[0]) / np.linalg.norm(found[1])
    assert 0.99 < cosine < 1


def normalized(x, mask, residual, **how):
    scale, bias = jnp.linspace(0.5, 2, x.shape[-1]), jnp.linspace(-1, 1, x.shape[-1])
    return normalize(x, mask, scale, bias, residual, epsilon=1e-5, rectify=True, **how)[0]


@pytest.mark.parametrize("onednn", [pytest.param(True, marks=needs_package), False])
def test_several_networks_at_once(onednn):
    x, residual = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 5, 8)).astype(np.float32)
    mask = np.ones((3, 4), bool)
    gradient = jax.grad(lambda *arguments: jnp.sum(jnp.square(normalized(*arguments, onednn=onednn))), (0, 2))
    together = jax.jit(jax.vmap(gradient))(x, mask, residual)
    for k in range(3):
        alone = jax.jit(gradient)(x[k], mask[k], residual[k])
        jax.tree.map(lambda a, b, k=k: np.testing.assert_allclose(a[k], b, rtol=1e-5, atol=1e-5), together, alone)


def test_shared_statistics_have_the_gradient_of_the_whole_batch(x64):
    x, residual = np.random.default_rng(0).standard_normal((2, 8, 3, 3, 4))
    mask = np.arange(8) != 5

    def loss(x, residual, mask, **how):
        y = normalized(x, mask, residual, **how)
        return jnp.sum(jnp.sin(y) * mask[:, None, None, None])

    parts = [v.reshape(4, 2, *v.shape[1:]) for v in (x, residual, mask)]
    gradient = jax.grad(functools.partial(loss, axis_name="d"), (0, 1))
    product = lambda x, r, m: jax.jvp(lambda x: gradient(x, r, m)[0], (x,), (jnp.cos(x),))[1]  # noqa: E731
    found = [*jax.pmap(gradient, axis_name="d")(*parts), jax.pmap(product, axis_name="d")(*parts)]
    whole = jax.grad(loss, (0, 1))
    right = [*whole(x, residual, mask), jax.jvp(lambda x: whole(x, residual, mask)[0], (x,), (jnp.cos(x),))[1]]
    for a, b in zip(found, right, strict=True):
        np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-9, atol=1e-12)


def test_the_closed_form_is_the_derivative(x64):
    x, residual = np.random.default_rng(0).standard_normal((2, 6, 3, 3, 4))
    mask = np.arange(6) > 1

    def written_out(x, residual):
        rows = mask[:, None, None, None]
        mean = (x * rows).sum((0, 1, 2)) / (4 * 9)
        variance = (jnp.square(x - mean) * rows).sum((0, 1, 2)) / (4 * 9)
        scale, bias = jnp.linspace(0.5, 2, 4), jnp.linspace(-1, 1, 4)
        return jax.nn.relu((x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias + residual)

    def derivatives(function):
        gradient = jax.grad(lambda x, r: jnp.sum(jnp.sin(function(x, r))), (0, 1))
        return gradient(x, residual), jax.jvp(gradient, (x, residual), (jnp.cos(x), jnp.sin(x)))[1]

    found = derivatives(lambda x, residual: normalized(x, mask, residual))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, derivatives(written_out))


@needs_package
def test_convolutions_of_other_kinds_are_left_to_xla():
    x = np.random.default_rng(0).standard_normal((2, 9, 9, 4)).astype(np.float32)
    for fields in ({"kernel_dilation": 2}, {"strides": (1, 2)}, {"padding": "VALID"}, {"padding": ((0, 1), (2, 1))}):
        layer = nn.Conv(4, (3, 3), **fields)
        variables = layer.init(jax.random.key(0), x)
        ours = nn.Conv(4, (3, 3), **fields, **kernels.conv_fields(onednn=True))
        np.testing.assert_allclose(ours.apply(variables, x), layer.apply(variables, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32"), ("bfloat16", "float32")])
@pytest.mark.parametrize("onednn", [pytest.param(True, marks=needs_package), False])
def test_gradients_have_the_dtypes_of_what_they_are_of(x64, onednn, dtypes):
    x, scale = jnp.ones((3, 4, 4, 8), dtypes[0]), jnp.ones(8, dtypes[1])

    def loss(x, scale, bias, residual):
        return normalize(x, jnp.ones(3), scale, bias, residual, epsilon=1e-5, onednn=onednn)[0].sum()

    arguments = x, scale, scale, x.astype("float32")
    gradients = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*arguments)
    assert [g.dtype for g in gradients] == [a.dtype for a in arguments]


def test_a_package_that_cannot_be_loaded_is_told_with_the_way_out(monkeypatch):
    broken = types.ModuleType(kernels.PACKAGE)
    broken.load = mock.Mock(side_effect=ImportError("no libgomp. Fix: install it"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: broken)
    monkeypatch.setattr(kernels, "library", lambda: broken)
    assert not kernels.uses_onednn("lax")
    with pytest.raises(ConfigError, match="no libgomp. Fix: install it; or --config.model.kernels=lax"):
        kernels.uses_onednn("auto")


def test_without_the_package_auto_is_xla_and_asking_for_it_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    config = digits_lt.get_config("ce,smoke")
    assert not kernels.uses_onednn(config.model.kernels)
    assert not problems_of(config, default.get_config())
    config.model.kernels = "onednn"
    (problem,) = problems_of(config, default.get_config())
    assert "Fix: pip install ./native" in problem
