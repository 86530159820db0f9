"""The contract of networks, shown by two that no catalogue has: a transformer with dropout, and functions by hand."""

import functools
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_methods
from small_runs import METHODS, small_config
from test_devices import IMAGES, assert_close
from test_link_runs import Built, config_of

from configs.recipes import LINKS
from saddle_jax.data import sources
from saddle_jax.data.order import deal
from saddle_jax.host import devices
from saddle_jax.models import heads, networks
from saddle_jax.models.base import Network, from_flax
from saddle_jax.spectra import results
from saddle_jax.spectra.spectrometer import Spectrometer
from saddle_jax.training import checkpoint, loop
from saddle_jax.training.gradient import pass_like
from saddle_jax.training.program import make_program
from saddle_jax.training.steps import make_train_step
from saddle_jax.weights import names

pytestmark = pytest.mark.usefixtures("compile_quickly")


def waves(key, shape, dtype=jnp.float32):
    """Return initial weights without a draw, which takes long to compile."""
    del key
    return 0.5 * jnp.sin(1.0 + jnp.arange(np.prod(shape), dtype=dtype)).reshape(shape)


class Transformer(nn.Module):
    """Patches of 4 x 4 pixels, blocks of attention and two layers, the mean over the patches."""

    dropout: float
    blocks: int
    width: int = 4

    @nn.compact
    def __call__(self, images_BHWK, *, deterministic):
        dtype = jnp.result_type(float)
        fields = {"kernel_init": waves, "use_bias": False, "param_dtype": dtype}
        dense = functools.partial(nn.Dense, self.width, **fields)
        norm = functools.partial(nn.LayerNorm, use_bias=False, use_scale=False)
        rows_BHPWPK = images_BHWK.reshape(len(images_BHWK), images_BHWK.shape[1] // 4, 4, -1, 4, images_BHWK.shape[3])
        x_BTD = dense()(rows_BHPWPK.swapaxes(2, 3).reshape(len(images_BHWK), -1, 16 * images_BHWK.shape[3]))
        x_BTD += self.param("position", nn.initializers.normal(0.02), x_BTD.shape[1:], dtype)
        for _ in range(self.blocks):
            x_BTD += nn.MultiHeadDotProductAttention(1, **fields)(norm()(x_BTD))
            y_BTD = nn.gelu(dense()(norm()(x_BTD)))
            x_BTD += dense()(nn.Dropout(self.dropout)(y_BTD, deterministic=deterministic))
        return x_BTD.mean(1)


def transformer(model, num_classes, axis_name, dropout=0.5, blocks=1):
    del model, axis_name
    return from_flax(Transformer(dropout, blocks), heads.Linear(num_classes, waves))


@pytest.fixture
def named(monkeypatch):
    """Let the config name another network."""
    return lambda builder: monkeypatch.setattr(networks, "make_network", builder)


def differ(one, other):
    return not all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


KINDS = ("sam", "lpf_sgd", "imbsam", "sse_sam", "cc_sam")  # of links: what they draw, and the passes that they make


@pytest.mark.parametrize(
    "link", [pytest.param(link, marks=() if link in KINDS else pytest.mark.nightly) for link in LINKS]
)
def test_every_link_trains_it(link, named):
    named(transformer)
    built = Built(config_of(link, "ce"), None)
    end, metrics = built.run(built.state, 0, 4)
    assert end.model_state == {}
    assert end.finite and all(m.finite for m in metrics)
    assert all(map(differ, jax.tree.leaves(end.params), jax.tree.leaves(built.state.params)))
    if link != "sam":
        return
    assert "random_seed" not in str(jax.make_jaxpr(built.step)(built.state, (built.batches[0],)))
    _, (again,) = built.run(built.state, 0, 1)
    changes = {"key": jax.random.key_data(jax.random.key(9)), "step": np.int32(1)}
    others = [built.run(built.state._replace(**{name: value}), 0, 1)[1][0] for name, value in changes.items()]
    assert again.loss == metrics[0].loss
    assert len({float(m.loss) for m in (again, *others)}) == 3  # of one batch at the same weights


def test_several_seeds_at_once_equal_each_alone(named, x64):
    named(transformer)
    built = Built(config_of("sam", "ce"), None)
    state, other = (built.init(jax.random.key(seed)) for seed in (0, 1))
    states = (state, state._replace(key=other.key), other)
    step = jax.jit(jax.vmap(built.step, in_axes=(0, None)))
    together, _ = step(jax.tree.map(lambda *x: jnp.stack(x), *states), (built.batches[0],))
    for index, start in enumerate(states):
        alone, _ = built.run(start, 0, 1)
        assert_close(jax.tree.map(lambda x, k=index: x[k], together), alone, 1e-10)
    assert differ(*(jax.tree.map(lambda x, k=k: x[k], together.params) for k in (0, 1)))


def recorder(model, num_classes, axis_name):
    """Functions by hand, without Flax: a linear classifier whose state keeps what was drawn in the last two passes."""
    del model, axis_name

    def init(key, image_shape):
        zero = jnp.zeros(())
        weights = 0.01 * jax.random.normal(key, (int(np.prod(image_shape)), num_classes))
        return {"w": weights}, {"draw": zero, "square": zero, "before": zero, "passes": jnp.zeros((), jnp.int32)}

    def features(params, state, images_BHWK, mask_B, *, train, key=None):
        del params, mask_B
        features_BD = images_BHWK.reshape(len(images_BHWK), -1)
        if not train:
            return features_BD, state
        draw = jax.random.uniform(key)
        new = {"draw": draw, "square": draw**2, "before": state["draw"], "passes": state["passes"] + 1}
        return features_BD, new

    def is_classifier(params):
        return jax.tree.map(lambda _: True, params)

    return Network(init, features, lambda params, features_BD: features_BD @ params["w"], is_classifier)


def test_draws_are_those_of_the_step_the_device_and_the_micro_batch(named):
    named(recorder)
    built = Built(config_of("sam", "ce"), None)
    first, second = built.run(built.state, 0, 1)[0], built.run(built.state, 0, 2)[0]
    assert first.model_state["draw"] == first.model_state["before"] > 0  # SAM compares one network at two points
    assert second.model_state["draw"] != first.model_state["draw"]
    assert second.model_state["passes"] == 4

    eight = Built(config_of("sam", "ce"), devices.AXIS)
    state = eight.run(eight.state, 0, 1)[0].model_state  # means over the devices
    np.testing.assert_allclose(state["draw"], state["before"], rtol=1e-6)
    assert state["square"] - state["draw"] ** 2 > 0.01
    assert state["passes"] == 2 and state["passes"].dtype == np.int32

    config = config_of("sgd", "ce")
    method = test_methods.make_method(config, test_methods.STATS, IMAGES.shape[1:], None, None)
    schedules = test_methods.make_schedules(config, test_methods.STATS, 3)
    tx = test_methods.make_optimizer(config, schedules, test_methods.STATS, aux_like=pass_like(method))
    step = make_train_step(method, tx, lambda _: jnp.ones(5), micro_batches=2)
    start = jax.jit(lambda key: test_methods.init_state(method, tx, key))(jax.random.key(0))
    state = jax.jit(step)(start, (built.batches[0],))[0].model_state
    assert 0 < state["before"] != state["draw"] > 0


@pytest.mark.parametrize("name", [name for name in METHODS if name != "retrain"])
def test_one_device_equals_eight_with_every_method(name, named, x64):
    named(functools.partial(transformer, dropout=0.0))
    one, eight = (test_methods.Built(test_methods.config_of(name), axis) for axis in (None, devices.AXIS))
    batch, parts = (
        test_methods.masked(built.views(0, count), deal(0, 21, 32, count)[1]) for built, count in ((one, 1), (eight, 8))
    )
    state, expected = one.step(one.state, batch)
    other, metrics = devices.settle(eight.step(eight.state, devices.split(parts)))
    assert expected.finite
    assert_close((metrics, other._replace(key=())), (expected, state._replace(key=())), 1e-10)

    named(transformer)  # with dropout, both are traced
    for axis in (None, devices.AXIS):
        built = test_methods.Built(test_methods.config_of(name), axis)
        views = built.views(0) if axis is None else devices.split(built.views(0, 8))
        after, _ = jax.eval_shape(built.step, built.state, views)
        assert test_methods.shapes(after) == test_methods.shapes(built.state)


def test_a_run_resumes_to_the_bit_is_measured_and_retrained(named, tmp_path):
    named(functools.partial(transformer, blocks=2))
    config = small_config("ce", optim__name="sam", duration="8 steps", eval__every="8 steps")
    config.spectra.update(steps=3, probes=1, escape_batches=1)
    splits = sources.load(config)
    program = make_program(config, splits)
    whole, part = tmp_path / "whole", tmp_path / "part"
    loop.train(config, whole, splits, program, ["test"], quiet=True)

    shutil.copytree(whole, part)
    shutil.rmtree(part / "checkpoints/8")
    loop.train(config, part, splits, program, ["test"], quiet=True)
    like = jax.eval_shape(lambda: program.init(config.seed))
    end, resumed = (checkpoint.restore(checkpoint.find(run / "checkpoints"), like) for run in (whole, part))
    assert end.step == 8
    jax.tree.map(np.testing.assert_array_equal, resumed, end)

    Spectrometer(config, splits).measure(end, whole, quiet=True)
    assert json.loads((results.folder_at(whole, 8) / "summary.json").read_text())["targets"]

    second = small_config("ce", data__sampling="balanced", start_from=str(whole), duration="4 steps")
    second.method, second.eval.every = "retrain", "4 steps"
    retraining = make_program(second, splits)
    loop.train(second, tmp_path / "second", splits, retraining, ["test"], quiet=True)
    after = checkpoint.restore(
        checkpoint.find(tmp_path / "second/checkpoints"), jax.eval_shape(lambda: retraining.init(0))
    )
    is_classifier = transformer(None, 10, None).is_classifier(end.params)
    assert jax.tree.map(differ, after.params, end.params) == is_classifier


def init_of(backbone, head=None, **fields):
    network = from_flax(backbone, nn.Dense(3) if head is None else head, **fields)
    return network, *jax.jit(lambda key: network.init(key, (4, 4, 3)))(jax.random.key(0))


class Pooled(nn.Module):
    """A module of somebody else, with flax.linen's BatchNorm and noise of its own."""

    linear_name: str = "body"

    @nn.compact
    def __call__(self, images, mode="eval"):
        x = nn.Dense(5, name=self.linear_name)(images.mean((1, 2)))
        x = nn.BatchNorm(use_running_average=mode == "eval")(x)
        return x + jax.random.normal(self.make_rng("noise"), x.shape) if mode == "train" else x


def test_any_flax_module_is_wrapped():
    def call(module, images, mask, train):
        del mask
        return module(images, mode="train" if train else "eval")

    network, params, state = init_of(Pooled(), call=call, rng_names=("noise",))
    assert params.keys() == {"body", "BatchNorm_0", "linear"}
    assert network.backbone_params(params).keys() == {"body", "BatchNorm_0"}
    assert network.is_classifier({"w": {"b": 0}, **params})["w"] == {"b": False}
    images, mask = jnp.ones((2, 4, 4, 3)), jnp.ones(2, bool)
    draws = []
    for seed in (0, 0, 1):
        features, moved = network.features(params, state, images, mask, train=True, key=jax.random.key(seed))
        draws.append(features)
    assert differ(moved, state) and jax.tree.structure(moved) == jax.tree.structure(state)
    assert not differ(*draws[:2]) and differ(*draws[1:])
    logits, same = network.logits(params, state, images, mask, train=False)
    assert logits.shape == (2, 3) and not differ(same, state)


class Spatial(nn.Module):
    def __call__(self, images, train):
        del train
        return images


class Unknown(nn.Module):
    def __call__(self, images, mode):
        del mode
        return images


def test_what_cannot_be_wrapped_is_told():
    with pytest.raises(ValueError, match=r"Unknown.__call__: found the argument mode, expected some of mask_B, train"):
        from_flax(Unknown(), nn.Dense(3))
    with pytest.raises(ValueError, match=r"Spatial: found features of shape \(1, 4, 4, 3\), expected \(images, feat"):
        init_of(Spatial())
    with pytest.raises(ValueError, match="the network has parameters named linear"):
        init_of(Pooled("linear"))
    with pytest.raises(ValueError, match="BatchNorm: the head keeps batch_stats"):
        init_of(Pooled(), nn.BatchNorm(use_running_average=True))


def test_weights_without_a_state_are_imported():
    params = {"linear": {"kernel": np.zeros((2, 3), np.float32), "bias": np.zeros(3, np.float32)}}
    tensors = {"linear.weight": np.arange(6, dtype=np.float32).reshape(3, 2), "linear.bias": np.ones(3, np.float32)}
    found, model_state = names.convert(tensors, params, {})
    np.testing.assert_array_equal(found["linear"]["kernel"], tensors["linear.weight"].T)
    assert model_state == {}
