"""Learning rate, rho and re-weighting: the reference's values at every epoch."""

import json

import numpy as np
import pytest
from conftest import GOLDEN

from configs import cifar10_lt, default
from configs.recipes import LINKS
from saddle_jax.errors import ConfigError
from saddle_jax.longtail import ClassStats
from saddle_jax.schedules import interpolate, logged_schedules, make_schedules

STORE = json.loads((GOLDEN / "schedules.json").read_text())
STATS = ClassStats(np.array([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]), ())
STEPS = 97  # an epoch


def at_epochs(schedule, epochs):
    """Return the value at the first step of each epoch, after checking that it holds to the last one."""
    first = [float(schedule(epoch * STEPS)) for epoch in range(epochs)]
    last = [float(schedule(epoch * STEPS + STEPS - 1)) for epoch in range(epochs)]
    assert first == last
    return first


def test_cifar_recipe(x64):
    config = cifar10_lt.get_config("ldam_drw_sam")
    config.sam.rho = ((0, 0.05), (5, 0.1), (160, 0.5), (180, 0.6))
    schedules = make_schedules(config, STATS, STEPS)
    assert schedules.total_steps == 200 * STEPS
    np.testing.assert_allclose(at_epochs(schedules.lr, 200), STORE["cifar"]["lr"], rtol=1e-14)
    np.testing.assert_allclose(at_epochs(schedules.size, 200), STORE["cifar"]["rho_step"], rtol=1e-14)
    drw = STORE["cifar"]["drw_first_epoch"]
    assert schedules.drw_start == drw * STEPS
    np.testing.assert_array_equal(schedules.class_weights(drw * STEPS - 1), np.ones(10))
    np.testing.assert_allclose(schedules.class_weights(drw * STEPS), STATS.effective_weights_C(0.9999), rtol=1e-14)


def test_imagenet_recipe(x64):
    golden = STORE["imagenet_lt"]
    lr = interpolate([(0, 0.2), (90 * STEPS, 0.0)], "cosine", STEPS)
    np.testing.assert_allclose(at_epochs(lr, 90), golden["lr_cosine"], rtol=1e-12)
    rho = interpolate([(0, 0.05), (5 * STEPS, 0.1), (60 * STEPS, 0.5)], "constant", STEPS)
    np.testing.assert_allclose(at_epochs(rho, 90), golden["rho_step_0.05_0.1_0.5_0.5"], rtol=1e-14)


def test_linear_interpolation(x64):
    schedule = interpolate([(0, 0.1), (10 * STEPS, 0.6)], "linear", STEPS)
    np.testing.assert_allclose(at_epochs(schedule, 12), [*np.linspace(0.1, 0.6, 11), 0.6], rtol=1e-12)


def test_weights_without_and_with_reweighting():
    config = default.get_config()
    assert (make_schedules(config, STATS, STEPS).class_weights(0) == 1).all()
    config.loss.class_weights = "reweight"
    np.testing.assert_allclose(
        make_schedules(config, STATS, STEPS).class_weights(0), STATS.effective_weights_C(0.9999), rtol=1e-6
    )


def test_weights_of_the_users_own_go_by_name():
    names = tuple("abcdefghij")
    stats = STATS._replace(names=names)
    config = default.get_config()
    config.loss.class_weights, config.loss.custom_weights = "custom", (("c", 5), ("a", 0.5))
    expected = [0.5, 1, 5, *[1] * 7]  # classes without one weigh 1
    np.testing.assert_allclose(make_schedules(config, stats, STEPS).class_weights(0), expected)
    config.loss.class_weights = "custom_drw"
    schedules = make_schedules(config, stats, STEPS)
    assert schedules.drw_start == 160 * STEPS  # 80 %
    np.testing.assert_array_equal(schedules.class_weights(160 * STEPS - 1), np.ones(10))
    np.testing.assert_allclose(schedules.class_weights(160 * STEPS), expected)
    config.loss.custom_weights = (("cc", 5), ("a", 2), ("zebra", 1))
    with pytest.raises(ConfigError) as error:
        make_schedules(config, stats._replace(names=("cat", *names[1:])), STEPS)
    assert error.value.problems == [
        "loss.custom_weights: there is no class 'cc'. Did you mean c?",
        "loss.custom_weights: there is no class 'a'. Did you mean cat?",
        "loss.custom_weights: there is no class 'zebra'. The classes are cat, b, c, d, e, f, g, h, i, j",
    ]


def test_positions_that_only_the_data_shows_to_be_wrong():
    config = default.get_config()
    config.duration = "100 steps"
    config.optim.lr = ((0, 0.1), ("50 steps", 0.01), (3, 0.001))
    config.loss.class_weights, config.loss.drw_start = "drw", "4 epochs"
    make_schedules(config, STATS, 20)
    with pytest.raises(ConfigError) as error:
        make_schedules(config, STATS, 97)
    assert len(error.value.problems) == 2
    config.optim.lr = ((0, 0.1), ("50 steps", 0.01), (1, 0.001))
    with pytest.raises(ConfigError, match="must rise"):
        make_schedules(config, STATS, 20)


def test_published_values_of_the_shipped_recipes():
    from configs import cifar100_lt

    for module, published in ((cifar10_lt, (0.1, 0.5, 0.8)), (cifar100_lt, (0.2, 0.8, 0.8))):
        for method, rho in zip(("ce", "ce_drw", "ldam_drw"), published, strict=True):
            config = module.get_config(f"{method}_sam")
            assert config.sam.rho == (rho,)
            assert (config.batch_size, config.duration, config.loss.drw_start) == (128, "200 epochs", "160 epochs")
            assert (config.optim.momentum, config.optim.weight_decay) == (0.9, 2e-4)
            assert (config.data.ratio, config.data.profile, config.data.subset_seed) == (100, "exp", 0)
            assert (config.model.name, config.model.width, config.optim.batch_stats) == ("resnet32", 1.0, "both")


@pytest.mark.parametrize("link", LINKS)
def test_a_link_s_size_has_a_name_that_no_other_value_of_a_record_has(link):
    config = cifar10_lt.get_config("ce")
    config.optim.name = link
    logged = logged_schedules(config, make_schedules(config, STATS, STEPS))
    names = [name for name in logged if name != "lr"]
    assert len(names) == (link != "sgd")
    assert all(name.startswith(f"{link}.") for name in names)  # names of other values have no dot
