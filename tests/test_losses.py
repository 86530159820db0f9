"""Losses against the reference's figures, and what must hold for any of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN
from ml_collections import ConfigDict

from configs import default
from saddle_jax.longtail import ClassStats
from saddle_jax.losses import make_loss, weighted_sums

STORE = np.load(GOLDEN / "losses.npz")
# With class weights the reference's focal loss puts the weight inside the exponent; ours multiplies (docs/parity.md).
CASES = sorted(
    case
    for case in {tuple(key.split("/")[:3]) for key in STORE if key.endswith("/grad")}
    if not case[1].startswith("focal") or case[2] == "none"
)
NAMES = ("ce", "focal", "ldam", "la", "cdt", "vs")


def loss_config(name: str) -> ConfigDict:
    """Read "vs_g0.3_t1" and the like."""
    config = default.get_config()
    config.loss.name, *settings = name.split("_")
    for setting in settings:
        value = float(setting[1:])
        if setting[0] == "g":
            config.focal.gamma = config.vs.gamma = config.cdt.gamma = value
        elif setting[0] == "t":
            config.vs.tau = config.la.tau = value
        elif setting[0] == "m":
            config.ldam.max_margin = value
        else:
            config.loss.logit_scale = value
    return config


@pytest.mark.parametrize(("case", "name", "weighting"), CASES)
def test_loss_and_gradient_equal_the_reference(case, name, weighting, x64):
    stats = ClassStats(STORE[f"{case}/counts"], ())
    config = loss_config(name)
    loss_fn = make_loss(config, stats, config.loss.logit_scale if config.loss.name == "ldam" else 1.0)
    inputs, labels = STORE[f"{case}/{'cosines' if config.loss.name == 'ldam' else 'logits'}"], STORE[f"{case}/labels"]
    weights_C = np.ones(stats.num_classes) if weighting == "none" else stats.effective_weights_C(0.9999)

    def mean(logits):
        mask = jnp.ones(len(labels), bool)
        numerator, denominator = weighted_sums(loss_fn(logits, labels), labels, mask, jnp.asarray(weights_C))
        return numerator / denominator

    loss, grad = jax.value_and_grad(mean)(jnp.asarray(inputs))
    np.testing.assert_allclose(loss, STORE[f"{case}/{name}/{weighting}/loss"], rtol=1e-12)
    np.testing.assert_allclose(grad, STORE[f"{case}/{name}/{weighting}/grad"], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("counts", [(50, 7, 1), (50, 0, 1), (9, 0, 0)])
def test_loss_and_gradient_are_finite(name, counts):
    config = default.get_config()
    config.loss.name = name
    for gamma in (0.0, 0.5, 1.0, 2.0):
        config.focal.gamma = gamma
        loss_fn = make_loss(config, ClassStats(np.array(counts), ()), 30.0 if name == "ldam" else 1.0)
        value_and_grad = jax.value_and_grad(lambda x, label, fn=loss_fn: fn(x, label[None])[0])
        for logits in ([[0.0, 0, 0]], [[100.0, -100, 3]], [[-1000.0, 1000, 0]]):
            for label in range(3):
                loss, grad = value_and_grad(jnp.array(logits), jnp.array(label))
                assert np.isfinite(loss)
                assert np.isfinite(grad).all()


def test_special_cases_coincide(x64):
    stats = ClassStats(np.array([60, 9, 2]), ())
    key = jax.random.key(0)
    logits, labels = jax.random.normal(key, (8, 3)), jnp.arange(8) % 3

    def value(name, **settings):
        config = default.get_config()
        config.loss.name = name
        config.update_from_flattened_dict({field.replace("__", "."): value for field, value in settings.items()})
        return make_loss(config, stats)(logits, labels)

    np.testing.assert_allclose(value("la"), value("vs", vs__gamma=0.0), rtol=1e-12)
    np.testing.assert_allclose(value("cdt"), value("vs", vs__tau=0.0), rtol=1e-12)
    np.testing.assert_allclose(value("ce"), value("focal", focal__gamma=0.0), rtol=1e-12)
    np.testing.assert_allclose(value("ce"), value("vs", vs__gamma=0.0, vs__tau=0.0), rtol=1e-12)


def test_masked_rows_count_for_nothing_even_if_infinite():
    losses, labels = jnp.array([1.0, jnp.inf, 3.0]), jnp.array([0, 1, 1])
    mask = jnp.array([True, False, True])
    numerator, denominator = weighted_sums(losses, labels, mask, jnp.array([2.0, 5.0]))
    assert (numerator, denominator) == (17.0, 7.0)


def test_extra_weights_split_the_gradient_into_groups():
    losses, labels, mask = jnp.array([1.0, 2.0, 4.0]), jnp.array([0, 1, 2]), jnp.ones(3, bool)
    weights = jnp.array([1.0, 2.0, 3.0])
    head = weighted_sums(losses, labels, mask, weights, jnp.array([1.0, 0, 0]))
    tail = weighted_sums(losses, labels, mask, weights, jnp.array([0.0, 1, 1]))
    both = weighted_sums(losses, labels, mask, weights)
    assert head[0] + tail[0] == both[0]
    assert head[1] == tail[1] == both[1]
