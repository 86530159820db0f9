"""Every link in a training step, with the losses for long tails, over one device and eight: what each has to hold.

The network is one small layer, so that a step compiles in a second; at the end other methods train ResNets.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import METHODS, small_config, train
from test_devices import COUNTS, IMAGES, LABELS, assert_close, batch_of, batches

from configs import default
from configs.recipes import LINKS, LINKS_OF_METHODS
from saddle_jax.data import sources
from saddle_jax.errors import ConfigError
from saddle_jax.experiment import catalogue
from saddle_jax.experiment.catalogue import find
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats
from saddle_jax.methods import plain
from saddle_jax.methods.base import ASCENT, DESCENT
from saddle_jax.optim import chain
from saddle_jax.optim.link import find_link_state, with_key
from saddle_jax.schedules import make_schedules
from saddle_jax.training import checkpoint, metrics
from saddle_jax.training.gradient import pass_like
from saddle_jax.training.program import make_program
from saddle_jax.training.steps import init_state, make_train_step

pytestmark = pytest.mark.usefixtures("compile_quickly")

STATS = ClassStats(COUNTS, ())
EVALUATIONS = {  # a step's, or those of seven steps
    **{"sgd": 1, "pgd": 1, "cnc_pgd": 2, "lpf_sgd": 4 / 3, "sam": 2, "asam": 2},
    **{"imbsam": 3, "cc_sam": 7 / 3, "sse_sam": [4] * 6 + [3], "focal_sam": 3, "le_sam": 2},
}
every_link = pytest.mark.parametrize("link", LINKS)
# What tests/test_links.py has for every link, of gradients that are known. The others go with lpf_sgd, sam, and imbsam.
OF_A_KIND = ("pgd", "cnc_pgd", "asam", "focal_sam")
every_kind = pytest.mark.parametrize(
    "link", [pytest.param(link, marks=pytest.mark.nightly if link in OF_A_KIND else ()) for link in LINKS]
)
every_loss = pytest.mark.parametrize(
    "loss", ["ldam", *(pytest.param(loss, marks=pytest.mark.nightly) for loss in ("ce", "vs"))]
)


def config_of(link, loss, **changes):
    config = default.get_config()
    config.batch_size, config.duration = 32, "4 epochs"
    config.data.mean, config.data.std = (0.5,) * 3, (0.5,) * 3
    config.model.batch_norm = "synchronized"
    config.model.head = "normed" if loss == "ldam" else "linear"
    config.loss.name, config.loss.class_weights, config.loss.drw_start = loss, "drw", "50%"
    config.optim.name = link
    config.sam.rho = (0.1,)
    config.sse_sam.switch_at = "50%"
    config.update_from_flattened_dict({"optim.batch_stats": "both"} | changes)
    return config


class Built:
    """The step of a link with a loss, over one device or all of them, and the first state."""

    def __init__(self, config, axis_name):
        schedules = make_schedules(config, STATS, steps_per_epoch=3)
        method = plain.make(config, STATS, IMAGES.shape[1:], axis_name)
        around = {"aux_like": pass_like(method), "axis_name": axis_name, "is_classifier": method.is_classifier}
        tx = chain.make_optimizer(config, schedules, STATS, **around)
        step = make_train_step(
            method,
            tx,
            schedules.class_weights,
            first_pass=ASCENT if find("optim.name", config.optim.name).ascends else DESCENT,
            batch_stats_policy=config.optim.batch_stats,
            axis_name=axis_name,
        )
        self.step = devices.map_step(step, 1) if axis_name else jax.jit(step)
        self.init = devices.jit_once(lambda key: init_state(method, tx, key))
        self.state = self.init(jax.random.key(0))
        self.batches = [devices.split(batch) for batch in batches(8)] if axis_name else batches(1)

    def run(self, state, first, last):
        """Return the state after steps [first, last), and the metrics of each."""
        seen = []
        for number in range(first, last):
            state, metrics = jax.device_get(self.step(state, (self.batches[number % 3],)))
            seen.append(metrics)
        return state, seen


@functools.cache
def built(link, loss, axis_name=None, *, without_radius=False):
    """Return what several tests take in float64 and with the small network, so that it is compiled once."""
    return Built(config_of(link, loss, **(NOTHING if without_radius else {})), axis_name)


@pytest.fixture(autouse=True, scope="module")
def forget_built():
    yield
    built.cache_clear()


@every_loss
@every_link
def test_a_step_is_finite_deterministic_and_goes_on_from_a_checkpoint(link, loss, small_network, tmp_path, x64):
    one = built(link, loss)
    end, metrics = one.run(one.state, 0, 7)  # DRW and SSE-SAM's second stage act from the middle on
    assert all(m.finite for m in metrics)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(end))
    np.testing.assert_allclose([m.gradient_evaluations for m in metrics], EVALUATIONS[link], rtol=1e-6)
    assert "random_seed" not in str(jax.make_jaxpr(one.step)(one.state, (one.batches[0],)))  # keys are the state's

    middle, _ = one.run(one.state, 0, 3)
    checkpoint.save(tmp_path, middle, None, {})
    restored = checkpoint.restore(checkpoint.find(tmp_path), jax.eval_shape(lambda: one.state))
    resumed, later = one.run(restored, 3, 7)
    jax.tree.map(np.testing.assert_array_equal, (resumed, later), (end, metrics[3:]))


@every_loss
@every_kind
def test_one_device_equals_eight(link, loss, small_network, x64):
    (one, expected), (eight, metrics) = (
        each.run(each.state, 0, 7) for each in (built(link, loss), built(link, loss, devices.AXIS))
    )
    assert_close(metrics, expected, 1e-10)
    assert_close(eight.params, one.params, 1e-10)
    assert_close(eight.model_state, one.model_state, 1e-10)


LIKE_SAM = ("asam", "imbsam", "focal_sam", "le_sam")  # passes in every step, and no draws


@pytest.mark.parametrize(
    "link", [pytest.param(link, marks=pytest.mark.nightly if link in LIKE_SAM else ()) for link in LINKS]
)
def test_several_seeds_at_once_equal_each_alone(link, small_network, x64):
    one = built(link, "ldam")
    state, other = (one.init(jax.random.key(seed)) for seed in (0, 1))
    same_weights = state._replace(opt_state=with_key(state.opt_state, jax.random.key(7)))
    states = (state, same_weights, other)
    together = jax.tree.map(lambda *x: jnp.stack(x), *states)
    step = jax.jit(jax.vmap(one.step, in_axes=(0, None)))
    for number in range(3):
        together, metrics = step(together, (one.batches[number],))
    each = [one.run(state, 0, 3) for state in states]
    for index, (end, seen) in enumerate(each):
        assert_close(jax.tree.map(lambda x: x[index], (together, metrics)), (end, seen[-1]), 1e-10)  # noqa: B023
    first, second = (np.concatenate([x.ravel() for x in jax.tree.leaves(end.params)]) for end, _ in each[:2])
    link_state = find_link_state(state.opt_state)
    draws = link_state is not None and bool(jax.tree.leaves(link_state.key))
    assert draws != np.array_equal(first, second)


@pytest.mark.parametrize(
    "link", ["cnc_pgd", *(pytest.param(link, marks=pytest.mark.nightly) for link in LINKS if link != "cnc_pgd")]
)
def test_every_record_keeps_its_step_whatever_the_name_of_the_size(link, small_network, tmp_path):
    config = small_config("ce", optim__name=link, duration="4 steps", log_every="2 steps", eval__every="4 steps")
    train(config, tmp_path, program=make_program(config, sources.load(config)))
    trained = [record for record in metrics.read(tmp_path) if "train/loss" in record]
    assert [record["step"] for record in trained] == [2, 4]
    size = catalogue.ENTRIES["optim.name"][link].size
    assert [name for name in trained[0] if name.startswith(f"{link}.")] == ([f"{link}.{size}"] if size else [])


NOTHING = {f"{name}.{link.size}": (0.0,) for name, link in catalogue.ENTRIES["optim.name"].items() if link.size}
NOTHING |= {"optim.batch_stats": "first"}


@every_kind
def test_without_a_radius_the_perturbed_loss_is_the_loss(link, small_network, x64):
    one = built(link, "ldam", without_radius=True)
    without_tail = batch_of(np.flatnonzero(LABELS < 4)[-32:], 1)
    for batch in (*one.batches, without_tail):
        _, metrics = one.step(one.state, (batch,))
        np.testing.assert_allclose(metrics.perturbed_loss, metrics.loss, rtol=1e-12)


@every_kind
def test_without_a_radius_a_link_is_sgd(link, small_network, x64):
    reference, one = built("sgd", "ldam"), built(link, "ldam", without_radius=True)
    expected, _ = reference.run(reference.state, 0, 4)
    found, _ = one.run(one.state, 0, 4)
    assert_close(found.params, expected.params, 1e-12)
    assert_close(found.model_state, expected.model_state, 1e-12)


@pytest.mark.parametrize("link", ["imbsam", "sse_sam"])
def test_the_tail_is_that_of_the_counts_or_of_the_evaluation(link):
    assert chain.tail_C(COUNTS, 0, ()).tolist() == [False, False, False, False, True]  # 70 % of five classes
    assert chain.tail_C(COUNTS, 0, (1, 2)).tolist() == [False, False, True, True, True]
    assert chain.tail_C(COUNTS, 9, (1, 2)).tolist() == [False, False, False, True, True]
    config = config_of(link, "ce")
    config[link].tail_below = 9
    assert not list(chain.problems_of(config, STATS))


@pytest.mark.parametrize(
    ("counts", "tail_below", "problem"),
    [
        (
            (40, 20, 9, 4, 2),
            2,
            "found 2, which leaves no class with images in the tail; the smallest class has 2 training",
        ),
        ((40, 20, 9, 4, 0), 1, "leaves no class with images in the tail; the smallest class has 4"),
        ((40, 20, 9, 4, 2), 41, "found 41, which puts every class in the tail"),
        ((40,), 0, "found 0, which"),
    ],
)
def test_a_tail_that_would_mislead_is_told(counts, tail_below, problem):
    config = config_of("imbsam", "ce")
    config.imbsam.tail_below = tail_below
    (found,) = chain.problems_of(config, ClassStats(np.array(counts), ()))
    assert problem in found


def test_cc_sam_refuses_what_no_device_holds():
    config, classes = config_of("cc_sam", "ce"), ClassStats(np.arange(8142, 0, -1), ())
    (found,) = chain.problems_of(config, classes)
    assert "three copies of the classifier for each of 8,142 classes, more than 379 GiB" in found


def test_no_tail_is_told_with_all_other_problems(tmp_path):
    config = small_config("ce_imbsam", imbsam__tail_below=1, batch_size=31)
    with pytest.raises(ConfigError) as error:
        make_program(config, sources.load(config))
    assert [text.split(":")[0] for text in error.value.problems] == ["batch_size", "imbsam.tail_below"]


@pytest.mark.nightly
@pytest.mark.parametrize("method", [name for name in METHODS if name != "plain"])
@pytest.mark.parametrize("link", LINKS_OF_METHODS)
def test_other_methods_train_with_every_link(method, link, tmp_path):
    changes = {field.replace(".", "__"): value for field, value in METHODS[method].items()}
    config = small_config("ce", optim__name=link, **changes)
    reports = train(config, tmp_path)
    assert np.isfinite(reports["last"]["accuracy"])
