"""CC-SAM's second stage: its loss in closed form, what stays as it was, and runs that start from another's weights."""

import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp
from small_runs import program_of, small_config, train

from saddle_jax.data import sources
from saddle_jax.data.images import Batch
from saddle_jax.errors import CheckpointError, ConfigError
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats
from saddle_jax.methods import retrain
from saddle_jax.methods.base import DESCENT, Context
from saddle_jax.methods.choose import make_method
from saddle_jax.models.networks import make_resnet
from saddle_jax.modes import train as train_mode
from saddle_jax.optim.link import only
from saddle_jax.optim.sam import sam
from saddle_jax.schedules import make_schedules
from saddle_jax.training import checkpoint, directory, origin, run

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

COUNTS = np.array([100, 30, 10, 4, 1])
LABELS = np.array([0, 0, 0, 1, 1, 3, 3, 4, 2, 2])
MASK = LABELS != 2  # the batch lacks class 2
LAST = 3  # of four epochs of a step each


def second_config(first="", named="retrain", **changes):
    fields = {"data__sampling": "balanced", "optim__weight_decay": 0.1, "start_from": str(first)}
    config = small_config("ce", **fields | changes)
    config.method = named
    return config


class OnBatch:
    """The method's loss and gradient of one random batch, at any step."""

    def __init__(self, **changes):
        config = second_config(duration="4 epochs", optim__lr=((0, 0.1),), loss__class_weights="none", **changes)
        stats = ClassStats(COUNTS, ())
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (len(LABELS), 8, 8, 1), np.uint8)
        draws = np.zeros((len(LABELS), 3), np.int32)
        self.config, self.batch = config, Batch(images, LABELS, MASK, np.arange(len(LABELS)), draws)
        self.method = make_method(config, stats, (8, 8, 1), None, make_schedules(config, stats, steps_per_epoch=1))
        self.variables = devices.jit_once(self.method.init)(jax.random.key(0))

        def of_params(params, step):
            context = Context(step, DESCENT, jnp.ones(len(COUNTS)))
            output = self.method.loss(self.variables._replace(params=params), self.batch, context)
            return output.numerator / output.denominator, output

        self.gradient = jax.jit(jax.grad(of_params, has_aux=True))
        self.loss = jax.jit(lambda step: of_params(self.variables.params, step)[0])

    @functools.cached_property
    def features(self):
        """Return those of the images that count."""
        network = make_resnet(None, self.config.model, len(COUNTS), None)
        seen = (self.batch.images / 255 - 0.3) / 0.35

        def features_of(weights):
            return network.features(weights.params, weights.model_state, seen, MASK, train=True)[0]

        return np.asarray(jax.jit(features_of)(self.variables))[MASK]

    def at(self, step):
        """Return loss, gradient and the method's output at a step."""
        grads, output = self.gradient(self.variables.params, jnp.int32(step))
        return float(output.numerator / output.denominator), grads, output


def closed_form(features, kernel, bias, *, noise, part):
    """Return the loss, its derivatives by kernel and bias, and both of its terms' means; class by class."""
    labels = LABELS[MASK]
    one_hot = np.eye(len(COUNTS))[labels]

    def cross_entropy(features):
        logits = features @ kernel + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return -np.log(p[np.arange(len(labels)), labels]), p - one_hot

    clean, slope = cross_entropy(features)
    weights = np.log(100 / COUNTS + 0.01) / 2
    moved = features.copy()
    for c in np.unique(labels):
        of_class = labels == c
        gradient = (slope / of_class.sum())[of_class] @ kernel.T  # of the class's mean, by its images' features
        moved[of_class] += noise * weights[c] * gradient / np.linalg.norm(gradient)
    flat, slope_there = cross_entropy(moved)
    w = weights[labels]
    by_logits, by_logits_there = (1 - part) * slope / len(labels), part * w[:, None] * slope_there / len(labels)
    loss = np.mean(part * w * flat + (1 - part) * clean)
    by_kernel = features.T @ by_logits + moved.T @ by_logits_there
    return loss, by_kernel, by_logits.sum(0) + by_logits_there.sum(0), clean.mean(), (w * flat).mean()


@pytest.mark.parametrize(
    ("step", "limit", "noise", "part"),
    [(0, 1.0, 1.0, 0.25), (LAST, 1.0, 1.0, 1.0), (LAST, 0.3, 2.0, 0.3), (1, 1.0, 0.0, 0.5), (LAST, 0.0, 1.0, 0.0)],
)
def test_loss_and_gradient_are_the_closed_form(step, limit, noise, part, x64):
    on_batch = OnBatch(retrain__feature_noise=noise, retrain__flat_limit=limit)
    head = jax.tree.map(np.asarray, on_batch.variables.params["linear"])
    expected = closed_form(on_batch.features, head["kernel"], head["bias"], noise=noise, part=part)
    loss, grads, output = on_batch.at(step)
    terms = (output.metrics[name] / output.images for name in ("clean_loss", "flat_loss"))
    found = loss, grads["linear"]["kernel"], grads["linear"]["bias"], *terms
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    backbone = {name: tree for name, tree in grads.items() if name != "linear"}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(backbone))


COSINES = {"loss__name": "ldam", "model__head": "normed"}


def test_without_its_flat_part_it_is_the_plain_loss(x64):
    retrained, plain = OnBatch(retrain__flat_limit=0.0, **COSINES), OnBatch(named="plain", **COSINES)
    np.testing.assert_allclose(retrained.loss(LAST), plain.loss(LAST), rtol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, retrained.variables, plain.variables)


def test_noise_raises_the_loss_of_a_cosine_head_too(x64):
    some, none = (OnBatch(retrain__feature_noise=noise, **COSINES).loss(LAST) for noise in (1e-3, 0.0))
    assert some > none


def test_directions_of_classes_have_length_one_and_none_where_nothing_pulls(x64):
    random = np.random.default_rng(0)
    features, vectors = random.normal(size=(10, 4)), random.normal(size=(10, 4))
    vectors[LABELS == 3] = 0

    def losses(features):
        return jnp.where(MASK, jnp.sum(features * vectors, axis=1), jnp.inf)  # a masked one's may be anything

    found = retrain.class_directions(losses, jnp.asarray(features), LABELS, MASK, 5, None)
    lengths = [np.linalg.norm(found[c == LABELS]) for c in range(5)]
    np.testing.assert_allclose(lengths, [1, 1, 0, 0, 1], rtol=1e-12)
    np.testing.assert_allclose(found[0] / vectors[0], found[1] / vectors[1], rtol=1e-12)  # one length for a class


def test_an_optimizer_of_a_part_is_the_optimizer_of_that_part_alone(x64):
    """Norm of SAM, weight decay and momentum: as if there were nothing but the trained parameters."""
    chain = optax.chain(sam(0.3), optax.add_decayed_weights(0.1), optax.trace(0.9), optax.scale(-0.1))
    everything = {"fixed": jnp.arange(1.0, 4), "moved": {"a": jnp.array([1.0, -2]), "b": jnp.array(3.0)}}

    def loss(params):
        fixed, moved = params["fixed"], params["moved"]
        return jnp.sum(fixed**2) * moved["b"] ** 2 + jnp.sum(jnp.cos(moved["a"])) * fixed[0]

    def grad_fn(params, class_weights_C=None):
        return jax.grad(loss)(params), None

    def part_grad_fn(moved, class_weights_C=None):
        return grad_fn({**everything, "moved": moved})[0]["moved"], None

    mask = {"fixed": False, "moved": {"a": True, "b": True}}
    partly = only(lambda _: mask, chain)
    params, moved = everything, everything["moved"]
    state, part_state = partly.init(params), chain.init(moved)
    assert [x.shape for x in jax.tree.leaves(state)] == [x.shape for x in jax.tree.leaves(part_state)]
    for _ in range(3):
        updates, state = partly.update(grad_fn(params)[0], state, params, grad_fn=grad_fn)
        part, part_state = chain.update(part_grad_fn(moved)[0], part_state, moved, grad_fn=part_grad_fn)
        params, moved = optax.apply_updates(params, updates), optax.apply_updates(moved, part)
    jax.tree.map(np.testing.assert_array_equal, params, {**everything, "moved": moved})


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("first") / "run"
    train(small_config("ce"), workdir)
    return workdir


def last_state(workdir):
    """Return the newest checkpoint's arrays, whatever is in it."""
    path = checkpoint.find(workdir / "checkpoints").path / "state"
    return jax.tree.map(np.asarray, ocp.load(path.resolve()))


def test_a_run_changes_the_classifier_and_running_statistics_alone(first, tmp_path, capsys):
    train(second_config(first), tmp_path / "second", quiet=False)
    assert f"weights start as those of {first} at step 12\n" in capsys.readouterr().out
    before, after = last_state(first), last_state(tmp_path / "second")
    (kernel, bias), (kernel_after, bias_after) = (
        (state["params"]["linear"].pop("kernel"), state["params"]["linear"].pop("bias")) for state in (before, after)
    )
    assert np.all(kernel_after != kernel) and np.all(bias_after != bias)
    jax.tree.map(np.testing.assert_array_equal, after["params"], before["params"])
    mean, mean_after = (state["model_state"]["batch_stats"]["bn1"]["mean"] for state in (before, after))
    assert not np.array_equal(mean_after, mean)
    moments = [leaf for leaf in jax.tree.leaves(after["opt_state"]) if leaf.ndim]
    assert sorted(leaf.shape for leaf in moments) == sorted((kernel.shape, bias.shape))
    record = json.loads((tmp_path / "second/run.json").read_text())
    assert record["weights_from"] == {"run": str(first), "step": 12}


@pytest.mark.parametrize("link", ["sgd", pytest.param("lpf_sgd", marks=pytest.mark.nightly)])
def test_a_run_starts_with_the_other_runs_last_weights(link, first, tmp_path):
    """At a learning rate of 0 and with frozen statistics they are also its last ones."""
    still = {"optim__lr": ((0, 0.0),), "optim__batch_stats": "frozen", "optim__name": link}
    config = second_config(first, seed=3, duration="4 steps", eval__every="4 steps", **still)
    train(config, tmp_path / "second")
    before, after = last_state(first), last_state(tmp_path / "second")
    for part in ("params", "model_state"):
        jax.tree.map(np.testing.assert_array_equal, after[part], before[part])


def test_an_interrupted_run_goes_on_from_its_own_checkpoint(first, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    given = pathlib.Path(shutil.copytree(first, tmp_path / "first"))
    config = second_config(given)
    whole = train(config, tmp_path / "whole")
    look = run.Run.log

    def stop(self, step, values, done):
        look(self, step, values, done)
        if step == 9:
            raise Stop

    monkeypatch.setattr(run.Run, "log", stop)
    with pytest.raises(Stop):
        train(config, tmp_path / "parts")
    monkeypatch.setattr(run.Run, "log", look)
    shutil.rmtree(given)  # is not needed any more
    assert train(config, tmp_path / "parts") == whole
    states = (last_state(tmp_path / name) for name in ("parts", "whole"))
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert json.loads((tmp_path / "parts/run.json").read_text())["weights_from"]["step"] == 12
    with pytest.raises(ConfigError, match="start_from: the run has .*, this command '/elsewhere'"):
        directory.require_same_run(tmp_path / "parts", second_config("/elsewhere"), sources.load(config))


def damaged(folder):
    (folder / "checkpoints/12/meta.json").write_text("{")


@pytest.mark.parametrize(
    ("harm", "error", "words"),
    [
        (shutil.rmtree, ConfigError, ["holds no run", "Fix: --config.start_from=DIRECTORY"]),
        (lambda folder: shutil.rmtree(folder / "checkpoints"), CheckpointError, ["found no checkpoint"]),
        (damaged, CheckpointError, ["start_from: ", "12 is damaged: ", "meta.json"]),
    ],
)
def test_what_a_run_can_not_start_from_is_told_before_its_first_file(harm, error, words, first, tmp_path):
    given = pathlib.Path(shutil.copytree(first, tmp_path / "first"))
    harm(given)
    with pytest.raises(error) as told:
        train(second_config(given), tmp_path / "second")
    assert all(word in str(told.value) for word in words), told.value
    assert "--checkpoint" not in str(told.value)
    assert {path.name for path in (tmp_path / "second").rglob("*")} <= {".lock"}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model__width": 0.5}, "model_state.batch_stats.bn1.mean: found float32[4], expected float32[8]"),
        ({"loss__name": "ldam", "model__head": "normed"}, "params.linear.bias: found float32[10], expected nothing"),
    ],
)
def test_another_network_is_refused(changes, word, first, tmp_path):
    config = second_config(first, **changes)
    program = program_of(config, sources.load(config))
    state = jax.eval_shape(lambda: program.init(0))
    with pytest.raises(CheckpointError, match="start_from: .*12 belongs to another network:") as told:
        origin.find(config, tmp_path).adopt(state, sources.load(config))
    assert word in str(told.value)
    assert f"Fix: use the model and the number of classes of {first / 'config.json'}" in str(told.value)


def test_a_missing_run_is_told_before_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "load", lambda _: pytest.fail("data were read"))
    config = second_config(tmp_path / "nothing", num_seeds=2)
    with pytest.raises(ConfigError, match="nothing holds no run"):
        train_mode.run(Command("train", str(tmp_path / "second"), config))


def test_each_of_several_seeds_starts_from_the_run_of_its_seed(first, tmp_path):
    for seed in (4, 5):
        shutil.copytree(first, tmp_path / f"seeds/seed-{seed}")
    found = origin.find(second_config(tmp_path / "seeds", seed=5), tmp_path / "second")
    assert found.run == tmp_path / "seeds/seed-5"
    with pytest.raises(ConfigError, match="has seed-4, seed-5, expected seed-6. Fix: use one of them for all seeds"):
        origin.find(second_config(tmp_path / "seeds", seed=6), tmp_path / "second")


def test_what_may_be_a_mistake_is_said(first, tmp_path):
    given = pathlib.Path(shutil.copytree(first, tmp_path / "first"))
    (given / "results.json").unlink()
    config = second_config(given, data__ratio=20.0)
    splits = sources.load(config)
    told = origin.find(config, tmp_path / "second").describe(splits)
    assert "a run that has not finished; it was trained on other images (counts, " in told
    (given / "class_stats.json").unlink()
    assert "are not known" in origin.find(config, tmp_path / "second").describe(splits)
