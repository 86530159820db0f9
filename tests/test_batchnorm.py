"""BatchNorm: PyTorch's statistics, and a mask that hides padding completely."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import ROOT  # noqa: F401 (its devices)

from saddle_jax.models.batchnorm import BatchNorm

X = np.random.default_rng(0).normal(2.0, 3.0, (6, 4, 4, 3))
VARIABLES = {
    "params": {"scale": np.array([1.0, 2, 3]), "bias": np.array([0.0, -1, 1])},
    "batch_stats": {"mean": np.zeros(3), "var": np.ones(3)},
}


def apply(x, mask, train=True):
    return BatchNorm(axis_name=None).apply(VARIABLES, jnp.asarray(x), jnp.asarray(mask), train, mutable=["batch_stats"])


def test_known_answer_with_the_unbiased_running_variance(x64):
    y, updated = apply(X, np.ones(6, bool))
    mean, var = X.mean((0, 1, 2)), X.var((0, 1, 2))
    np.testing.assert_allclose(y, (X - mean) / np.sqrt(var + 1e-5) * [1, 2, 3] + [0, -1, 1], rtol=1e-10)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * mean, rtol=1e-12)
    unbiased = X.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * unbiased, rtol=1e-12)


def test_padded_rows_change_nothing(x64):
    padded = np.concatenate([X, np.full((2, 4, 4, 3), 1e6)])
    mask = np.arange(8) < 6
    y, updated = apply(padded, mask)
    expected, statistics = apply(X, np.ones(6, bool))
    np.testing.assert_allclose(y[:6], expected, rtol=1e-12)
    for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves(statistics), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_only_padding_gives_no_nan_and_no_gradient():
    mask = np.zeros(6, bool)

    def total(x):
        y, _ = apply(x, mask)
        return jnp.sum(jnp.where(mask[:, None, None, None], y, 0))

    _, updated = apply(X, mask)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updated))
    np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(X)), 0)


def test_evaluation_uses_the_running_statistics():
    y, updated = apply(X, np.ones(6, bool), train=False)
    np.testing.assert_allclose(y, X * np.array([1, 2, 3]) / np.sqrt(1 + 1e-5) + [0, -1, 1], rtol=1e-5)
    assert all(
        (a == b).all() for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves(VARIABLES["batch_stats"]), strict=True)
    )


def test_a_device_without_images_keeps_its_statistics_and_normalizes_nobody_elses():
    mask = np.ones((3, 2), bool)
    mask[2] = False
    x = X.reshape(3, 2, 4, 4, 3).astype(np.float32)
    step = jax.pmap(
        lambda x, mask: BatchNorm("d").apply(VARIABLES, x, mask, True, mutable=["batch_stats"]), axis_name="d"
    )
    y, updated = jax.device_get(step(x, mask))
    np.testing.assert_allclose(y[0], apply(x[0], mask[0])[0], rtol=1e-4, atol=1e-5)
    means = updated["batch_stats"]["mean"]
    np.testing.assert_allclose(means[0], 0.1 * x[0].mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(means[2], VARIABLES["batch_stats"]["mean"])
