"""Every pipeline makes the same pixels, and every layout (scanned, several runs at once) the same steps."""

import json

import jax
import numpy as np
import pytest
from small_runs import program_of, small_config, train

from configs import cifar10_lt, default
from saddle_jax.data import sources
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.feeds import numpy as in_process
from saddle_jax.data.feeds import resident, tfdata, workers
from saddle_jax.data.order import Order, slots_at
from saddle_jax.errors import ConfigError, NonFiniteError
from saddle_jax.experiment.catalogue.augmentations import AUGMENTATIONS, needs_host
from saddle_jax.experiment.checks import problems_of
from saddle_jax.experiment.config import flatten
from saddle_jax.host import devices
from saddle_jax.training import checkpoint, loop, metrics, run, seeds
from saddle_jax.training.feed import Feed, pipeline_of
from saddle_jax.training.program import make_program
from saddle_jax.training.state import stack, unstack

pytestmark = pytest.mark.usefixtures("compile_file_quickly")


def never(step):
    return False


def steps(configs, splits, program, total, is_event=never):
    """Take `total` steps from the first weights; return a state for each config, and all losses."""
    feed = Feed(configs, splits, program)
    state = devices.replicate(stack([jax.device_get(program.init(config.seed)) for config in configs]))
    losses = []
    for segment in feed.segments(0, total, is_event):
        state, found = feed.advance(state, segment)
        losses.append(np.reshape(jax.device_get(found.loss), (segment.stop - segment.start, len(configs))))
    return unstack(jax.device_get(state), len(configs)), np.concatenate(losses)


def assert_close(found, expected, rtol):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("name", "shape", "padding", "flip"),
    [
        ("crop_flip", (32, 32, 3), 4, True),
        ("crop_flip", (8, 8, 1), 1, False),
        ("crop_flip", (9, 6, 2), 0, True),
        ("autoaugment", (32, 32, 3), 4, True),
        ("randaugment", (12, 10, 3), 1, False),
        ("simclr", (12, 10, 3), 0, True),
    ],
)
def test_all_feeds_make_the_same_batches_byte_for_byte(name, shape, padding, flip):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (83, *shape), np.uint8)
    augmented = Augmentation(name, shape, crop_padding=padding, flip=flip, mean=(124, 116, 104))
    order = Order(3, random.integers(0, 5, 83), 16, 4, augmented)
    slots = [slots_at(order, step) for step in range(4, 20)]  # over epoch ends and padded last batches

    def from_devices(images, labels, slots, augmented):
        data = resident.put(images, labels)
        return map(jax.device_get, map(jax.jit(lambda one: resident.batch(data, one, augmented)), slots))

    feeds = [tfdata.training_batches, workers.training_batches, *([] if augmented.on_host else [from_devices])]
    expected = list(in_process.training_batches(images, order.labels_N, slots, augmented))
    assert {int(batch.mask.sum()) for batch in expected} == {16, 3}
    assert not any(batch.images[~batch.mask].any() for batch in expected)
    for feed in feeds:
        for one, other in zip(feed(images, order.labels_N, iter(slots), augmented), expected, strict=True):
            for a, b in zip(one, other, strict=True):
                assert a.dtype == b.dtype
                assert a.tobytes() == b.tobytes()


def test_runs_on_the_same_bytes_end_bit_for_bit_alike(tmp_path):
    ends = []
    for name in ("numpy", "tfdata", "workers"):
        config = small_config(data__pipeline=name)
        train(config, tmp_path / name)
        latest = checkpoint.find(tmp_path / name / "checkpoints")
        like = jax.eval_shape(lambda: program_of(config, sources.load(config)).init(0))  # noqa: B023
        ends.append(jax.device_get(checkpoint.restore(latest, like)))
    for a, *others in zip(*map(jax.tree.leaves, ends), strict=True):
        assert {b.tobytes() for b in others} == {a.tobytes()}


@pytest.mark.nightly
def test_scanned_runs_of_several_seeds_follow_each_alone(x64):
    """Fifty steps in float64: resident, five at once, three networks at once, against NumPy's batches one by one."""
    config = small_config(data__pipeline="numpy", duration="50 steps", num_seeds=3, seed=4)
    configs = [seeds.member_config(config, seed) for seed in seeds.seeds_of(config)]
    splits = sources.load(config)
    program = program_of(config, splits)
    alone = [steps([one], [splits], program, 50) for one in configs]
    for one in configs:
        one.data.pipeline, one.steps_at_once = "resident", 5
    together, losses = steps(configs, [splits] * 3, program, 50, is_event=lambda step: step == 13)
    for k, (state, alone_losses) in enumerate(alone):
        assert_close(losses[:, k], alone_losses[:, 0], 1e-8)
        assert_close(together[k], state[0], 1e-8)
    assert not np.allclose(losses[:, 0], losses[:, 1])


@pytest.mark.nightly
def test_runs_at_once_may_have_images_of_their_own(x64):
    configs = [small_config(seed=seed, data__subset_seed=seed) for seed in (0, 1)]
    splits = [sources.load(config) for config in configs]
    assert splits[0].content_hash != splits[1].content_hash
    program = program_of(configs[0], splits[0])
    together, _ = steps(configs, splits, program, 4)
    for config, split, state in zip(configs, splits, together, strict=True):
        alone, _ = steps([config], [split], program, 4)
        assert_close(state, alone[0], 1e-8)


def test_segments_end_at_every_event_and_have_two_lengths():
    config = small_config(steps_at_once=5)
    splits = sources.load(config)
    feed = Feed([config], [splits], program_of(config, splits))
    found = [(s.start, s.stop) for s in feed.segments(3, 27, lambda step: step in (8, 10, 20))]
    assert found == [(3, 8), (8, 9), (9, 10), (10, 15), (15, 20), (20, 25), (25, 26), (26, 27)]


def test_a_step_that_is_not_finite_stops_all_later_ones_of_a_scan():
    """Steps 6 and 7 overflow; the steps after them would be finite again, were the state not marked."""
    knots = ((0, 0.1), ("5 steps", 1e38), ("7 steps", 0.1))
    config = small_config(steps_at_once=12, optim__lr=knots)
    splits = sources.load(config)
    program = program_of(config, splits)
    feed = Feed([config], [splits], program)
    state = devices.replicate(program.init(0))
    (segment,) = feed.segments(0, 12, never)
    state, found = jax.device_get(feed.advance(state, segment))
    first = int(np.argmin(found.finite))
    assert first in (5, 6)
    assert not found.finite[first:].any()
    assert state.step == first and not state.finite
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def with_nan_in_seed_1(program, part):
    def init(seed):
        state = program.init(seed)
        broken = jax.tree.map(lambda x: x * np.nan, getattr(state, part))
        return state._replace(**{part: broken}) if seed == 1 else state

    return program._replace(init=init)


def test_of_several_seeds_those_that_stay_finite_finish(tmp_path):
    config = small_config(num_seeds=3, seeds_at_once=3)
    splits = sources.load(config)
    program = program_of(config, splits)

    broken = with_nan_in_seed_1(program, "params")
    with pytest.raises(NonFiniteError, match=r"^seed-1: step 1: loss is nan"):
        seeds.train(config, tmp_path, splits, broken, ["test"], quiet=True)
    assert sorted(path.parent.name for path in tmp_path.glob("*/results.json")) == ["seed-0", "seed-2"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["runs"] == ["seed-0", "seed-2"]
    assert summary["not_finished"] == ["seed-1"]
    assert summary["last"]["overall"]["n"] == 2


@pytest.mark.faults("N3")
def test_a_seed_whose_evaluation_is_not_finite_ends_alone(tmp_path):
    config = small_config(num_seeds=3, seeds_at_once=3)
    splits = sources.load(config)
    program = program_of(config, splits)

    broken = with_nan_in_seed_1(program, "model_state")
    for _ in range(2):  # again when it is started again
        with pytest.raises(NonFiniteError, match=r"^seed-1: step 6: evaluation: .*Last good checkpoint: .*4\. Fix"):
            seeds.train(config, tmp_path, splits, broken, ["test"], quiet=True)
        assert sorted(path.parent.name for path in tmp_path.glob("*/results.json")) == ["seed-0", "seed-2"]


def test_no_seed_is_trained_if_one_of_them_can_not_be(tmp_path):
    config = small_config(num_seeds=3)
    splits = sources.load(config)
    train(small_config(seed=2, optim__momentum=0.5), tmp_path / "seed-2")
    with pytest.raises(ConfigError, match=r"optim.momentum: the run has 0.5, this command 0.9"):
        seeds.train(config, tmp_path, splits, program_of(config, splits), ["test"], quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["seed-2"]


def test_nothing_is_compiled_and_nothing_travels_unasked_between_logging_points(tmp_path, monkeypatch):
    """Over lr and rho knots, DRW, padded last batches, two evaluations: what the first steps compiled serves all."""
    knots = ((0, 0.1), ("5 steps", 0.01), ("9 steps", 0.001))
    config = small_config(
        duration="24 steps", eval__every="8 steps", checkpoint_every="8 steps", log_every="4 steps",
        optim__lr=knots, sam__rho=((0, 0.05), ("6 steps", 0.1)), loss__drw_start="50%",
    )  # fmt: skip
    splits = sources.load(config)
    assert len(splits.train.labels) % config.batch_size
    program = program_of(config, splits)
    compiled, reached, looked = [], [0], []
    advance, look = Feed.advance, run.Run.log

    def guarded(self, state, segment):
        with jax.transfer_guard("disallow"):
            result = advance(self, state, segment)
        reached[0] = segment.stop
        return result

    def listen(event, _, **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(reached[0])

    def noted(self, step, values, done):
        looked.append((step, reached[0]))
        look(self, step, values, done)

    monkeypatch.setattr(Feed, "advance", guarded)
    monkeypatch.setattr(run.Run, "log", noted)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        splits_of = {"config": config, "workdir": tmp_path / "run", "splits": splits}
        loop.train(**splits_of, program=program, command=["test"], quiet=True)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled
    assert set(compiled) <= {0, 8}  # the first step, the first evaluation
    # Steps 1 to 4 are read in one go, when the fifth has been queued; at an evaluation nothing is left unread.
    assert [at for step, at in looked if step <= 4] == [5] * 4
    assert [at for step, at in looked if step == 8] == [8]


def test_an_unasked_transfer_would_be_seen():
    config = small_config()
    splits = sources.load(config)
    program = program_of(config, splits)
    feed = Feed([config], [splits], program)
    segment = next(feed.segments(0, 1, never))
    state = devices.replicate(program.init(0))
    on_host = segment._replace(inputs=jax.device_get(segment.inputs))
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="[Dd]isallowed host-to-device transfer"):
        feed.advance(state, on_host)


def test_seeds_leave_complete_runs_and_their_mean(tmp_path):
    config = small_config(num_seeds=3, seed=2)
    splits = sources.load(config)
    program = program_of(config, splits)
    summary = seeds.train(config, tmp_path / "runs", splits, program, ["test"], quiet=True)
    assert summary == json.loads((tmp_path / "runs/summary.json").read_text())
    assert summary["runs"] == ["seed-2", "seed-3", "seed-4"]
    values = summary["last"]["overall"]["values"]
    for seed, value in zip((2, 3, 4), values, strict=True):
        alone = train(small_config(seed=seed), tmp_path / f"alone-{seed}")
        assert alone["last"]["accuracy"] == value
        folder = tmp_path / f"runs/seed-{seed}"
        assert json.loads((folder / "config.json").read_text())["seed"] == seed
        kept = [
            {k: v for k, v in r.items() if k not in ("peak_mib", "images_per_second")} for r in metrics.read(folder)
        ]
        same = metrics.read(tmp_path / f"alone-{seed}")
        assert kept == [{k: v for k, v in r.items() if k not in ("peak_mib", "images_per_second")} for r in same]
    assert summary["last"]["overall"]["mean"] == pytest.approx(np.mean(values))
    assert summary["last"]["overall"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert seeds.train(config, tmp_path / "runs", splits, program, ["test"], quiet=True) == summary  # finished
    with pytest.raises(ConfigError, match="holds a run for each of several seeds"):
        train(small_config(), tmp_path / "runs")
    with pytest.raises(ConfigError, match="holds a run of one seed"):
        seeds.train(config, tmp_path / "alone-2", splits, program, ["test"], quiet=True)


@pytest.fixture
def x64_in_all_threads():
    """Also in those in which orbax reads."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.usefixtures("small_network")
def test_seeds_interrupted_at_different_steps_end_where_they_would_have(tmp_path, monkeypatch, x64_in_all_threads):
    class Stop(Exception):
        pass

    config = small_config(num_seeds=2, seeds_at_once=2)
    splits = sources.load(config)
    program = make_program(config, splits)
    save = run.Run.save

    def stop(self, state, step):
        save(self, state, step)
        if step == 8:  # the first seed has saved, the second has not
            raise Stop

    monkeypatch.setattr(run.Run, "save", stop)
    with pytest.raises(Stop):
        seeds.train(config, tmp_path / "parts", splits, program, ["test"], quiet=True)
    monkeypatch.setattr(run.Run, "save", save)
    saved = [checkpoint.find(tmp_path / f"parts/seed-{k}/checkpoints").step for k in (0, 1)]
    assert saved == [8, 6]  # the evaluation at 6 was the best so far
    seeds.train(config, tmp_path / "parts", splits, program, ["test"], quiet=True)
    seeds.train(config, tmp_path / "whole", splits, program, ["test"], quiet=True)
    for k in (0, 1):
        found = [
            checkpoint.restore(checkpoint.find(tmp_path / f"{name}/seed-{k}/checkpoints"), program.init(0))
            for name in ("parts", "whole")
        ]
        assert_close(*found, 1e-8)


def test_auto_is_resident_where_the_images_fit(monkeypatch):
    config = cifar10_lt.get_config("smoke")
    splits = sources.load(config)
    assert config.data.pipeline == "auto"
    assert pipeline_of(config, [splits]) == "resident"
    monkeypatch.setattr("saddle_jax.training.feed.memory_limit", lambda: 10_000)
    assert pipeline_of(config, [splits]) == "tfdata"
    config.steps_at_once = 2
    assert pipeline_of(config, [splits]) == "resident"


def test_what_only_the_host_augments_comes_from_workers():
    config = cifar10_lt.get_config("smoke")
    splits = sources.load(config)
    config.data.augmentation = "autoaugment"
    assert pipeline_of(config, [splits]) == "workers"
    assert not problems_of(config, default.get_config())
    config.data.pipeline, config.steps_at_once = "resident", 2
    found = "\n".join(problems_of(config, default.get_config()))
    assert "data.augmentation='autoaugment' augment them on the host, with Pillow. Fix: --config.data.pipeline" in found
    assert "Fix: --config.steps_at_once=0" in found
    for name in AUGMENTATIONS:
        config.data.augmentation = name
        assert needs_host(flatten(config)) == Augmentation(name, (32, 32, 3)).on_host
