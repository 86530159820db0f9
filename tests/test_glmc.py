"""GLMC and GLMC + SAM: the authors' figures, the mixtures, the passes, one device and eight, a real run."""

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
from saddle_jax import devices
from saddle_jax.data.images import Batch
from saddle_jax.errors import ConfigError
from saddle_jax.longtail import ClassStats
from saddle_jax.methods import glmc
from saddle_jax.methods.base import ASCENT, DESCENT, Context, Variables
from saddle_jax.optim.chain import make_optimizer
from saddle_jax.optim.sam import perturbation
from saddle_jax.pytorch import names
from saddle_jax.schedules import make_schedules
from saddle_jax.train import metrics
from saddle_jax.train.gradient import make_gradient, pass_like
from saddle_jax.train.steps import init_state, make_train_step
from saddle_jax.validation import problems_of

STATS = ClassStats(COUNTS, ())
TERMS = ("balance", "rebalance", "contrast")


def build(config, axis_name=None, *, stats=STATS, image_shape=IMAGES.shape[1:], steps_per_epoch=3):
    """Return method, per-device step and initial state."""
    schedules = make_schedules(config, stats, steps_per_epoch)
    method = glmc.make(config, stats, image_shape, axis_name, schedules)
    tx = make_optimizer(config, schedules, aux_like=pass_like(method), axis_name=axis_name)
    step = make_train_step(
        method,
        tx,
        schedules.class_weights,
        batch_stats_policy=config.sam.batch_stats,
        micro_batches=config.micro_batches,
        axis_name=axis_name,
    )
    return method, step, init_state(method, tx, jax.random.key(0))


def small_config(**changes):
    config = default.get_config()
    config.update_from_flattened_dict(
        {"method": "glmc", "batch_size": 32, "duration": "4 epochs", "data.mean": (0.5,) * 3, "data.std": (0.5,) * 3}
        | {"model.name": "resnet8", "model.width": 0.25, "model.batch_norm": "synchronized"}
        | {"glmc.contrast": 2.0, "glmc.projection_dim": 8, "glmc.label_weight_power": 1.2, "sam.enabled": True}
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
            data__std=(1 / 255,) * 3,  # so that normalising changes nothing
            model__width=2.0,
            glmc__contrast=float(golden["step/contrast_weight"]),
            glmc__projection_dim=128,
            optim__lr_knots=((0, 0.01),),
            optim__weight_decay=5e-3,
            sam__rho_knots=((0, float(golden["step/rho"])),),
        )
        self.stats = ClassStats(golden["counts"], ())
        mixture = glmc.Mixture(jnp.asarray(golden["mix/lam"]), jnp.asarray(golden["mix/box_h1_w1_h2_w2"]))
        monkeypatch.setattr(glmc, "draw_mixture", lambda *_: mixture)
        self.method, self.step, state = build(
            self.config, stats=self.stats, image_shape=(32, 32, 3), steps_per_epoch=1
        )
        init = {key.removeprefix("init/"): value for key, value in golden.items() if key.startswith("init/")}
        params, batch_stats = names.convert(init, state.params, state.batch_stats)
        self.state = state._replace(
            step=jnp.asarray(golden["step/epoch"], jnp.int32), params=params, batch_stats=batch_stats
        )
        labels = {"org": golden["in/labels_org"], "invs": golden["in/labels_invs"]}
        self.views = tuple(
            batch_like(golden[f"in/{stream}{view}"], labels[stream]) for stream in labels for view in (1, 2)
        )

    def passes(self):
        """Return inputs, and both passes of SAM at the perturbed and the original parameters."""
        start = Variables(self.state.params, self.state.batch_stats, self.state.method_state)
        inputs = self.method.prepare(start, self.views, self.state.step)
        gradient = make_gradient(self.method, inputs, None)
        context = Context(self.state.step, ASCENT, jnp.ones(10))
        grads, first = gradient(start, context)
        shift, _ = perturbation(grads, start.params, self.config.sam.rho_knots[0][1])
        shifted = Variables(jax.tree.map(jnp.add, start.params, shift), first.batch_stats, start.method_state)
        _, second = gradient(shifted, context._replace(pass_name=DESCENT))
        return inputs, first, second


def batch_like(images_nchw, labels):
    images, size = images_nchw.transpose(0, 2, 3, 1).astype(np.float64), len(labels)
    labels, ids = labels.astype(np.int32), np.arange(size, dtype=np.int32)
    return Batch(images, labels, np.ones(size, bool), ids, np.zeros((size, 3), np.int32))


@pytest.fixture
def published(golden, monkeypatch, x64):
    return Published(golden, monkeypatch)


def test_mixed_images_and_targets_are_the_published_ones(golden, published):
    inputs, first, second = jax.jit(published.passes)()
    for name in ("mixup", "cutmix"):
        images = golden[f"mix/{name}_images"].transpose(0, 2, 3, 1)  # float32
        np.testing.assert_allclose(getattr(inputs, f"{name}_BHWK"), images, atol=3e-7)
        targets = getattr(inputs, f"{name}_targets_BC")
        np.testing.assert_allclose(targets, golden[f"mix/{name}_targets"], rtol=1e-7)
        weights = glmc.label_weights(published.stats, float(golden["label_weighting"]))
        np.testing.assert_allclose(weights, golden["class_weights"], rtol=1e-12)
        np.testing.assert_allclose(weights * targets, golden[f"mix/{name}_targets_weighted"], rtol=1e-7)
    for name, found in (("first", first), ("second", second)):
        for term in TERMS:
            np.testing.assert_allclose(found.metrics[term], golden[f"step/{name}/{term}"], rtol=1e-9)
        np.testing.assert_allclose(found.loss, golden[f"step/{name}/loss"], rtol=1e-9)
