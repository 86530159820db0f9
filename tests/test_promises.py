"""Promises of docs/reliability.md about what goes in: class sizes, set sizes, configs, used directories, torn files."""

import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN, ROOT
from small_runs import small_config, train

from configs import default, recipes
from saddle_jax.data import sources
from saddle_jax.errors import ConfigError, DataError
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment import config_file
from saddle_jax.losses import make_loss
from saddle_jax.schedules import make_schedules
from saddle_jax.training import checkpoint, directory, evaluate, metrics

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

SETS = {  # training and test images of each class
    "an empty class": ([9, 0, 3], [2, 0, 2]),
    "a class only in the test set": ([9, 0, 3], [2, 2, 2]),
    "a class only in the training set": ([9, 4, 3], [2, 0, 2]),
    "a single class": ([9], [3]),
    "a class of one image": ([9, 3, 1], [2, 2, 2]),
    "8,142 classes of one image": ([1] * 8142, [1] * 8142),
}
LOSSES = {
    "ce": {"loss__class_weights": "drw"},
    "ldam": {"loss__class_weights": "reweight", "model__head": "normed"},
    "vs": {"loss__class_weights": "none"},
    "la": {"loss__class_weights": "drw"},
}


WITH_EVERY_LOSS = ("an empty class", "a single class")  # in make test; the others with LDAM


def odd(name, loss):
    return pytest.param(name, loss, marks=() if name in WITH_EVERY_LOSS or loss == "ldam" else pytest.mark.nightly)


@pytest.mark.faults("D3")
@pytest.mark.parametrize(("name", "loss"), [odd(name, loss) for name in SETS for loss in LOSSES])
def test_odd_class_sizes_give_an_error_or_finite_numbers(name, loss, tmp_path):
    arrays = {}
    for split, counts in zip(("train", "test"), SETS[name], strict=True):
        labels = np.repeat(np.arange(len(counts)), counts)
        arrays |= {f"{split}_labels": labels, f"{split}_images": np.zeros((len(labels), 2, 2, 1), np.uint8)}
    names = np.array([f"class {c}" for c in range(len(SETS[name][0]))])
    np.savez(tmp_path / "set.npz", **arrays, class_names=names)
    fields = {"data__source": "arrays", "data__path": str(tmp_path / "set.npz"), "data__profile": "as_is"}
    config = small_config(data__ratio=1.0, loss__name=loss, **fields, **LOSSES[loss])
    if 0 in SETS[name][0]:
        with pytest.raises(DataError, match="1 of 3 classes end up with no training images: 1 .*allow_empty_classes"):
            sources.load(config)
    config.data.allow_empty_classes = True
    stats = sources.load(config).stats
    schedules = make_schedules(config, stats, steps_per_epoch=3)
    random = np.random.default_rng(0)
    labels = jnp.asarray(arrays["train_labels"][:64])
    logits = jnp.asarray(random.uniform(-1, 1, (len(labels), stats.num_classes)), jnp.float32)
    loss_fn = make_loss(config, stats, 30.0)
    for step in (0, 11):
        weights_C = schedules.class_weights(step)
        value, slope = jax.value_and_grad(lambda x, w=weights_C: jnp.mean(w[labels] * loss_fn(x, labels)))(logits)
        for number in (weights_C, value, slope):
            assert np.isfinite(number).all(), (name, loss, step)
    labels = arrays["test_labels"]
    correct = evaluate.Evaluation(labels, labels, np.ones(len(labels), bool))
    report = evaluate.summary(correct, stats, ())
    assert "NaN" not in json.dumps(report)
    assert report["accuracy"] == 100
    assert [a is None for a in report["class_accuracy"]] == [n == 0 for n in SETS[name][1]]


@pytest.mark.faults("D5")
@pytest.mark.parametrize("count", [pytest.param(n, marks=() if n == 3 else pytest.mark.nightly) for n in (1, 2, 3, 4)])
def test_evaluations_count_every_image_once(count, record_property):
    sizes = [1, 31, 32, 33, 101]
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    command = [sys.executable, ROOT / "tests/evaluate_sizes.py", *map(str, sizes)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found == [{"size": size, "devices": count, "images": size, "same": True} for size in sizes]
    record_property("faults", len(sizes))


MODULES = [f"configs.{name.replace('/', '.')}" for name in config_file.SHIPPED]
SHIPPED = {name.removeprefix("configs."): importlib.import_module(name) for name in MODULES}
LINKS = [f"ldam_drw_{link}" for link in recipes.LINKS]  # what is set for a link does not depend on the loss
METHODS_OF = {
    "cifar10_lt": [*recipes.with_links(recipes.LOSSES, ["sam"]), *LINKS],
    "cifar100_lt": LINKS,
    "imagenet_lt": LINKS,
    "methods.glmc_cifar": ("glmc", "glmc_published", "glmc_sam", "glmc_sam_published"),
    "methods.paco_cifar100": ("paco", "paco_sam"),
    "methods.retrain_cifar": ("retrain_sam", "data=cifar100"),
}
ARGUMENTS = {name: ["", "smoke", *METHODS_OF.get(name, ())] for name in SHIPPED}


@pytest.mark.faults("G3")
def test_shipped_configs_are_what_they_were(record_property):
    """UPDATE_GOLDEN=1 writes anew what each of them changes of the defaults."""
    before = config_lib.flatten(default.get_config())
    found = {}
    for name, module in SHIPPED.items():
        for argument in ARGUMENTS[name]:
            fields = config_lib.flatten(module.get_config(argument))
            found[f"{name}:{argument}"] = {key: value for key, value in fields.items() if value != before[key]}
    path = GOLDEN / "configs.json"
    if os.environ.get("UPDATE_GOLDEN"):
        lines = [f"{json.dumps(key)}: {json.dumps(fields, sort_keys=True)}" for key, fields in found.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    golden = json.loads(path.read_text())
    assert golden.keys() == found.keys()
    for config, fields in json.loads(json.dumps(found)).items():
        assert fields == golden[config], config
    record_property("faults", len(found))


ALWAYS = ("imagenet_lt", "methods.glmc_cifar")


@pytest.mark.faults("G4")
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.nightly) for name in SHIPPED]
)
def test_every_shipped_config_trains_evaluates_and_resumes(name, tmp_path):
    config = SHIPPED[name].get_config("smoke")
    config.duration, config.eval.every, config.checkpoint_every = "4 steps", "2 steps", "2 steps"
    config.tensorboard, config.log_every = False, "1 steps"
    whole = train(config, tmp_path / "run")
    records = metrics.read(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/4")
    (tmp_path / "run/results.json").unlink()
    assert train(config, tmp_path / "run") == whole
    speed = ("images_per_second", "peak_mib")
    kept = [
        [{k: v for k, v in r.items() if k not in speed} for r in run]
        for run in (records, metrics.read(tmp_path / "run"))
    ]
    assert kept[0] == kept[1]
    assert [r["step"] for r in records if "train/loss" in r] == [1, 2, 3, 4]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train(small_config(log_every="1 steps"), workdir)
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.faults("G5")
@pytest.mark.parametrize(
    ("field", "value", "may"),
    [
        ("log_every", "7 steps", True),
        ("checkpoint_every", "1 steps", True),
        ("data__pipeline", "numpy", True),
        ("watchdog_secs", 5, True),
        ("duration", "24 steps", False),
        ("optim__lr", ((0, 0.3),), False),
        ("optim__name", "sgd", False),
        ("model__width", 0.5, False),
    ],
)
def test_what_may_change_when_a_run_is_continued(trained, field, value, may):
    config = small_config(log_every="1 steps")
    splits = sources.load(config)
    directory.require_same_run(trained, config, splits)
    config.update_from_flattened_dict({field.replace("__", "."): value})
    if may:
        directory.require_same_run(trained, config, splits)
        return
    with pytest.raises(ConfigError, match=rf"{field.replace('__', '.')}: the run has .*, this command") as error:
        directory.require_same_run(trained, config, splits)
    assert error.value.exit_code == 2


@pytest.mark.faults("W2")
@pytest.mark.parametrize(
    "stray", [(), ("notes.txt", "checkpoints/.DS_Store", "checkpoints/copy of 8/meta.json", "eval/x")]
)
def test_a_finished_run_is_left_as_it_is_and_stray_files_do_not_matter(copy, stray):
    for name in stray:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("?")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert train(small_config(log_every="1 steps"), copy) == json.loads((copy / "results.json").read_bytes())
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.faults("W3")
@pytest.mark.parametrize(
    "tear", ["in a number", "in a name", "before the line's end", "bytes of nothing", "another step's record after it"]
)
def test_a_torn_end_of_the_metrics_is_written_again(copy, trained, tear):
    """The run was killed after step 8 was saved, in the record of a later step."""
    shutil.rmtree(copy / "checkpoints/12")
    (copy / "results.json").unlink()
    path = copy / "metrics.jsonl"
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if json.loads(line)["step"] <= 10]
    last = {
        "in a number": lines[-1][:-20],
        "in a name": lines[-1][:5],
        "before the line's end": lines[-1][:-1],
        "bytes of nothing": lines[-1][:40] + b"\x00\xff" * 50,
        "another step's record after it": lines[-1][:30] + b"\n" + lines[-1],
    }[tear]
    path.write_bytes(b"".join(lines[:-1]) + last)
    train(small_config(log_every="1 steps"), copy)

    def records(workdir):
        speed = ("images_per_second", "peak_mib")
        return [{k: v for k, v in record.items() if k not in speed} for record in metrics.read(workdir)]

    assert records(copy) == records(trained)
    assert [r["step"] for r in records(copy) if "train/loss" in r] == list(range(1, 13))
    assert checkpoint.find(copy / "checkpoints").step == 12
