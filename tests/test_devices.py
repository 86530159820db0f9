"""One device against eight: the loss is the batch's, not the device's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT  # noqa: F401 (its devices)

from configs import default
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.images import make_batch
from saddle_jax.data.order import Order, Slots, deal, slots_at
from saddle_jax.experiment import catalogue
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats
from saddle_jax.methods.plain import make as make_plain
from saddle_jax.optim.chain import make_optimizer
from saddle_jax.optim.trees import only_if
from saddle_jax.schedules import make_schedules
from saddle_jax.training import seeds
from saddle_jax.training.gradient import pass_like
from saddle_jax.training.steps import init_state, make_eval_step, make_train_step

pytestmark = pytest.mark.usefixtures("compile_quickly")

COUNTS = np.array([40, 20, 9, 4, 2])
RANDOM = np.random.default_rng(0)
LABELS = np.repeat(np.arange(5), COUNTS).astype(np.int32)
IMAGES = RANDOM.integers(0, 256, (len(LABELS), 8, 8, 3), np.uint8)


def set_size(config, value):
    """Set the size of the config's link, whatever its name."""
    link = catalogue.find("optim.name", config.optim.name)
    if link.size:
        config[config.optim.name][link.size] = (value,)


def config_of(loss="ldam", link="sam", rho=None, batch_stats="both", perturbation="shared"):
    config = default.get_config()
    config.batch_size = 32
    config.data.mean, config.data.std = (0.5,) * 3, (0.5,) * 3
    config.model.name, config.model.width = "resnet8", 0.25
    config.model.batch_norm = "synchronized"
    config.model.head = "normed" if loss == "ldam" else "linear"
    config.loss.name, config.loss.class_weights = loss, "reweight"
    config.duration = "4 epochs"
    config.optim.name = link
    config.optim.batch_stats, config.sam.perturbation = batch_stats, perturbation
    if rho is not None:
        set_size(config, rho)
    return config


def build(config, axis_name):
    stats = ClassStats(COUNTS, ())
    method = make_plain(config, stats, IMAGES.shape[1:], axis_name)
    schedules = make_schedules(config, stats, steps_per_epoch=3)
    tx = make_optimizer(config, schedules, stats, aux_like=pass_like(method), axis_name=axis_name)
    step = make_train_step(
        method, tx, schedules.class_weights, batch_stats_policy=config.optim.batch_stats, axis_name=axis_name
    )

    def of_one_view(state, batch):
        return step(state, (batch,))

    return method, of_one_view, devices.jit_once(lambda key: init_state(method, tx, key))(jax.random.key(0))


def batch_of(ids, num_devices):
    positions, mask = deal(0, len(ids), 32, num_devices)
    ids = np.asarray(ids, np.int32)[positions]
    return make_batch(IMAGES, LABELS, Slots(ids * mask, mask, np.zeros((32, 3), np.int32)), None)


def batches(num_devices):
    """A full batch, a ragged one, and one so short that five devices get no image."""
    everything = np.random.default_rng(1).permutation(len(LABELS))
    return [batch_of(ids, num_devices) for ids in (everything[:32], everything[32:53], everything[-3:])]


def assert_close(a, b, rtol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        scale = max(float(jnp.max(jnp.abs(jnp.asarray(y, float)))), 1e-300)
        np.testing.assert_allclose(np.asarray(x, float) / scale, np.asarray(y, float) / scale, atol=rtol)


@pytest.mark.parametrize(
    ("loss", "sam"),
    [
        ("ldam", {"rho": 0.2}),
        ("vs", {"rho": 0.1, "batch_stats": "second"}),
        ("ce", {"link": "sgd"}),
    ],
)
def test_one_device_equals_eight(loss, sam, x64, request):
    if loss != "ldam":  # a ResNet once
        request.getfixturevalue("small_network")
    config = config_of(loss, **sam)
    _, single, state = build(config, None)
    _, mapped, other = build(config, devices.AXIS)
    single, mapped = jax.jit(single), devices.map_step(mapped, 1)
    for one, eight in zip(batches(1), batches(8), strict=True):
        assert sorted(one.ids[one.mask]) == sorted(eight.ids[eight.mask])
        state, expected = single(state, one)
        other, metrics = mapped(other, devices.split(eight))
        assert_close(metrics, expected, 1e-10)
        assert_close(other.params, state.params, 1e-10)
        assert_close(other.model_state, state.model_state, 1e-10)
        assert_close(other.opt_state, state.opt_state, 1e-10)
    assert expected.finite and not expected.skipped
    # A batch without an image changes nothing but the counts, which schedules follow.
    state = jax.device_get(state)
    for step, batch in ((single, batches(1)[0]), (mapped, devices.split(batches(8)[0]))):
        after, metrics = step(state, jax.tree.map(np.zeros_like, batch))
        assert metrics.skipped and metrics.finite
        for (path, found), before in zip(jax.tree.leaves_with_path(after), jax.tree.leaves(state), strict=True):
            is_count = path[-1] in (jax.tree_util.GetAttrKey("count"), jax.tree_util.GetAttrKey("step"))
            np.testing.assert_array_equal(found, before + 1 if is_count else before, jax.tree_util.keystr(path))
        after, metrics = step(after, batch)
        assert after.step == 5 and metrics.finite and not metrics.skipped


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("perturbation", ["shared", "per_device"])
@pytest.mark.parametrize("batch_norm", ["per_device", "synchronized"])
def test_a_replicated_state_is_equal_on_all_devices(perturbation, batch_norm):
    config = config_of("ce", perturbation=perturbation)
    config.model.batch_norm = batch_norm
    _, step, state = build(config, devices.AXIS)
    gathered = jax.pmap(step, axis_name=devices.AXIS, in_axes=(None, 0), out_axes=0)
    for batch in batches(8):
        # To the host at once: slicing an array that lies on several devices is a collective for every leaf.
        states, metrics = jax.device_get(gathered(state, devices.split(batch)))
        for leaf in jax.tree.leaves((states, metrics)):
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
        assert metrics.finite.all()
        state = jax.tree.map(lambda x: x[0], states)


@pytest.mark.usefixtures("small_network")
def test_per_device_perturbations_differ_from_the_shared_one(x64):
    results = []
    for perturbation in ("shared", "per_device"):
        _, step, state = build(config_of("ce", perturbation=perturbation), devices.AXIS)
        state, metrics = devices.map_step(step, 1)(state, devices.split(batches(8)[0]))
        results.append((float(metrics.loss), float(metrics.perturbed_loss)))
    assert results[0][0] == results[1][0]
    assert results[0][1] != results[1][1]


def test_pmap_equals_shard_map_bit_for_bit():
    method, step, state = build(config_of(link="sgd"), devices.AXIS)
    state, found = jax.device_get(state), {}
    for name in ("shard_map", "pmap"):  # ends with the default
        devices.set_mapping(name)
        take = devices.map_step(step, 1, donate=True)
        predict = devices.map_step(make_eval_step(method), 2, gather=True)
        now, seen = devices.replicate(state), []
        for batch in batches(8):
            parts = devices.put(devices.split(batch))
            now, metrics = take(now, parts)
            seen += [metrics, devices.own_parts(predict(now.params, now.model_state, parts))]
        found[name] = jax.device_get([now, seen])
    jax.tree.map(np.testing.assert_array_equal, found["pmap"], found["shard_map"])


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_programs_are_built_for_the_devices_that_are_described(mapping):
    """Four of the eight CPUs stand for accelerators: JAX's caches keep what is traced for them apart."""
    described = devices.Target("tpu", tuple(jax.devices()[:4]))

    def pick(x):
        picked, _ = only_if(x[0] > 0, lambda: 2 * x, x)
        return devices.sum_over(picked, devices.AXIS)

    def lowered(parts):
        return devices.map_step(pick, 0).lower(jax.ShapeDtypeStruct((parts, 3), np.float32))

    devices.set_mapping(mapping)
    try:
        here = lowered(8)
        with devices.build_for(described):
            assert devices.num_devices() == 4 and not devices.on_cpu()
            assert seeds.seeds_at_once(5) == 5
            there = lowered(4)
    finally:
        devices.set_mapping("pmap")
    assert devices.num_devices() == 8 and devices.on_cpu() and seeds.seeds_at_once(5) == 1
    assert "stablehlo.case" in there.as_text() and "stablehlo.case" not in here.as_text()
    assert "mhlo.num_partitions = 4" in there.as_text()
    there.compile()


@pytest.mark.usefixtures("small_network")
def test_a_step_that_is_not_finite_changes_nothing_but_marks_the_state():
    _, step, state = build(config_of("ce"), None)
    broken = state._replace(params=jax.tree.map(lambda x: x * np.inf, state.params))
    step = jax.jit(step)
    after, metrics = step(broken, batches(1)[0])
    assert not metrics.finite and not after.finite
    jax.tree.map(np.testing.assert_array_equal, after._replace(finite=broken.finite), broken)
    marked = state._replace(finite=after.finite)  # even where it could go on
    again, metrics = step(marked, batches(1)[0])
    assert not metrics.finite
    jax.tree.map(np.testing.assert_array_equal, again, marked)


@pytest.mark.usefixtures("small_network")
def test_rho_zero_trains_as_sgd_bit_for_bit():
    results = []
    for sam in ({"rho": 0.0}, {"link": "sgd"}):
        _, step, state = build(config_of("ce", batch_stats="first", **sam), None)
        step = jax.jit(step)
        for batch in batches(1):
            state, _ = step(state, batch)
        results.append(state)
    with_sam, without = results
    for a, b in zip(jax.tree.leaves(with_sam.params), jax.tree.leaves(without.params), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(with_sam.opt_state[1:]), jax.tree.leaves(without.opt_state[1:]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_sam_there_is_no_second_pass():
    convolutions = []
    for link in ("sgd", "sam"):
        _, step, state = build(config_of("ce", link), None)
        text = str(jax.make_jaxpr(step)(state, batches(1)[0]))
        convolutions.append(text.count("conv_general_dilated[") + text.count("saddle_conv["))
    assert convolutions[1] == 2 * convolutions[0] > 0


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("policy", ["first", "second", "both", "frozen"])
def test_batch_norm_policies(policy, x64):
    def after(policy, start=None, **sam):
        method, step, state = build(config_of("ce", batch_stats=policy, **sam), None)
        state = start or state
        return state, jax.jit(step)(state, batches(1)[0])[0]

    start, result = after(policy, rho=0.3)
    first = after("first", link="sgd")[1].model_state["batch_stats"]["bn1"]["mean"]  # SGD's only pass
    mean = result.model_state["batch_stats"]["bn1"]["mean"]
    if policy == "frozen":
        np.testing.assert_array_equal(mean, start.model_state["batch_stats"]["bn1"]["mean"])
    elif policy == "first":
        np.testing.assert_allclose(mean, first, rtol=1e-12)
    elif policy == "second":
        assert not np.allclose(mean, first, rtol=1e-6)
    else:  # 0.9 (0.1 a) + 0.1 b, from a at w and b at w + e
        second = after("second", rho=0.3)[1].model_state["batch_stats"]["bn1"]["mean"]
        np.testing.assert_allclose(mean, 0.9 * first + second, rtol=1e-10)


@pytest.mark.faults("D5")
def test_evaluation_counts_every_image_once_on_eight_devices():
    method, _, state = build(config_of("ce"), devices.AXIS)
    mapped = devices.map_step(make_eval_step(method), 2, gather=True)
    for total in (1, 31, 32, 33):
        counted = 0
        for index in range(-(-total // 32)):
            positions, mask = deal(index, total, 32, 8)
            batch = make_batch(IMAGES, LABELS, Slots(positions, mask, np.zeros((32, 3), np.int32)), None)
            output = jax.device_get(mapped(state.params, state.model_state, devices.split(batch)))
            assert output.predictions.reshape(-1).shape == (32,)
            counted += int(mask.sum())
        assert counted == total


def test_padding_is_dealt_evenly():
    for real in range(1, 33):
        _, mask = deal(0, real, 32, 8)
        per_device = mask.reshape(8, 4).sum(1)
        assert mask.sum() == real
        assert per_device.max() - per_device.min() <= 1


def test_slots_are_the_same_images_on_any_number_of_devices():
    orders = [Order(3, LABELS, 32, n, Augmentation("crop_flip", IMAGES.shape[1:], crop_padding=1)) for n in (1, 2, 8)]
    for step in range(7):
        seen = [
            sorted(zip(s.ids_B[s.mask_B], map(tuple, s.draws_BR[s.mask_B]), strict=True))
            for s in (slots_at(order, step) for order in orders)
        ]
        assert seen[0] == seen[1] == seen[2]


@pytest.mark.nightly
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_deep_network_survives_devices_without_an_image(dtype):
    config = config_of("ce")
    config.model.batch_norm, config.model.name, config.model.dtype = "per_device", "resnet56", dtype
    _, step, state = build(config, devices.AXIS)
    batch = batch_of([70], num_devices=8)  # seven devices get no image
    after, metrics = devices.map_step(step, 1)(state, devices.split(batch))
    assert metrics.finite
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


@pytest.mark.usefixtures("small_network")
def test_running_statistics_are_the_mean_over_devices_with_images():
    config = config_of("ce", "sgd")
    config.model.batch_norm = "per_device"
    _, step, state = build(config, devices.AXIS)
    batch = batch_of([0, 50, 70], num_devices=8)  # five devices get no image
    after, _ = devices.map_step(step, 1)(state, devices.split(batch))
    _, alone, state = build(config, None)
    each = []
    for slot in np.flatnonzero(batch.mask):
        single = jax.tree.map(lambda x, slot=slot: x[slot : slot + 1], batch)
        each.append(jax.jit(alone)(state, single)[0].model_state["batch_stats"]["bn1"])
    together = after.model_state["batch_stats"]["bn1"]
    for name in ("mean", "var"):
        expected = np.mean([statistics[name] for statistics in each], axis=0)
        np.testing.assert_allclose(together[name], expected, rtol=1e-4, atol=1e-6)
