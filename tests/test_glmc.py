"""GLMC and GLMC + SAM: the authors' figures, the mixtures, the passes, one device and eight, a real run."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SHARED, shared_file
from small_runs import train
from test_devices import COUNTS, IMAGES, LABELS, assert_close, batch_of

from configs import default
from configs.methods import glmc_cifar, glmc_imagenet_lt, glmc_inat18
from saddle_jax.data.images import Batch
from saddle_jax.errors import ConfigError
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.catalogue import find
from saddle_jax.experiment.checks import problems_of
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats
from saddle_jax.methods import glmc
from saddle_jax.methods.base import ASCENT, DESCENT, Context, Variables
from saddle_jax.optim.chain import make_optimizer
from saddle_jax.report import rows
from saddle_jax.schedules import make_schedules
from saddle_jax.training import metrics, steps
from saddle_jax.training.gradient import make_gradient, pass_like
from saddle_jax.training.steps import init_state, make_train_step
from saddle_jax.weights import names

pytestmark = pytest.mark.usefixtures("compile_quickly")

STATS = ClassStats(COUNTS, ())
TERMS = ("balance", "rebalance", "contrast")


def build(config, axis_name=None, *, stats=STATS, image_shape=IMAGES.shape[1:], steps_per_epoch=3):
    """Return method, per-device step and initial state."""
    schedules = make_schedules(config, stats, steps_per_epoch)
    method = glmc.make(config, stats, image_shape, axis_name, schedules)
    tx = make_optimizer(config, schedules, stats, aux_like=pass_like(method), axis_name=axis_name)
    step = make_train_step(
        method,
        tx,
        schedules.class_weights,
        first_pass=ASCENT if find("optim.name", config.optim.name).ascends else DESCENT,
        batch_stats_policy=config.optim.batch_stats,
        micro_batches=config.micro_batches,
        axis_name=axis_name,
    )
    return method, step, devices.jit_once(lambda key: init_state(method, tx, key))(jax.random.key(0))


def small_config(**changes):
    config = default.get_config()
    config.update_from_flattened_dict(
        {"method": "glmc", "batch_size": 32, "duration": "4 epochs", "data.mean": (0.5,) * 3, "data.std": (0.5,) * 3}
        | {"model.name": "resnet8", "model.width": 0.25, "model.batch_norm": "synchronized"}
        | {"glmc.contrast": 2.0, "glmc.projection_dim": 8, "glmc.label_weight_power": 1.2, "optim.name": "sam"}
        | {key.replace("__", "."): value for key, value in changes.items()}
    )
    return config


def four_views(uniform_ids, resampled_ids, num_devices=1):
    """Return two views of each of two batches; the second ones are mirrored."""
    views = []
    for ids in (uniform_ids, resampled_ids):
        batch = batch_of(ids, num_devices)
        views += [batch, batch._replace(images=batch.images[:, :, ::-1])]
    return tuple(views)


@pytest.fixture(scope="module")
def golden():
    with np.load(shared_file("golden/glmc_tiny.npz")) as store:
        return dict(store)


class Published:
    """The authors' step, as ours: method, step, state and views."""

    def __init__(self, golden, monkeypatch):
        self.config = small_config(
            batch_size=8,
            duration="200 epochs",
            data__mean=(0.0,) * 3,
            data__std=(1 / 255,) * 3,  # so that normalizing changes nothing
            model__width=2.0,
            glmc__contrast=float(golden["step/contrast_weight"]),
            glmc__projection_dim=128,
            optim__lr=((0, 0.01),),
            optim__weight_decay=5e-3,
            sam__rho=((0, float(golden["step/rho"])),),
        )
        self.stats = ClassStats(golden["counts"], ())
        mixture = glmc.Mixture(jnp.asarray(golden["mix/lam"]), jnp.asarray(golden["mix/box_h1_w1_h2_w2"]))
        monkeypatch.setattr(glmc, "draw_mixture", lambda *_: mixture)
        self.method, self.step, state = build(self.config, stats=self.stats, image_shape=(32, 32, 3), steps_per_epoch=1)
        init = {key.removeprefix("init/"): value for key, value in golden.items() if key.startswith("init/")}
        params, model_state = names.convert(init, state.params, state.model_state)
        self.state = state._replace(
            step=jnp.asarray(golden["step/epoch"], jnp.int32), params=params, model_state=model_state
        )
        labels = {"org": golden["in/labels_org"], "invs": golden["in/labels_invs"]}
        self.views = tuple(
            batch_like(golden[f"in/{stream}{view}"], labels[stream]) for stream in labels for view in (1, 2)
        )


def batch_like(images_nchw, labels):
    images, size = images_nchw.transpose(0, 2, 3, 1).astype(np.float64), len(labels)
    labels, ids = labels.astype(np.int32), np.arange(size, dtype=np.int32)
    return Batch(images, labels, np.ones(size, bool), ids, np.zeros((size, 3), np.int32))


@pytest.fixture
def published(golden, monkeypatch, x64):
    return Published(golden, monkeypatch)


def test_mixed_images_and_targets_are_the_published_ones(golden, published):
    start = Variables(published.state.params, published.state.model_state, published.state.method_state)
    inputs = jax.jit(published.method.prepare)(start, published.views, published.state.step)
    weights = glmc.label_weights(published.stats, float(golden["label_weighting"]))
    np.testing.assert_allclose(weights, golden["class_weights"], rtol=1e-12)
    for name in ("mixup", "cutmix"):
        images = golden[f"mix/{name}_images"].transpose(0, 2, 3, 1)  # float32
        np.testing.assert_allclose(getattr(inputs, f"{name}_BHWK"), images, atol=3e-7)
        targets = getattr(inputs, f"{name}_targets_BC")
        np.testing.assert_allclose(targets, golden[f"mix/{name}_targets"], rtol=1e-12)
        np.testing.assert_allclose(weights * targets, golden[f"mix/{name}_targets_weighted"], rtol=1e-12)


def test_a_sam_step_is_the_published_one(golden, published, monkeypatch):
    traced = {}

    def make_recording_gradient(*arguments):
        gradient = make_gradient(*arguments)

        def record(variables, context):
            grads, found = gradient(variables, context)
            traced[context.pass_name] = found
            return grads, found

        return record

    monkeypatch.setattr(steps, "make_gradient", make_recording_gradient)
    jax.config.update("jax_disable_most_optimizations", False)  # wide layers: slow code takes longer than compiling

    @jax.jit
    def step_and_passes(state, views):  # as arguments: XLA would compute with constants while it compiles
        return published.step(state, views)[0], traced

    state, passes = step_and_passes(published.state, published.views)
    for name, found in (("first", passes[ASCENT]), ("second", passes[DESCENT])):
        # What is minimised has the contrastive term in both passes; the ascent's own loss shows in the weights below.
        left_out = golden["step/contrast_weight"] * golden["step/first/contrast"] if name == "first" else 0
        np.testing.assert_allclose(found.loss, golden[f"step/{name}/loss"] + left_out, rtol=1e-9)
        for term in TERMS:
            np.testing.assert_allclose(found.metrics[term], golden[f"step/{name}/{term}"], rtol=1e-9)
    after = {key.removeprefix("step/after/"): value for key, value in golden.items() if key.startswith("step/after/")}
    for name, expected in after.items():
        collection, *path = names.our_path(name, expected.ndim)
        found = {"params": state.params, **state.model_state}[collection]
        for part in path:
            found = found[part]
        layout = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[expected.ndim]
        np.testing.assert_allclose(found, expected.transpose(layout), rtol=1e-9, atol=1e-11, err_msg=name)
    logits = jax.jit(published.method.predict)(state.params, state.model_state, published.views[0])
    np.testing.assert_allclose(logits, golden["step/logits_eval_after"], rtol=1e-9, atol=1e-10)


def test_mixing_of_whole_pairs_only():
    views = four_views(range(8), range(40, 48))
    views = tuple(view._replace(images=view.images.astype(np.float32)) for view in views)
    hidden = views[3]._replace(mask=views[3].mask & (np.arange(32) != 5))
    mixture = glmc.Mixture(jnp.float32(0.25), jnp.array([1, 0, 5, 8]))
    inputs = glmc.mix((*views[:3], hidden), mixture, 5, area_corrected=True)
    np.testing.assert_array_equal(inputs.mask_B, (np.arange(32) < 8) & (np.arange(32) != 5))
    np.testing.assert_array_equal(inputs.cutmix_BHWK[:, 1:5], views[3].images[:, 1:5])
    np.testing.assert_array_equal(inputs.cutmix_BHWK[:, :1], views[1].images[:, :1])
    np.testing.assert_array_equal(inputs.cutmix_BHWK[:, 5:], views[1].images[:, 5:])
    np.testing.assert_allclose(inputs.mixup_BHWK, 0.25 * views[0].images + 0.75 * views[2].images, rtol=1e-6)
    one, other = LABELS[0], LABELS[40]
    assert one != other
    np.testing.assert_allclose(inputs.mixup_targets_BC[0, [one, other]], [0.25, 0.75])
    np.testing.assert_allclose(inputs.cutmix_targets_BC[0, [one, other]], [0.5, 0.5])  # 4 of 8 rows are pasted
    inputs = glmc.mix(views, mixture, 5, area_corrected=False)
    np.testing.assert_array_equal(inputs.cutmix_targets_BC, inputs.mixup_targets_BC)


def test_boxes_are_distributed_as_published():
    keys = jax.random.split(jax.random.key(0), 20_000)
    lam_N, box_Nx4 = jax.device_get(jax.vmap(lambda key: glmc.draw_mixture(key, 32, 48, 1.0))(keys))
    random = np.random.default_rng(0)
    expected = []
    for lam in random.beta(1.0, 1.0, len(keys)):
        for side in (32, 48):
            half, center = int(np.ceil(side * np.sqrt(1 - lam))) // 2, random.integers(side)
            expected.append((np.clip(center - half, 0, side), np.clip(center + half, 0, side)))
    expected_Nx2x2 = np.array(expected).reshape(-1, 2, 2)
    found_Nx2x2 = box_Nx4.reshape(-1, 2, 2).swapaxes(1, 2)
    assert abs(lam_N.mean() - 0.5) < 0.01
    assert abs(np.quantile(lam_N, 0.1) - 0.1) < 0.01
    for axis, side in enumerate((32, 48)):
        for of in (lambda x: x[:, 0], lambda x: x[:, 1], lambda x: x[:, 1] - x[:, 0]):
            found, wanted = of(found_Nx2x2[:, axis]) / side, of(expected_Nx2x2[:, axis]) / side
            levels = np.linspace(0, 1, 12)
            cumulative = [(x[:, None] <= levels).mean(0) for x in (found, wanted)]
            np.testing.assert_allclose(*cumulative, atol=0.02)  # Kolmogorov-Smirnov: 0.0195 once in a thousand
    sides = found_Nx2x2[:, :, 1] - found_Nx2x2[:, :, 0]
    largest = 2 * (np.ceil(np.array([32, 48]) * np.sqrt(1 - lam_N[:, None])) // 2)
    assert (sides <= largest).all()
    inside = (found_Nx2x2[:, :, 0] > 0) & (found_Nx2x2[:, :, 1] < [32, 48])
    assert inside.any()
    np.testing.assert_array_equal(sides[inside], largest[inside])


def test_mixtures_are_a_function_of_seed_and_step():
    config = small_config()
    method = glmc.make(config, STATS, IMAGES.shape[1:], None, make_schedules(config, STATS, steps_per_epoch=3))
    views = four_views(range(32), range(40, 72))

    @jax.jit
    def prepare(step, key):
        return method.prepare(Variables((), (), key), views, step).mixup_BHWK

    key, other = (jax.random.key_data(jax.random.key(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(prepare(7, key), prepare(7, key))
    assert not np.allclose(prepare(7, key), prepare(8, key))
    assert not np.allclose(prepare(7, key), prepare(7, other))


def test_shares_and_label_weights():
    stats = ClassStats(np.array([100, 0, 25, 4]), ())
    np.testing.assert_allclose(glmc.resampling_share(stats, 0.0), np.array([100, 0, 25, 4]) / 129)
    np.testing.assert_allclose(glmc.resampling_share(stats, 0.5), np.array([10, 0, 5, 2]) / 17)
    np.testing.assert_allclose(glmc.resampling_share(stats, 1.0), [1 / 3, 0, 1 / 3, 1 / 3])
    np.testing.assert_allclose(glmc.label_weights(stats, 0.5), np.array([0.1, 0, 0.2, 0.5]) / 0.8 * 4)


def test_the_weight_moves_from_the_plain_to_the_balanced_classifier():
    schedules = make_schedules(small_config(duration="10 epochs"), STATS, steps_per_epoch=7)
    found = [float(glmc.balance_weight(jnp.int32(step), schedules)) for step in (0, 6, 7, 13, 69)]
    np.testing.assert_allclose(found, [1, 1, 1 - 0.01, 1 - 0.01, 1 - 0.81], rtol=1e-6)


def loss_of(config):
    """Return (pass name, extra weights) -> the loss's output at the initial parameters, and the heads' gradients."""
    method, _, state = build(config)
    variables = Variables(state.params, state.model_state, state.method_state)
    ids = np.random.default_rng(3).permutation(len(LABELS))
    inputs = method.prepare(variables, four_views(ids[:24], ids[-24:]), jnp.int32(4))

    @functools.partial(jax.jit, static_argnums=0)
    def loss(pass_name, extra_weights_C):
        def of_heads(heads):
            context = Context(jnp.int32(4), pass_name, jnp.ones(5), extra_weights_C)
            output = method.loss(variables._replace(params=variables.params | heads), inputs, context)
            return output.numerator / output.denominator, output

        heads = {name: state.params[name] for name in ("projector", "predictor")}
        grads, output = jax.grad(of_heads, has_aux=True)(heads)
        return output, grads

    return loss


def test_contrast_in_the_ascent_changes_the_ascent_only(x64):
    without, with_it = loss_of(small_config()), loss_of(small_config(glmc__contrast_in_ascent=True))
    assert_close(with_it(DESCENT, None), without(DESCENT, None), 1e-13)
    assert_close(with_it(ASCENT, None), with_it(DESCENT, None), 1e-13)
    (ascent, grads), (descent, more_grads) = without(ASCENT, None), without(DESCENT, None)
    assert_close(ascent.metrics, descent.metrics, 1e-13)
    np.testing.assert_allclose(ascent.numerator + 2.0 * ascent.metrics["contrast"], descent.numerator, rtol=1e-12)
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf, 0)  # the perturbation leaves these heads where they are
    assert np.abs(more_grads["projector"]["kernel"]).max() > 0


def test_features_of_zero_have_no_direction_and_no_gradient():
    def contrast(p, z):
        outputs = glmc.Outputs(jnp.zeros((2, 5)), jnp.zeros((2, 5)), z, p)
        targets = jnp.ones((2, 5)) / 5
        inputs = glmc.Inputs(None, None, targets, targets, jnp.ones(2, bool))
        return glmc.loss_terms(outputs, outputs, inputs, np.ones(5)).contrast.sum()

    some, none = jnp.array([[3.0, 4.0], [0.0, 2.0]]), jnp.zeros((2, 2))
    assert contrast(some, some) == pytest.approx(-4)
    for p, z in ((none, some), (some, none), (none, none)):
        assert contrast(p, z) == 0
        for gradient in jax.grad(contrast, argnums=(0, 1))(p, z):
            np.testing.assert_array_equal(gradient, 0)
    np.testing.assert_array_equal(jax.grad(contrast, argnums=1)(some, some[:, ::-1]), 0)  # a projection is a target


@pytest.mark.nightly
def test_micro_batches_are_mixed_alike_and_add_up(x64):
    # Two equal halves: BatchNorm normalizes each as it does the whole.
    views = four_views(np.arange(32), np.arange(32, 64))
    twice = tuple(jax.tree.map(lambda x: np.repeat(x[:16], 2, axis=0), view) for view in views)
    results = []
    for micro_batches in (1, 2):
        _, step, start = build(small_config(optim__name="sgd", micro_batches=micro_batches))
        after, found = jax.jit(step)(start, twice)
        results.append((after.params, found))
    assert_close(*results, 1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss__name": "focal"}, "loss.name='focal' does not go with method='glmc'"),
        ({"loss__class_weights": "drw"}, "Fix: --config.loss.class_weights=none"),
        ({"loss__name": "ldam", "model__head": "normed"}, "Fix: --config.model.head=linear"),
        ({"data__sampling": "balanced"}, "Fix: --config.data.sampling=instance"),
        ({"glmc__projection_dim": 0}, "glmc.projection_dim: found 0, expected 1 or more"),
        ({"glmc__beta": 0.0}, "glmc.beta: found 0.0, expected more than 0"),
    ],
)
def test_what_has_no_meaning_is_refused(changes, message):
    assert problems_of(small_config(), default.get_config()) == []
    assert any(message in problem for problem in problems_of(small_config(**changes), default.get_config()))


def test_the_configs_are_the_published_settings():
    def settings(argument):
        config = glmc_cifar.get_config(argument)
        assert problems_of(config, default.get_config()) == [], argument
        assert (config.optim.name == "sam") == ("_sam" in argument or "glmc" not in argument)
        glmc_fields = config.glmc
        return glmc_fields.resample_power, glmc_fields.label_weight_power, glmc_fields.contrast

    for data, ratios in glmc_cifar.AUTHORS.items():
        for ratio, published in ratios.items():
            for method in ("glmc", "glmc_sam"):  # the same, for a fair comparison
                assert settings(f"{method},data={data},ratio={ratio}") == published
    assert settings("data=cifar100,ratio=20") == glmc_cifar.AUTHORS["cifar100"][10]
    assert settings("data=cifar10,ratio=5") == glmc_cifar.AUTHORS["cifar10"][10]
    assert settings("glmc_published,data=cifar10") == (0, 1.2, 4)
    assert settings("glmc_sam_published,data=cifar10") == (0, 1.2, 1)
    assert settings("glmc_sam_published,data=cifar100,ratio=50") == (0, 1.2, 4)
    wide = glmc_cifar.get_config("net=wide_resnet32,smoke,glmc")
    assert problems_of(wide, default.get_config()) == []
    assert (wide.name, wide.glmc.projection_dim) == ("cifar10_lt-wide_resnet32-smoke-glmc-exp100", 128)
    with pytest.raises(ConfigError, match=r"unknown 'net=resnet32'. Did you mean net=wide_resnet32"):
        glmc_cifar.get_config("net=resnet32")


@pytest.mark.parametrize("module", [glmc_imagenet_lt, glmc_inat18])
def test_large_configs_warm_up_and_cool_down(module):
    config = module.get_config("glmc_sam")
    epochs = int(config.duration.split()[0])
    lr = make_schedules(config, STATS, steps_per_epoch=7).lr
    found = [float(lr(7 * epoch)) for epoch in range(epochs)]
    np.testing.assert_allclose(found[:11], [*(np.arange(1, 11) / 100), 0.1], rtol=1e-5)
    cosine = 0.05 * (1 + np.cos(np.pi * np.arange(epochs - 10) / (epochs - 10)))
    np.testing.assert_allclose(found[10:], cosine, rtol=1e-4, atol=1e-8)
    assert problems_of(module.get_config("smoke"), default.get_config()) == []


def test_rows_of_a_report_are_named_after_the_method():
    configs = [config_lib.flatten(glmc_cifar.get_config(method)) for method in ("glmc", "glmc_sam")]
    assert rows._names(configs) == ["GLMC", "GLMC + SAM"]
    configs.append(configs[1] | {"glmc.contrast_in_ascent": True})
    assert rows._names(configs)[1:] == ["GLMC + SAM, contrast_in_ascent=False", "GLMC + SAM, contrast_in_ascent=True"]


@pytest.mark.slow
@pytest.mark.nightly
def test_the_loss_falls_on_real_cifar10(tmp_path):
    store = tmp_path / "lt.npz"
    shared_file("data/cifar10_lt.npz")
    subprocess.run([sys.executable, SHARED / "data/unpack.py", "cifar10", "--ratio", "100", "--out", store], check=True)
    config = glmc_cifar.get_config("glmc_sam,data=cifar10,ratio=100")
    config.update_from_flattened_dict(
        {"data.source": "arrays", "data.path": str(store), "data.profile": "as_is"}
        | {"model.name": "resnet8", "model.width": 0.5, "optim.lr": ((0, 0.02),), "tensorboard": False}
        | {"duration": "60 steps", "log_every": "15 steps", "eval.every": "100%", "checkpoint_every": "100%"}
    )
    results = train(config, tmp_path / "run")
    records = [r for r in metrics.read(tmp_path / "run") if "train/balance" in r]
    for term in TERMS:
        assert records[-1][f"train/{term}"] < records[0][f"train/{term}"], term
    assert results["last"]["images"] == 10_000
