"""What every method has to hold, whatever it minimises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from small_runs import METHODS, small_config
from test_devices import COUNTS, IMAGES, LABELS, assert_close

from configs import default
from saddle_jax import posthoc
from saddle_jax.data import sources
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.feeds import numpy as in_process
from saddle_jax.data.order import Order, deal, slots_at
from saddle_jax.errors import ConfigError
from saddle_jax.experiment.adjustment import Adjustment
from saddle_jax.experiment.catalogue import find, view_augmentations
from saddle_jax.experiment.config import flatten
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats
from saddle_jax.methods.base import ASCENT, DESCENT, Context, Variables
from saddle_jax.methods.choose import make_method
from saddle_jax.methods.plain import make as make_plain
from saddle_jax.optim.chain import make_optimizer
from saddle_jax.schedules import make_schedules
from saddle_jax.training.gradient import make_gradient, pass_like
from saddle_jax.training.program import make_program
from saddle_jax.training.steps import init_state, make_eval_step, make_train_step

pytestmark = pytest.mark.usefixtures("compile_quickly", "small_network")

STATS = ClassStats(COUNTS, ())
EVERY = pytest.mark.parametrize("name", METHODS)
OTHERS = pytest.mark.parametrize("name", [name for name in METHODS if name != "plain"])  # its own is in test_devices.py


@pytest.fixture(autouse=True)
def in_float64():
    """All tests are, so that they share what is compiled."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_built():
    yield
    build.cache_clear()


def config_of(name, **changes):
    config = default.get_config()
    config.update_from_flattened_dict(
        {"batch_size": 32, "duration": "4 epochs", "data.mean": (0.5,) * 3, "data.std": (0.5,) * 3}
        | {"model.name": "resnet8", "model.width": 0.25, "model.batch_norm": "synchronized"}
        | {"optim.name": "sam", "sam.rho": ((0, 0.1),)}
        | METHODS[name]
        | {field.replace("__", "."): value for field, value in changes.items()}
    )
    return config


class Built:
    """A method, its step over one device or all of them, and its first state."""

    def __init__(self, config, axis_name):
        schedules = make_schedules(config, STATS, steps_per_epoch=3)
        self.method = make_method(config, STATS, IMAGES.shape[1:], axis_name, schedules)
        around = {"aux_like": pass_like(self.method), "axis_name": axis_name, "trained": self.method.trained}
        tx = make_optimizer(config, schedules, STATS, **around)
        policy = {
            "first_pass": ASCENT if find("optim.name", config.optim.name).ascends else DESCENT,
            "batch_stats_policy": config.optim.batch_stats,
            "axis_name": axis_name,
        }
        step = make_train_step(self.method, tx, schedules.class_weights, **policy)
        self.step = devices.map_step(step, 1) if axis_name else jax.jit(step)
        self.state = devices.jit_once(lambda key: init_state(self.method, tx, key))(jax.random.key(0))

    def views(self, step, num_devices=1):
        """Return the batches of a step, a third of an epoch of 75 images: 32, 32 and 11."""
        augmentation = Augmentation("crop_flip", IMAGES.shape[1:], crop_padding=1)
        views = []
        for number, stream in enumerate(self.method.streams):
            for _ in stream.augmentations:
                view = {"class_share_C": stream.class_share_C, "stream": number, "view": len(views)}
                slots = slots_at(Order(3, LABELS, 32, num_devices, augmentation, **view), step)
                views += in_process.training_batches(IMAGES, LABELS, [slots], augmentation)
        return tuple(views)

    def variables(self):
        return Variables(self.state.params, self.state.model_state, self.state.method_state)

    @functools.cached_property
    def gradient(self):
        """Return (variables, views, classes' extra weights) -> the gradient of what is minimised, and the pass."""

        def gradient(variables, views, extra_weights_C):
            context = Context(jnp.asarray(0), DESCENT, jnp.ones(len(COUNTS)), extra_weights_C)
            return make_gradient(self.method, self.method.prepare(variables, views, context.step), None)(
                variables, context
            )

        return jax.jit(gradient)


@functools.cache
def build(name, axis_name=None, **changes):
    return Built(config_of(name, **changes), axis_name)


def masked(views, keep_B):
    """Return the views with all other slots as padding."""
    shown_B111 = keep_B[:, None, None, None]
    return tuple(v._replace(mask=v.mask & keep_B, images=v.images * shown_B111, ids=v.ids * keep_B) for v in views)


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@EVERY
def test_the_config_names_the_augmentations_of_all_views(name):
    config = config_of(name, data__augmentation="simclr")
    method = make_method(config, STATS, IMAGES.shape[1:], None, make_schedules(config, STATS, steps_per_epoch=3))
    taken = {view for stream in method.streams for view in stream.augmentations}
    assert taken == set(view_augmentations(flatten(config)).values())


@EVERY
def test_states_keep_their_shapes_and_what_is_to_be_trained_is(name):
    built = build(name)
    after, metrics = built.step(built.state, built.views(0))
    assert shapes(after) == shapes(built.state)
    assert metrics.finite and metrics.ascent_norm > 0 and metrics.perturbed_loss != metrics.loss
    assert metrics.method and all(np.isfinite(value) for value in metrics.method.values())
    moved = jax.tree.map(lambda x, y: not np.array_equal(x, y), built.state.params, after.params)
    trained = built.method.trained or (lambda params: jax.tree.map(lambda _: True, params))
    assert moved == trained(built.state.params)
    evaluate = jax.jit(make_eval_step(built.method, logit_scale=1.0))
    output = evaluate(after.params, after.model_state, built.views(0)[0])
    assert output.predictions.shape == (32,) and np.all(output.finite)
    tau_norm, linear = Adjustment("tau_norm", 0.7), built.method.linear  # of the classifier that predicts
    changed = posthoc.adjusted_params(tau_norm, after.params, linear)
    found = evaluate(changed, after.model_state, built.views(0)[0])
    expected = posthoc.adjusted_logits(tau_norm, np.asarray(output.logits), STATS, after.params, linear)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found.logits, output.logits, rtol=1e-2)


@pytest.mark.parametrize("name", ["glmc", "paco"])  # those with heads of their own
def test_the_network_alone_predicts_the_same(name):
    built = build(name)
    alone = make_plain(config_of(name), STATS, IMAGES.shape[1:], None)

    def both(params, model_state, batch):
        network = built.method.network_of(params, model_state)
        return alone.predict(*network, batch), built.method.predict(params, model_state, batch)

    params, model_state = built.state.params, built.state.model_state
    assert_close(*jax.jit(both)(params, model_state, built.views(0)[0]), 1e-12)
    expected = jax.eval_shape(alone.init, jax.random.key(0))[:2]
    assert shapes(built.method.network_of(params, model_state)) == shapes(expected)


@EVERY
def test_whatever_a_batch_lacks_everything_stays_finite(name):
    """The end of an epoch, images of one class only, a single image, one that is bad in the last view only."""
    built = build(name)
    views, first = built.views(2), np.arange(32) == 0
    of_largest = np.logical_and.reduce([v.labels == 0 for v in views])
    bad_in_one = (*views[:-1], *masked(views[-1:], ~first))
    for batch in (views, masked(views, of_largest), masked(views, first), bad_in_one):
        after, metrics = built.step(built.state, batch)
        assert metrics.finite
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(after) if np.asarray(x).dtype.kind == "f")
    after, metrics = built.step(built.state, masked(views, np.zeros(32, bool)))
    assert metrics.skipped and metrics.finite and after.step == 1
    for field in ("params", "model_state", "method_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, field), getattr(built.state, field))
    after, metrics = built.step(built.state, (*views[:-1], *masked(views[-1:], np.zeros(32, bool))))
    assert metrics.finite and metrics.skipped == (name != "paco")  # its queries are in the other view
    garbage = tuple(v._replace(images=np.where(v.mask[:, None, None, None], v.images, 255)) for v in views)
    jax.tree.map(np.testing.assert_array_equal, built.step(built.state, garbage), built.step(built.state, views))


@OTHERS
def test_one_device_equals_eight(name):
    """Losses, weights, statistics and the method's own state: full batches, the end of an epoch, three images."""
    one, eight = build(name), build(name, devices.AXIS)
    state, other = one.state, eight.state
    for step, images in ((0, 32), (2, 32), (3, 32), (4, 3)):
        batch, parts = (
            masked(built.views(step, count), deal(0, images, 32, count)[1]) for built, count in ((one, 1), (eight, 8))
        )
        state, expected = one.step(state, batch)
        other, metrics = devices.settle(eight.step(other, devices.split(parts)))
        assert_close(metrics, expected, 1e-10)
        for field in ("params", "model_state", "opt_state", "method_state"):
            assert_close(getattr(other, field), getattr(state, field), 1e-10)
    assert expected.finite


@pytest.mark.nightly  # tests/test_link_runs.py has it for every link with the plain method
@OTHERS
def test_rho_zero_trains_as_sgd(name):
    results = []
    for changes in ({"sam__rho": ((0, 0.0),), "optim__batch_stats": "first"}, {"optim__name": "sgd"}):
        built = build(name, **changes)
        state = built.state
        for step in range(3):
            state, _ = built.step(state, built.views(step))
        results.append((state.params, state.model_state, state.method_state))
    assert_close(*results, 1e-12)


def first_mean(model_state):
    """Return the running mean behind the first convolution, whatever a method keeps beside it."""
    network_state = getattr(model_state, "network", model_state)
    return network_state["batch_stats"]["bn1"]["mean"]


@EVERY
@pytest.mark.parametrize(
    "policy", ["both", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("first", "second", "frozen"))]
)
def test_running_statistics_follow_the_policy(name, policy):
    built = build(name) if policy == "both" else build(name, optim__batch_stats=policy)
    start, views = built.state.model_state, built.views(0)
    found = built.step(built.state, views)[0].model_state
    first = built.gradient(built.variables(), views, jnp.ones(5))[1].model_state
    if policy == "frozen":
        jax.tree.map(np.testing.assert_array_equal, found, start)
    elif policy == "first":
        assert_close(found, first, 1e-12)
    else:
        of_start, of_found, of_first = (first_mean(state) for state in (start, found, first))
        assert not np.allclose(of_found, of_first, rtol=1e-6)
        # Twice in a row moves further from where all began.
        moved, once = (abs(mean - of_start).sum() for mean in (of_found, of_first))
        assert (moved > 1.2 * once) == (policy == "both")


@EVERY
def test_gradients_of_groups_of_classes_add_up(name):
    """The denominator stays the batch's; a group without images gives 0."""
    built = build(name)

    def gradient(*weights):
        grads, _ = built.gradient(built.variables(), built.views(0), jnp.array(weights))
        return ravel_pytree(grads)[0]

    whole, head, tail = gradient(1.0, 1, 1, 1, 1), gradient(1.0, 1, 0, 0, 0), gradient(0.0, 0, 1, 1, 1)
    np.testing.assert_allclose(head + tail, whole, atol=1e-12 * jnp.abs(whole).max())
    assert not np.any(gradient(0.0, 0, 0, 0, 0))
    assert min(np.linalg.norm(head), np.linalg.norm(tail)) > 1e-3 * np.linalg.norm(whole)


@EVERY
def test_every_classifier_is_marked(name):
    built = build(name)
    marks = built.method.is_classifier(built.state.params)
    assert jax.tree.structure(marks) == jax.tree.structure(built.state.params)
    marked = {entry for entry, tree in marks.items() if any(jax.tree.leaves(tree))}
    assert marked == {entry for entry in built.state.params if entry.startswith("linear")}


@EVERY
def test_the_logged_loss_is_what_is_minimised_with_sam_and_without(name):
    with_sam, without = build(name), build(name, optim__name="sgd")
    losses = [built.step(built.state, built.views(0))[1].loss for built in (with_sam, without)]
    np.testing.assert_allclose(*losses, rtol=1e-12)


@EVERY
def test_what_a_step_draws_comes_from_the_state(name):
    """So that a resumed step is the same: no key is made up on the way."""
    built = build(name)
    assert "random_seed" not in str(jax.make_jaxpr(built.step)(built.state, built.views(0)))


def test_an_epoch_without_a_batch_is_an_error():
    config = small_config(data__drop_last=True, batch_size=512)
    with pytest.raises(
        ConfigError, match="batch_size: 512 is more than the .* and data.drop_last leaves out an epoch's only"
    ):
        make_program(config, sources.load(config))
