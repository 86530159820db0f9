"""Batch normalization and its gradients equal those of the written-out formula in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saddle_kernels import norm_backward, norm_forward
from test_conv import TOLERANCE, assert_close, in_float64

EPSILON = 1e-5
SHAPES = {"small": (6, 4, 4, 3), "lanes": (9, 16, 16, 16), "wide": (40, 8, 8, 70), "one pixel": (5, 1, 1, 33)}


def formula(x, mask, scale, bias, residual, rectify):
    """Compute what the kernel computes, in a form that JAX can differentiate."""
    rows = mask[:, None, None, None]
    count = mask.sum() * x.shape[1] * x.shape[2]
    mean = (x * rows).sum((0, 1, 2)) / count
    variance = (jnp.square(x - mean) * rows).sum((0, 1, 2)) / count
    y = (x - mean) / jnp.sqrt(variance + EPSILON) * scale + bias
    y = y if residual is None else y + residual
    return jnp.where(y <= 0, 0, y) if rectify else y, mean, variance


def arrays(name, dtype, *, adds):
    """Return x, mask, scale, bias, residual, and a cotangent. The channels have means far from 0."""
    draw = np.random.default_rng(0)
    shape = SHAPES[name]
    x = draw.standard_normal(shape) * draw.uniform(0.5, 2, shape[3]) + draw.uniform(-5, 5, shape[3])
    scale, bias = draw.uniform(0.5, 2, shape[3]), draw.standard_normal(shape[3])
    mask = np.arange(shape[0]) % 4 > 0  # the first image does not count
    residual, cotangent = draw.standard_normal((2, *shape))
    images = [jnp.asarray(v, dtype) for v in (x, residual, cotangent)]
    rest = [jnp.asarray(v, jnp.float32) for v in (mask, scale, bias)]
    return images[0], *rest, images[1] if adds else None, images[2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients(name, adds, rectify, dtype):
    x, mask, scale, bias, residual, cotangent = arrays(name, dtype, adds=adds)
    how = {"epsilon": EPSILON, "rectify": rectify}
    y, mean, variance = jax.jit(functools.partial(norm_forward, **how))(x, mask, scale, bias, residual)
    saved = y if adds else None
    backward = jax.jit(functools.partial(norm_backward, **how))
    gradients = backward(cotangent, x, saved, mask, scale, bias, mean, variance)

    def expected(x, mask, scale, bias, cotangent, *residual):
        function = lambda x, scale, bias, *residual: formula(x, mask, scale, bias, *(residual or (None,)), rectify)  # noqa: E731
        y, vjp, more = jax.vjp(lambda *a: (function(*a)[0], function(*a)[1:]), x, scale, bias, *residual, has_aux=True)
        return (y, *more), vjp(cotangent)

    values, right = in_float64(expected, x, mask, scale, bias, cotangent, *([residual] if adds else []))
    assert_close((y, mean, variance), values, dtype)
    # Where the rectifier's input is within rounding of 0, its derivative may be either.
    off = [np.abs(np.asarray(a, np.float64) - b) / np.abs(b).max() for a, b in zip(gradients, right, strict=False)]
    assert all(np.quantile(each, 0.999) < TOLERANCE[dtype] for each in off)
    assert gradients[0].dtype == x.dtype


def test_a_mean_far_from_zero_costs_no_digits():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((16, 8, 8, 4)) + 3e4, jnp.float32)
    one, zero = jnp.ones(4), jnp.zeros(4)
    _, mean, variance = norm_forward(x, jnp.ones(16), one, zero, epsilon=EPSILON, rectify=False)
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(variance, wide.var((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(mean, wide.mean((0, 1, 2)), rtol=1e-7)


def test_without_an_image_nothing_is_infinite():
    x = jnp.full((3, 2, 2, 4), 1e6)
    mask, scale, bias = jnp.zeros(3), jnp.ones(4), jnp.arange(4.0)
    how = {"epsilon": EPSILON, "rectify": False}
    y, mean, variance = norm_forward(x, mask, scale, bias, **how)
    np.testing.assert_array_equal(y, jnp.broadcast_to(bias, x.shape))
    dx, dscale, _, dresidual = norm_backward(x, x, None, mask, scale, bias, mean, variance, **how)
    assert dresidual is None
    np.testing.assert_array_equal(dx, 0)
    np.testing.assert_array_equal(dscale, 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(value, dtype):
    x = jnp.zeros((4, 2, 2, 16), dtype).at[2, 1, 1, 5].set(value)
    y, _, variance = norm_forward(x, jnp.ones(4), jnp.ones(16), jnp.zeros(16), epsilon=EPSILON, rectify=True)
    assert not np.isfinite(variance[5])
    assert np.isnan(np.asarray(y, np.float32)[..., 5]).all()
    assert np.isfinite(np.delete(np.asarray(y, np.float32), 5, -1)).all()


def test_masked_images_may_hold_anything():
    x = jnp.ones((4, 2, 2, 16)).at[1].set(jnp.nan)
    mask = jnp.array([1.0, 0, 1, 1])
    _, mean, variance = norm_forward(x, mask, jnp.ones(16), jnp.zeros(16), epsilon=EPSILON, rectify=False)
    np.testing.assert_array_equal(mean, 1)
    np.testing.assert_array_equal(variance, 0)


def test_arrays_that_do_not_fit_are_refused():
    x, mask, scale, bias = jnp.ones((3, 4, 4, 8)), jnp.ones(3), jnp.ones(8), jnp.zeros(8)
    how = {"epsilon": EPSILON, "rectify": False}
    for wrong, message in (
        ((x, mask, scale, bias, x.astype(jnp.bfloat16)), "one shape and dtype"),
        ((x, mask, scale, bias, x[:2]), "one shape and dtype"),
        ((x[0], mask, scale, bias), "4 axes"),
        ((x, mask[:2], scale, bias), "one number an image"),
        ((x, mask, scale, bias[:7]), "one number a channel"),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match=message):
            jax.block_until_ready(norm_forward(*wrong, **how))
