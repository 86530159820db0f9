"""Micro-batches: the gradient of the whole batch, which SAM perturbs along, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import small_config
from test_devices import COUNTS, IMAGES, LABELS, assert_close, batch_of, config_of

from configs.recipes import LINKS
from saddle_jax.data import sources
from saddle_jax.errors import ConfigError
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats
from saddle_jax.losses import cross_entropy, weighted_sums
from saddle_jax.methods.base import LossOutput, Method, Stream, Variables
from saddle_jax.methods.plain import make as make_plain
from saddle_jax.optim.chain import make_optimizer
from saddle_jax.schedules import make_schedules
from saddle_jax.training.gradient import pass_like
from saddle_jax.training.program import make_program
from saddle_jax.training.steps import init_state, make_train_step

pytestmark = pytest.mark.usefixtures("compile_quickly")


def softmax_regression():
    """A method without batch statistics, whose micro-batches have to add up exactly; its state counts steps."""

    def init(key):
        return Variables({"w": 0.01 * jax.random.normal(key, (192, 5), float)}, {}, jnp.zeros((), int))

    def loss(variables, batch, context):
        logits_BC = (batch.images.reshape(len(batch.labels), -1) / 255.0) @ variables.params["w"]
        losses_B = cross_entropy(logits_BC, batch.labels)
        weights = context.class_weights_C, context.extra_weights_C
        sums = weighted_sums(losses_B, batch.labels, batch.mask, *weights)
        metrics = {"accuracy": jnp.sum((logits_BC.argmax(1) == batch.labels) & batch.mask)}
        return LossOutput(*sums, {}, jnp.sum(batch.mask), metrics)

    return Method(
        streams=(Stream(None, ("crop_flip",)),),
        init=init,
        prepare=lambda _variables, views, _step, _key: views[0],
        loss=loss,
        after_update=lambda variables, _inputs: variables.method_state + 1,
        predict=lambda *_: None,
    )


def plain(config):
    return make_plain(config, ClassStats(COUNTS, ()), IMAGES.shape[1:], None)


def step_of(config, method, micro_batches, axis_name):
    schedules = make_schedules(config, ClassStats(COUNTS, ()), steps_per_epoch=3)
    tx = make_optimizer(config, schedules, ClassStats(COUNTS, ()), aux_like=pass_like(method), axis_name=axis_name)
    step = make_train_step(method, tx, schedules.class_weights, micro_batches=micro_batches, axis_name=axis_name)
    return step, devices.jit_once(lambda key: init_state(method, tx, key))(jax.random.key(0))


@pytest.mark.parametrize("axis_name", [None, devices.AXIS])
def test_a_sam_step_does_not_depend_on_micro_batches(axis_name, x64):
    config, method = config_of("ce", rho=0.5), softmax_regression()
    order = np.random.default_rng(2).permutation(len(LABELS))
    batches = [batch_of(order[:images], 8 if axis_name else 1) for images in (32, 21, 3)]
    trails = {}
    for micro_batches in (1, 2, 4):
        step, state = step_of(config, method, micro_batches, axis_name)
        step = jax.jit(step) if axis_name is None else devices.map_step(step, 1)
        trails[micro_batches] = []
        for batch in batches:
            state, metrics = step(state, (batch if axis_name is None else devices.split(batch),))
            trails[micro_batches].append((state.params, metrics))
        assert state.method_state == len(batches)
        nothing = jax.tree.map(np.zeros_like, batch)
        stays, metrics = step(state, (nothing if axis_name is None else devices.split(nothing),))
        assert metrics.skipped and stays.step == state.step + 1 and stays.method_state == state.method_state
        assert_close(stays.params, state.params, 0)
    assert_close(trails[2], trails[1], 1e-12)
    assert_close(trails[4], trails[1], 1e-12)
    _, metrics = trails[1][0]
    assert metrics.perturbed_loss > 1.01 * metrics.loss


OF_A_KIND = ("pgd", "cnc_pgd", "asam", "focal_sam")  # with lpf_sgd, sam, and imbsam


@pytest.mark.parametrize(
    "link",
    [
        pytest.param(link, marks=pytest.mark.nightly if link in OF_A_KIND else ())
        for link in LINKS
        if link not in ("sam", "cc_sam")
    ],
)
def test_no_link_depends_on_micro_batches(link, x64):
    config, method = config_of("ce", link, rho=0.3), softmax_regression()
    order = np.random.default_rng(2).permutation(len(LABELS))
    trails = {}
    for micro_batches in (1, 2):
        step, state = step_of(config, method, micro_batches, None)
        step, trails[micro_batches] = jax.jit(step), []
        for images in (32, 21, 3):
            state, metrics = step(state, (batch_of(order[:images], 1),))
            trails[micro_batches].append((state.params, metrics))
    assert_close(trails[2], trails[1], 1e-12)


def test_batch_norm_normalizes_each_micro_batch_by_itself(x64):
    config = config_of("ldam", "sgd")
    twice = jax.tree.map(lambda x: np.repeat(x[:16], 2, axis=0), batch_of(range(32), 1))  # two equal micro-batches
    results = []
    for micro_batches in (1, 2):
        step, state = step_of(config, plain(config), micro_batches, None)
        results.append((state, *jax.jit(step)(state, (twice,))))
    (start, whole, metrics), (_, parts, metrics_of_parts) = results
    assert_close(parts.params, whole.params, 1e-10)
    assert_close(metrics_of_parts, metrics, 1e-10)
    # The running mean of the first layer depends on images and weights alone: a pass moves it once, two halves twice.
    first, once, twice = (state.model_state["batch_stats"]["bn1"]["mean"] for state in (start, whole, parts))
    moved, more = once - first, twice - first
    assert not np.allclose(moved, more, rtol=1e-3)


def test_micro_batches_need_less_memory_where_they_are_a_loop(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # a loop is slow on CPUs, but it can be compiled
    config = config_of("ce", "sgd")
    batch = batch_of(range(32), 1)
    bytes_needed = []
    for micro_batches in (1, 8):
        step, state = step_of(config, plain(config), micro_batches, None)
        bytes_needed.append(jax.jit(step).lower(state, (batch,)).compile().memory_analysis().temp_size_in_bytes)
    assert bytes_needed[1] < 0.4 * bytes_needed[0]


def test_micro_batches_have_to_divide_a_device_s_part():
    config = small_config(micro_batches=3)
    with pytest.raises(ConfigError, match="micro_batches: a device's 4 images of a step can't be cut into 3"):
        make_program(config, sources.load(config))
