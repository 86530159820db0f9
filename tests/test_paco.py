"""PaCo and PaCo with SAM: the loss to the authors' figures, the queue, the key encoder, one device and eight."""

import functools
import subprocess
import sys

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN, SHARED, shared_file
from small_runs import train
from test_devices import COUNTS, IMAGES, LABELS, assert_close, batch_of

from configs import default, imagenet_lt
from configs.methods import paco_cifar100, paco_imagenet_lt
from saddle_jax.data.sources import Images, Splits
from saddle_jax.experiment.catalogue import find
from saddle_jax.experiment.checks import problems_of
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats
from saddle_jax.losses import cross_entropy
from saddle_jax.methods import paco
from saddle_jax.methods.base import ASCENT, DESCENT, Context, Variables
from saddle_jax.optim.chain import make_optimizer
from saddle_jax.schedules import make_schedules
from saddle_jax.training import metrics
from saddle_jax.training.feed import Feed
from saddle_jax.training.gradient import pass_like
from saddle_jax.training.program import make_program
from saddle_jax.training.steps import init_state, make_train_step

pytestmark = pytest.mark.usefixtures("compile_quickly")

STATS = ClassStats(COUNTS, ())


def config_of(**changes):
    """Return PaCo+SAM for batches of 32, whose queue holds two of them."""
    config = default.get_config()
    config.method = "paco"
    config.batch_size, config.duration = 32, "4 epochs"
    config.data.mean, config.data.std = (0.5,) * 3, (0.5,) * 3
    config.model.name, config.model.width, config.model.batch_norm = "resnet8", 0.25, "synchronized"
    config.paco.update({"queue_size": 64, "dim": 8, "momentum": 0.9, "key_augmentation": "crop_flip"})
    config.optim.name, config.sam.rho = "sam", ((0, 0.1),)
    config.update_from_flattened_dict({field.replace("__", "."): value for field, value in changes.items()})
    return config


def build(config, axis_name):
    schedules = make_schedules(config, STATS, steps_per_epoch=3)
    method = paco.make(config, STATS, IMAGES.shape[1:], axis_name, schedules)
    tx = make_optimizer(config, schedules, STATS, aux_like=pass_like(method), axis_name=axis_name)
    step = make_train_step(
        method,
        tx,
        schedules.class_weights,
        first_pass=ASCENT if find("optim.name", config.optim.name).ascends else DESCENT,
        batch_stats_policy=config.optim.batch_stats,
        axis_name=axis_name,
    )
    return method, step, devices.jit_once(lambda key: init_state(method, tx, key))(jax.random.key(0))


@functools.cache
def built():
    """Return what several tests take in float64, so that it is compiled once."""
    method, step, state = build(config_of(), None)
    return method, jax.jit(step), state, jax.jit(jax.value_and_grad(part_of(method), has_aux=True))


@pytest.fixture(autouse=True, scope="module")
def forget_built():
    yield
    built.cache_clear()


def views_of(ids, num_devices):
    """Return two views of the images: as they are, and mirrored."""
    batch = batch_of(ids, num_devices)
    return batch, batch._replace(images=batch.images[:, :, ::-1])


def steps_of(num_devices):
    """Return the views of four steps, so that the queue goes round: full, ragged, three images, full."""
    everything = np.random.default_rng(1).permutation(len(IMAGES))
    parts = (everything[:32], everything[32:53], everything[-3:], everything[-32:])
    return [views_of(ids, num_devices) for ids in parts]


def context_at(extra_weights_C=None):
    return Context(jnp.asarray(0), DESCENT, jnp.ones(len(COUNTS)), extra_weights_C)


def variables_of(state):
    return Variables(state.params, state.model_state, state.method_state)


def fields_of(**changes):
    fields = default.get_config().paco
    fields.update(changes)
    return fields


@pytest.fixture
def golden(x64):
    with np.load(GOLDEN / "paco_loss.npz") as store:
        return dict(store)


@pytest.mark.parametrize(("alpha", "temperature"), [(0.01, 0.05), (0.02, 0.05), (0.05, 0.2)])
def test_the_loss_is_the_published_one(golden, alpha, temperature):
    queries, labels = int(golden["batch_size"]), jnp.asarray(golden["labels"])
    fields = fields_of(alpha=alpha, temperature=temperature)
    log_priors = np.log(golden["counts"] / golden["counts"].sum() + 1e-9)

    def loss(logits, rows):  # the queries are the first of the rows
        own = jnp.arange(queries)
        parts = paco.contrast(logits + log_priors, rows[:queries], labels[:queries], rows, labels, own, fields)
        return jnp.mean(parts.class_loss_B + parts.contrast_B)

    inputs = jnp.asarray(golden["sup_logits"]), jnp.asarray(golden["features"])
    value, (of_logits, of_rows) = jax.value_and_grad(loss, argnums=(0, 1))(*inputs)
    case = f"alpha{alpha}_beta1.0_gamma1.0_T{temperature}"
    np.testing.assert_allclose(value, golden[f"{case}/loss"], rtol=1e-12)
    np.testing.assert_allclose(of_logits, golden[f"{case}/grad_logits"], atol=1e-12)
    np.testing.assert_allclose(of_rows, golden[f"{case}/grad_features"], atol=1e-12)


def test_rows_without_a_label_are_in_no_contrast_set(golden):
    """The loss and every gradient with them are those without them, whatever they hold."""
    labels, rows, logits = (jnp.asarray(golden[name]) for name in ("labels", "features", "sup_logits"))
    fields = fields_of(temperature=0.05)

    def loss(rows, empty):  # 16 queries, of which some are in no set either
        kept = jnp.where(empty, -1, labels)
        return paco.contrast(logits, rows[:16], labels[:16], rows, kept, jnp.arange(16), fields)

    empty = np.zeros(96, bool)
    empty[[3, 9, 20, 40, 41, 95]] = True
    keep = np.flatnonzero(~empty)
    own = np.searchsorted(keep, np.arange(16))  # of those that are kept
    valid = np.flatnonzero(~empty[:16])

    def total(rows):
        parts = loss(rows, empty)
        return (parts.class_loss_B + parts.contrast_B)[valid].sum()

    def expected(rows):
        parts = paco.contrast(logits[valid], rows[valid], labels[valid], rows[keep], labels[keep], own[valid], fields)
        return (parts.class_loss_B + parts.contrast_B).sum()

    garbage = rows.at[empty].set(rows[0] * 1e3)  # of similarity far above all others
    for found, wanted in zip(jax.value_and_grad(total)(garbage), jax.value_and_grad(expected)(rows), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


def test_the_start_of_the_queue():
    fields = fields_of(queue_size=256, dim=16)
    keys, labels = paco.start_of_queue(jax.random.key(0), fields, 5)
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, rtol=1e-6)
    assert set(np.asarray(labels)) == set(range(5))
    published, _ = paco.start_of_queue(jax.random.key(0), fields_of(queue_size=256, dim=16, queue_init="published"), 5)
    np.testing.assert_allclose(np.linalg.norm(published, axis=0), 1, rtol=1e-6)
    assert np.linalg.norm(published, axis=1).mean() == pytest.approx((16 / 256) ** 0.5, rel=0.05)


def part_of(method):
    """Return (params, variables, views) -> the loss's numerator, (inputs, output)."""

    def part(params, variables, views):
        inputs = method.prepare(variables, views, jnp.asarray(0))
        output = method.loss(variables._replace(params=params), inputs, context_at())
        return output.numerator, (inputs, output)

    return part


def test_padding_counts_nothing(x64):
    method, _, state, gradient = built()
    variables = variables_of(state)
    full = views_of(np.arange(21) * 3, 1)
    noise = np.where(full[0].mask[:, None, None, None], full[0].images, np.uint8(200))
    noisy = full[0]._replace(images=noise), full[1]._replace(images=noise[:, :, ::-1])
    cut = jax.tree.map(lambda x: x[:21], full)

    (_, (inputs, output)), grads = gradient(state.params, variables, full)
    (_, (_, others)), same = gradient(state.params, variables, noisy)
    _, (_, expected) = jax.jit(part_of(method))(state.params, variables, cut)
    assert_close(others, output, 1e-12)
    assert_close(jax.flatten_util.ravel_pytree(same)[0], jax.flatten_util.ravel_pytree(grads)[0], 1e-12)
    assert_close(output, expected, 1e-11)
    assert output.images == output.denominator == 21
    after = method.after_update(variables, inputs)
    np.testing.assert_array_equal(after.labels_K[:32], np.where(full[1].mask, full[1].labels, -1))


def test_keys_are_encoded_on_other_devices_and_come_back_in_order():
    _, batch = views_of(np.arange(32), 8)
    images = batch.images.copy()
    images[:, 0, 0, 0] = batch.ids  # 32 of them, so that a byte holds it
    batch = devices.split(batch._replace(images=images))
    order = jax.random.permutation(jax.random.key(0), 32)

    def run(batch):
        def encode(images, mask):
            device = jnp.full(len(mask), jax.lax.axis_index(devices.AXIS))
            return jnp.stack([images[:, 0, 0, 0].astype(jnp.int32), device], axis=1)

        return paco.shuffled(encode, batch, order, devices.AXIS)

    keys = np.asarray(devices.map_step(lambda batch: run(batch), 0)(batch))
    np.testing.assert_array_equal(keys[:, 0], np.arange(32))
    moved = keys[:, 1] != np.arange(32) % 8  # slots are dealt to the devices in turn
    assert 20 <= moved.sum() <= 32


def test_the_shuffle_changes_what_devices_normalize_and_nothing_else(x64):
    views = devices.split(steps_of(8)[0])
    for batch_norm in ("synchronized", "per_device"):
        method, _, state = build(config_of(model__batch_norm=batch_norm), devices.AXIS)
        variables = variables_of(state)
        other = variables._replace(method_state=state.method_state._replace(shuffle_key=jnp.uint32([7, 7])))
        keys = devices.map_step(lambda variables, views, m=method: m.prepare(variables, views, 0).keys_ND, 1)
        difference = np.abs(np.asarray(keys(variables, views)) - np.asarray(keys(other, views))).max()
        assert difference < 1e-10 if batch_norm == "synchronized" else difference > 1e-3
        unread = jax.tree.map(lambda x: x + 3, variables.model_state)  # keys are encoded in training mode
        np.testing.assert_array_equal(keys(variables._replace(model_state=unread), views), keys(variables, views))


def test_a_step_of_sam_sees_one_key_encoder_and_one_queue(x64):
    """By hand: both losses, with the same keys; the key encoder and the queue after it."""
    _, step, state, gradient = built()
    views, variables = steps_of(1)[0], variables_of(state)
    (at_w, (inputs, _)), grads = gradient(state.params, variables, views)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
    perturbed = jax.tree.map(lambda w, g: w + 0.1 * g / norm, state.params, grads)
    (at_shifted, _), _ = gradient(perturbed, variables, views)
    # The gradient is that of the loss with queries in each other's contrast sets.
    ahead, behind = (jax.tree.map(lambda w, g, h=h: w + h * g / norm, state.params, grads) for h in (1e-5, -1e-5))
    slope = (gradient(ahead, variables, views)[0][0] - gradient(behind, variables, views)[0][0]) / 2e-5
    np.testing.assert_allclose(slope, norm, rtol=1e-5)

    after, metrics = step(state, views)
    np.testing.assert_allclose(metrics.loss, at_w / 32, rtol=1e-12)
    np.testing.assert_allclose(metrics.perturbed_loss, at_shifted / 32, rtol=1e-10)
    old, new = state.method_state, after.method_state
    np.testing.assert_allclose(new.keys_KD, np.concatenate([inputs.keys_ND, old.keys_KD[32:]]), atol=1e-12)
    np.testing.assert_array_equal(new.labels_K, np.concatenate([views[1].labels, old.labels_K[32:]]))
    assert int(new.pointer) == 32
    np.testing.assert_array_equal(new.shuffle_key, old.shuffle_key)


def test_the_key_encoder_follows_the_published_sequence(x64):
    """There: moves towards the query, then encodes, then the query is updated. Here: moves after the update."""
    _, step, state, _ = built()
    query = key = paco.of_key_encoder(state.params)
    assert state.params.keys() - query.keys() == {"linear"}
    for views in steps_of(1)[:3]:
        key = jax.tree.map(lambda k, q: 0.9 * k + 0.1 * q, key, query)
        assert_close(state.method_state.key_params, key, 1e-13)
        state, _ = step(state, views)
        query = paco.of_key_encoder(state.params)
    moved = jax.tree.map(lambda k, q: float(jnp.abs(k - q).max()), state.method_state.key_params, query)
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_without_images_it_is_the_cross_entropy_of_the_logits_with_the_prior(x64):
    method, _, state = build(config_of(paco__alpha=0.0, paco__gamma=0.0), None)
    batch, key = steps_of(1)[0]
    output = jax.jit(part_of(method))(state.params, variables_of(state), (batch, key))[1][1]
    logits_BC = jax.jit(functools.partial(method.predict, train=True))(state.params, state.model_state, batch)
    expected_B = cross_entropy(logits_BC + np.log(COUNTS / COUNTS.sum() + 1e-9), batch.labels)
    np.testing.assert_allclose(output.numerator, expected_B.sum(), rtol=1e-10)
    assert output.metrics["contrast"] == 0
    assert output.metrics["accuracy"] == np.sum(np.argmax(logits_BC, 1) == batch.labels)


def test_prediction_is_the_class_head_without_the_prior(x64):
    method, _, state, _ = built()
    batch, _ = steps_of(1)[0]
    nothing = {**state.params, "linear": jax.tree.map(jnp.zeros_like, state.params["linear"])}
    predict = jax.jit(method.predict)
    np.testing.assert_array_equal(predict(nothing, state.model_state, batch), np.zeros((32, len(COUNTS))))
    logits_BC = predict(state.params, state.model_state, batch)
    assert len(np.unique(np.argmax(logits_BC, 1))) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss__name": "vs"}, "loss.name='vs' does not go with method='paco'"),
        ({"loss__class_weights": "drw"}, "Fix: --config.loss.class_weights=none"),
        ({"model__head": "normed"}, "Fix: --config.model.head=linear"),
        ({"micro_batches": 2}, "Fix: --config.micro_batches=1"),
        ({"paco__queue_size": 65}, "Fix: --config.paco.queue_size=96"),
        ({"paco__key_augmentation": "random_resized_crop"}, "for images that stay encoded, but these are in memory"),
        (
            {"data__source": "image_list", "data__augmentation": "randaugment"},
            "paco.key_augmentation='crop_flip' is for images in memory, but these stay encoded",
        ),
    ],
)
def test_what_does_not_go_with_it_is_told(changes, message):
    assert not problems_of(config_of(), default.get_config())
    assert message in "\n".join(problems_of(config_of(**changes), default.get_config()))


def test_a_field_has_no_effect_where_no_view_uses_it():
    for query, key in (("simclr", "autoaugment"), ("autoaugment", "simclr")):
        config = config_of(data__augmentation=query, paco__key_augmentation=key, data__crop_padding=4)
        assert not problems_of(config, default.get_config())
    config = config_of(data__augmentation="simclr", paco__key_augmentation="simclr", data__crop_padding=4)
    found = "\n".join(problems_of(config, default.get_config()))
    assert "data.crop_padding has no effect" in found and "paco.key_augmentation='simclr'" in found
    config.data.crop_padding, config.data.color_jitter = 0, 0.4
    assert "data.color_jitter has no effect" in "\n".join(problems_of(config, default.get_config()))
    photos = imagenet_lt.get_config("ce_drw")
    config = paco_imagenet_lt.get_config()
    config.data.augmentation, config.paco.key_augmentation = "simclr", "randaugment"
    config.data.color_jitter = photos.data.color_jitter
    assert config.data.color_jitter > 0 and not problems_of(config, default.get_config())


def test_its_views_come_from_workers_and_any_step_of_any_seed_can_be_reached():
    config = config_of(data__augmentation="randaugment", paco__key_augmentation="simclr")
    train = Images(IMAGES, LABELS)
    splits = Splits(train, None, train, STATS, "", "")
    seeds = [config.copy_and_resolve_references(), config.copy_and_resolve_references()]
    seeds[1].seed = 1
    feed = Feed(seeds, [splits] * 2, make_program(config, splits))
    assert feed.pipeline == "workers"
    unbroken, resumed = (
        [jax.device_get(segment.inputs) for segment in feed.segments(start, 7, lambda _: False)] for start in (0, 3)
    )
    assert len(unbroken) == 7 and len(resumed) == 4
    for a, b in zip(jax.tree.leaves(unbroken[3:]), jax.tree.leaves(resumed), strict=True):
        assert a.tobytes() == b.tobytes()
    query, key = unbroken[0]
    np.testing.assert_array_equal(query.ids, key.ids)
    assert (query.images != key.images).any()
    assert (query.images[:, 0] != query.images[:, 1]).any()  # the seeds


def at_epochs(config, epochs):
    schedules = make_schedules(config, STATS, steps_per_epoch=7)
    return [float(schedules.lr(7 * epoch + 3)) for epoch in epochs]


def test_learning_rates_are_the_published_ones(x64):
    cifar = [0.005 * (e + 1) if e <= 10 else 0.05 if e <= 320 else 0.005 if e <= 360 else 0.0005 for e in range(400)]
    np.testing.assert_allclose(at_epochs(paco_cifar100.get_config(), range(400)), cifar, rtol=1e-12)
    large = [0.002 * (e + 1) if e < 10 else 0.01 * (1 + np.cos(np.pi * (e - 9) / 391)) for e in range(400)]
    np.testing.assert_allclose(at_epochs(paco_imagenet_lt.get_config(), range(400)), large, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.nightly
def test_the_loss_falls_on_real_cifar100(tmp_path):
    store = tmp_path / "lt.npz"
    shared_file("data/cifar100_lt.npz")
    unpack = [sys.executable, SHARED / "data/unpack.py", "cifar100", "--ratio", "100", "--out", store]
    subprocess.run(unpack, check=True)
    config = paco_cifar100.get_config("paco_sam,profile=as_is")
    config.update_from_flattened_dict(
        {"data.source": "arrays", "data.path": str(store)}
        | {"paco.queue_size": 512, "model.name": "resnet8", "model.width": 0.5}
        | {"duration": "60 steps", "optim.lr": ((0, 0.02),), "sam.rho": ((0, 0.05),)}
        | {"log_every": "15 steps", "eval.every": "100%", "checkpoint_every": "100%", "tensorboard": False}
    )
    train(config, tmp_path / "run")
    records = [r for r in metrics.read(tmp_path / "run") if "train/loss" in r]
    losses = [record["train/loss"] for record in records]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    assert {"train/contrast", "train/class_loss", "train/accuracy"} <= records[0].keys()
