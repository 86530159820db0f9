"""What every method has to hold, whatever it minimises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saddle_jax.data.augmentation import Augmentation
from small_runs import METHODS
from test_devices import COUNTS, IMAGES, LABELS, assert_close

from configs import default
from saddle_jax import devices
from saddle_jax.data import feeder
from saddle_jax.data.order import Order, slots_at
from saddle_jax.longtail import ClassStats
from saddle_jax.methods.base import ASCENT, DESCENT, Context, Variables
from saddle_jax.methods.choose import make_method
from saddle_jax.optim.chain import make_optimizer
from saddle_jax.schedules import make_schedules
from saddle_jax.train.gradient import make_gradient, pass_like
from saddle_jax.train.steps import init_state, make_eval_step, make_train_step

STATS = ClassStats(COUNTS, ())
EVERY = pytest.mark.parametrize("name", METHODS)


def config_of(name, **changes):
    config = default.get_config()
    config.update_from_flattened_dict(
        {"batch_size": 32, "duration": "4 epochs", "data.mean": (0.5,) * 3, "data.std": (0.5,) * 3}
        | {"model.name": "resnet8", "model.width": 0.25, "model.batch_norm": "synchronized"}
        | {"sam.enabled": True, "sam.rho_knots": ((0, 0.1),)}
        | METHODS[name]
        | {field.replace("__", "."): value for field, value in changes.items()}
    )
    return config


class Built:
    """A method, its per-device step and its first state."""

    def __init__(self, config, axis_name=None):
        schedules = make_schedules(config, STATS, steps_per_epoch=3)
        self.method = make_method(config, STATS, IMAGES.shape[1:], axis_name, schedules)
        tx = make_optimizer(config, schedules, aux_like=pass_like(self.method), axis_name=axis_name)
        policy = {"batch_stats_policy": config.sam.batch_stats, "axis_name": axis_name}
        self.step = make_train_step(self.method, tx, schedules.class_weights, **policy)
        self.state = jax.jit(lambda key: init_state(self.method, tx, key))(jax.random.key(0))

    def views(self, step, num_devices=1):
        """Return the batches of a step, a third of an epoch of 75 images: 32, 32 and 11."""
        augmentation = Augmentation("crop_flip", IMAGES.shape[1:], crop_padding=1)
        views = []
        for number, stream in enumerate(self.method.streams):
            for _ in stream.augmentations:
                view = {"class_share_C": stream.class_share_C, "stream": number, "view": len(views)}
                slots = slots_at(Order(3, LABELS, 32, num_devices, augmentation, **view), step)
                views += feeder.training_batches(IMAGES, LABELS, [slots], augmentation)
        return tuple(views)

    def variables(self):
        return Variables(self.state.params, self.state.batch_stats, self.state.method_state)

    def gradient(self, pass_name, extra_weights_C=None, step=0):
        """Return the gradient and the pass, of one device."""
        context = Context(jnp.asarray(step), pass_name, jnp.ones(len(COUNTS)), extra_weights_C)
        variables = self.variables()

        def one(variables, views):
            return make_gradient(self.method, self.method.prepare(variables, views, context.step), None)(
                variables, context
            )

        return jax.jit(one)(variables, self.views(step))


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@EVERY
def test_states_keep_their_shapes_and_move(name):
    built = Built(config_of(name))
    after, metrics = jax.jit(built.step)(built.state, built.views(0))
    assert shapes(after) == shapes(built.state)
    assert metrics.finite and metrics.ascent_norm > 0 and metrics.perturbed_loss != metrics.loss
    assert all(np.isfinite(value) for value in metrics.method.values()) and metrics.method
    still = [
        jax.tree_util.keystr(path)
        for (path, x), y in zip(
            jax.tree_util.tree_leaves_with_path(built.state.params), jax.tree.leaves(after.params), strict=True
        )
        if np.array_equal(x, y)
    ]
    assert not still  # every parameter is trained
    output = jax.jit(make_eval_step(built.method))(after.params, after.batch_stats, built.views(0)[0])
    assert output.predictions.shape == (32,) and np.all(output.finite)


@EVERY
def test_gradients_are_finite_whatever_a_batch_lacks(name, x64):
    """A batch of 11 images, one of one class, one image, none: padding counts nothing."""
    built = Built(config_of(name))
    step = jax.jit(built.step)
    views = built.views(2)
    of_rare = tuple(v._replace(mask=v.mask & (np.asarray(v.labels) == 0)) for v in views)
    single = tuple(v._replace(mask=v.mask & (np.arange(32) == 0)) for v in views)
    for batch in (views, of_rare, single):
        after, metrics = step(built.state, batch)
        assert metrics.finite
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(after) if x.dtype.kind == "f")
    garbage = tuple(v._replace(images=np.where(v.mask[:, None, None, None], v.images, 255)) for v in views)
    jax.tree.map(np.testing.assert_array_equal, step(built.state, garbage), step(built.state, views))


@EVERY
def test_one_device_equals_eight(name, x64):
    """Losses, weights, statistics and the method's own state, over an epoch with a ragged end and the next step."""
    config = config_of(name)
    one, eight = Built(config), Built(config, devices.AXIS)
    single, mapped = jax.jit(one.step), devices.map_step(eight.step, 1)
    state, other = one.state, eight.state
    for step in range(4):
        state, expected = single(state, one.views(step))
        other, metrics = devices.settle(mapped(other, devices.split(eight.views(step, 8))))
        assert_close(metrics, expected, 1e-10)
        for field in ("params", "batch_stats", "opt_state", "method_state"):
            assert_close(getattr(other, field), getattr(state, field), 1e-10)
    assert expected.finite


@EVERY
def test_rho_zero_trains_as_sgd(name, x64):
    results = []
    for fields in ({"sam.rho_knots": ((0, 0.0),), "sam.batch_stats": "first"}, {"sam.enabled": False}):
        built = Built(config_of(name, **{key.replace(".", "__"): value for key, value in fields.items()}))
        state, step = built.state, jax.jit(built.step)
        for number in range(3):
            state, _ = step(state, built.views(number))
        results.append((state.params, state.batch_stats, state.method_state))
    assert_close(*results, 1e-13)


@EVERY
@pytest.mark.parametrize("policy", ["first", "second", "both", "frozen"])
def test_running_statistics_follow_the_policy(name, policy, x64):
    built = Built(config_of(name, sam__batch_stats=policy, sam__rho_knots=((0, 0.3),)))
    start = built.state.batch_stats
    found = jax.jit(built.step)(built.state, built.views(0))[0].batch_stats
    first = built.gradient(ASCENT)[1].batch_stats
    if policy == "frozen":
        jax.tree.map(np.testing.assert_array_equal, found, start)
    elif policy == "first":
        assert_close(found, first, 1e-12)
    else:
        assert not np.allclose(found["bn1"]["mean"], first["bn1"]["mean"], rtol=1e-6)
        # Twice in a row moves further from where all began.
        moved, once = (abs(stats["bn1"]["mean"] - start["bn1"]["mean"]).sum() for stats in (found, first))
        assert (moved > 1.2 * once) == (policy == "both")


@EVERY
def test_gradients_of_groups_of_classes_add_up(name, x64):
    """The denominator stays the batch's; a group without images gives 0."""
    built = Built(config_of(name))
    whole, _ = built.gradient(DESCENT)
    head_C = jnp.array([1.0, 1.0, 0.0, 0.0, 0.0])
    parts = [built.gradient(DESCENT, weights_C)[0] for weights_C in (head_C, 1 - head_C)]
    assert_close(jax.tree.map(jnp.add, *parts), whole, 1e-12)
    nothing, _ = built.gradient(DESCENT, jnp.zeros(5))
    assert not any(np.any(x) for x in jax.tree.leaves(nothing))


@EVERY
def test_what_a_step_prepares_depends_on_seed_and_step_alone(name, x64):
    """So that a resumed step is the same; and nothing that it prepares is differentiated."""
    built = Built(config_of(name))
    prepare = jax.jit(built.method.prepare)
    again = [prepare(built.variables(), built.views(1), jnp.asarray(1)) for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *again)
    text = str(jax.make_jaxpr(built.step)(built.state, built.views(0)))
    assert "random_seed" not in text  # keys come from the state, none is made up on the way
