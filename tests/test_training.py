"""Whole runs, in one process and from the command line."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import terminal
from conftest import ROOT, SHARED, optimizations, shared_file
from small_runs import small_config, train

from configs import cifar10_lt, recipes
from saddle_jax import scores
from saddle_jax.data import sources
from saddle_jax.errors import CheckpointError, ConfigError, DataError, NonFiniteError, WorkdirInUse
from saddle_jax.experiment import command_line
from saddle_jax.host import devices, lock
from saddle_jax.host.console import duration
from saddle_jax.host.progress import Progress
from saddle_jax.modes import evaluate as evaluate_mode
from saddle_jax.modes import plan
from saddle_jax.modes import train as train_mode
from saddle_jax.training import checkpoint, metrics, run
from saddle_jax.training.program import make_program

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

ENVIRONMENT = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}


def stored(workdir):
    """Return all that must not depend on interruptions: final arrays, metrics, reports."""
    records = [
        {key: value for key, value in record.items() if key not in ("peak_mib", "images_per_second")}
        for record in metrics.read(pathlib.Path(workdir))
    ]
    latest = checkpoint.find(pathlib.Path(workdir, "checkpoints"))
    from orbax.checkpoint import v1 as ocp

    arrays = jax.tree.map(np.asarray, ocp.load((latest.path / "state").resolve()))
    leaves, structure = jax.tree_util.tree_flatten(arrays)
    results = json.loads(pathlib.Path(workdir, "results.json").read_text())
    return str(structure), [leaf.tobytes() for leaf in leaves], records, latest._replace(path=None), results


@pytest.mark.parametrize(
    "link",
    [pytest.param(k, marks=() if k in ("sam", "cc_sam") else pytest.mark.nightly) for k in recipes.LINKS if k != "sgd"],
)
def test_resuming_in_process_is_bit_identical(link, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    config = small_config(f"ce_drw_{link}", optim__ema_decay=0.5)
    train(config, tmp_path / "whole")
    look = run.Run.log
    for last in (5, 9):  # between checkpoints, and after a best one

        def stop(self, step, values, done, last=last):
            look(self, step, values, done)
            if step == last:
                raise Stop

        monkeypatch.setattr(run.Run, "log", stop)
        with pytest.raises(Stop):
            train(config, tmp_path / "parts")
    monkeypatch.setattr(run.Run, "log", look)
    train(config, tmp_path / "parts")
    assert len(json.loads((tmp_path / "parts/run.json").read_text())["starts"]) == 3
    assert stored(tmp_path / "whole") == stored(tmp_path / "parts")


def test_a_run_directory_is_complete(tmp_path):
    config = small_config()
    results = train(config, tmp_path / "run")
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files - {".lock"} == {
        "run.json",
        "config.json",
        "class_stats.json",
        "metrics.jsonl",
        "checkpoints",
        "eval",
        "results.json",
    }
    record = json.loads((tmp_path / "run/run.json").read_text())
    (provenance,) = record["starts"]
    assert provenance["command"] == ["test"]
    assert provenance["packages"]["jax"] == jax.__version__
    assert provenance["split_hash"] == sources.load(config).split_hash
    assert record["first_checkpoint"] == 4
    assert checkpoint.available(tmp_path / "run/checkpoints") == [6, 8, 12]  # 6 was the best as of 8
    records = metrics.read(tmp_path / "run")
    assert [r["step"] for r in records if "train/loss" in r] == [3, 6, 9, 12]
    assert [r["step"] for r in records if "eval/test/accuracy" in r] == [6, 12]
    assert {"lr", "sam.rho", "train/perturbed_loss", "train/ascent_norm", "train/accuracy"} <= records[0].keys()
    last = results["last"]
    assert last["images"] == 600
    assert last["accuracy"] == pytest.approx(last["balanced_accuracy"])
    assert set(last["groups"]) == {"head", "mid", "tail", "many", "medium", "few"}
    with np.load(tmp_path / "run/eval/12-test-predictions.npz") as predicted:
        np.testing.assert_array_equal(predicted["labels"], sources.load(small_config()).test.labels)
        correct = predicted["predictions"] == predicted["labels"]
    assert 100 * correct.mean() == pytest.approx(last["accuracy"])


def test_the_best_epoch_is_chosen_on_validation_where_there_is_one(tmp_path, capsys):
    config = small_config(data__validation_fraction=0.2, data__validation_floor=1)
    run = tmp_path / "run"
    results = train(config, run)
    assert results["best"]["chosen_by"] == ", best on validation"
    best = checkpoint.find(run / "checkpoints").best
    reports = [json.loads((run / f"eval/{step}-validation.json").read_bytes()) for step in (6, 12)]
    assert best.accuracy == max(report["balanced_accuracy"] for report in reports)  # its classes differ in size
    assert best.accuracy not in [report["accuracy"] for report in reports]

    capsys.readouterr()
    command = command_line.Command("eval", str(run), config, checkpoint="12", adjust="logit")
    assert evaluate_mode.run(command) == 0
    choice = json.loads((run / "eval/adjustment.json").read_text())["logit"]["12"]
    assert choice["chosen_on"] == "validation"
    best = max(point["balanced_accuracy"] for point in choice["curve"])
    assert [p["balanced_accuracy"] for p in choice["curve"] if p["tau"] == choice["tau"]] == [best]
    adjusted = json.loads((run / "eval/12-test-logit.json").read_text())
    assert adjusted["adjustment"] == {"kind": "logit", "tau": choice["tau"]}
    printed = capsys.readouterr().out.splitlines()
    assert "classes without a validation image: 1 of 10" in "\n".join(printed)
    heading = next(number for number, line in enumerate(printed) if line.endswith("  classes"))
    assert printed[heading].split() == ["12", "with", f"logit:{choice['tau']:g}", "classes"]
    assert printed[heading + 2].split()[:3:2] == ["accuracy", f"{adjusted['accuracy']:.2f}"]
    assert max(map(len, printed[heading:-1])) <= 80


def test_an_empty_group_is_not_a_number(tmp_path):
    config = small_config(data__profile="as_is", data__ratio=1.0)  # every class has more than 100 images
    results = train(config, tmp_path / "run")
    assert results["last"]["groups"]["few"] == {"accuracy": None, "classes": 0}


def alike(method):
    """Return whether the same loss with SAM is trained in make test, whose first pass is all that SGD does."""
    return not method.endswith("_sam") and method not in ("ce", "ldam_drw")


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(m, marks=pytest.mark.nightly if alike(m) else ())
        for m in recipes.with_links(recipes.LOSSES, ["sam"])
        if m != "ce_drw_sam"
    ],
)
def test_every_method_trains(method, tmp_path):
    config = cifar10_lt.get_config(f"{method},smoke")
    config.duration, config.eval.every, config.tensorboard = "8 steps", "8 steps", False
    config.checkpoint_every, config.log_every, config.data.pipeline = "8 steps", "8 steps", "numpy"
    results = train(config, tmp_path / "run", program=make_program(config, sources.load(config)))
    assert results["last"]["step"] == 8
    (record,) = [r for r in metrics.read(tmp_path / "run") if "train/loss" in r]
    assert np.isfinite(record["train/loss"])
    assert (record["train/perturbed_loss"] != record["train/loss"]) == method.endswith("_sam")


@pytest.mark.slow
@pytest.mark.nightly  # in make test it falls on digits, in the smoke run
def test_the_loss_falls_on_real_cifar10(tmp_path):
    store = tmp_path / "lt.npz"
    shared_file("data/cifar10_lt.npz")
    subprocess.run([sys.executable, SHARED / "data/unpack.py", "cifar10", "--ratio", "100", "--out", store], check=True)
    config = cifar10_lt.get_config("ldam_drw_sam,profile=as_is")
    config.update_from_flattened_dict(
        {"data.source": "arrays", "data.path": str(store), "model.name": "resnet8", "model.width": 0.5}
        | {"duration": "1 epoch", "loss.drw_start": "99%", "optim.lr": ((0, 0.02),), "log_every": "24 steps"}
        | {"eval.every": "100%", "batch_size": 128, "tensorboard": False, "seed": 1}
    )
    with optimizations(few=False):  # larger images than elsewhere: slow code takes longer than compiling
        results = train(config, tmp_path / "run")
    losses = [r["train/loss"] for r in metrics.read(tmp_path / "run") if "train/loss" in r][:4]
    assert losses == sorted(losses, reverse=True)
    assert losses[3] < 0.8 * losses[0]
    assert results["last"]["images"] == 10_000
    assert results["last"]["accuracy"] > 15


def test_the_smoke_run_of_the_command_line(tmp_path):
    """With tf.data and TensorBoard, saving and logging on the way as a full run does; then evaluation and check."""
    arguments = ["--config", "configs/cifar100_lt.py:smoke,vs_sam,ratio=20", "--workdir", str(tmp_path / "run")]

    def main(*arguments, on_terminal=False):
        command = [sys.executable, ROOT / "main.py", *arguments]
        environment = {**ENVIRONMENT, "TERM": "xterm" if on_terminal else "dumb"}
        if on_terminal:
            code, output = terminal.run(command, 80, env=environment, cwd=tmp_path)
            assert code == 0, output
            return "\n".join(terminal.lines(output))
        result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    arguments[1] = str(ROOT / arguments[1])
    output = main(*arguments, f"--config.compilation_cache={tmp_path / 'compiled'}", on_terminal=True)
    assert max(map(len, output.splitlines())) <= 80
    assert list((tmp_path / "compiled").iterdir())
    for word in (
        " classes of ",
        "sam with rho 0.5",
        "eval   test step 30: accuracy ",
        "100%  ETA 0s\nloss ",
        "compiling the step ... ",
        "best on test  classes",
        "3: 0, 1, 2\n",
        "│ saved  /",
        "│ next   ",
    ):
        assert word in output
    assert list((tmp_path / "run/tensorboard").glob("VS + SAM, cifar100, seed 0/events*"))
    losses = {r["step"]: r["train/loss"] for r in metrics.read(tmp_path / "run") if "train/loss" in r}
    assert list(losses) == [10, 20, 30, 40, 50, 60] and losses[60] < losses[10]
    evaluated = main("--mode", "eval", "--workdir", str(tmp_path / "run"), "--config.eval.batch_size=77")
    rows = [
        [line.split()[:2] for line in text.splitlines() if line.strip().startswith(("acc", "tail"))]
        for text in (output, evaluated)
    ]
    assert rows[0] == rows[1][:2] and len(rows[0]) == 2
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    checked = main("--mode", "check", *arguments[:2], "--workdir", str(tmp_path / "other"))
    for word in (
        "training images",
        "layer1       1 ",
        "total  ",
        "memory a step needs",
        "step   loss",
        "the step was not kept",
    ):
        assert word in checked
    sheet = [str(tmp_path / part) for part in ("other", "other/plots", "other/plots/views.png")]
    assert sorted(str(p) for p in tmp_path.rglob("*")) == sorted([*before, *sheet])


@pytest.mark.faults("W2")
def test_another_config_in_a_used_workdir_is_refused_with_a_diff(tmp_path):
    train(small_config(), tmp_path / "run")
    for changes, expected in (
        ({"batch_size": 16}, ["batch_size: the run has 32, this command 16"]),
        ({"vs__gamma": 0.1, "seed": 4}, ["vs.gamma", "seed: the run has 0, this command 4"]),
        ({"batch_size": 16, "data__root": "there"}, ["data.root: the run has '', this command 'there'", "batch_size"]),
    ):
        with pytest.raises(ConfigError) as error:
            train(small_config(**changes), tmp_path / "run")
        (problem,) = error.value.problems
        assert len(problem.splitlines()) == 1 + len(expected)
        assert all(text in str(error.value) for text in expected)
    train(small_config(log_every="1 steps", data__pipeline="numpy"), tmp_path / "run")  # may change


def test_other_images_under_the_same_config_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    random = np.random.default_rng(0)

    def write(labels):
        images = {
            f"{split}_images": random.integers(0, 256, (n, 8, 8, 1), np.uint8)
            for split, n in (("train", 60), ("test", 6))
        }
        np.savez(path, train_labels=labels, test_labels=np.arange(6) % 3, **images)

    config = small_config(data__source="arrays", data__path=str(path), data__ratio=4.0)
    write(np.arange(60) % 3)
    train(config, tmp_path / "run")
    write(np.repeat(np.arange(3), 20))
    with pytest.raises(DataError, match=r"trained on other images \(split_hash, content_hash differ"):
        train(config, tmp_path / "run")
    write(np.arange(60) % 3)  # the same labels, other pixels
    with pytest.raises(DataError, match=r"trained on other images \(content_hash differ"):
        train(config, tmp_path / "run")


@pytest.mark.faults("N1")
def test_a_loss_that_is_not_finite_ends_the_run_and_nothing_of_it_is_saved(tmp_path):
    config = small_config(optim__lr=((0, 0.1), ("5 steps", 1e38)), eval__every="100%")
    with pytest.raises(NonFiniteError, match=r"step [67]: .* is (nan|inf).*Last good checkpoint: .*4") as error:
        train(config, tmp_path / "run")
    assert error.value.exit_code == 5
    latest = checkpoint.find(tmp_path / "run/checkpoints")
    splits = sources.load(config)
    state = checkpoint.restore(latest, make_program(config, splits).init(0))
    assert latest.step == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.faults("W3")
def test_a_torn_last_line_of_the_metrics_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 3, "a": 1}\n{"step": 6, "a": 2}\n{"step": 9, "a"')
    with metrics.MetricWriter(tmp_path, resumed_step=5) as writer:
        writer.write(6, {"a": 7})
    assert metrics.read(tmp_path) == [{"step": 3, "a": 1}, {"step": 6, "a": 7}]


@pytest.mark.faults("W1")
def test_two_processes_do_not_share_a_directory(tmp_path):
    config = small_config()
    train(config, tmp_path / "run")
    (tmp_path / "run/results.json").unlink()
    with lock.exclusive(tmp_path / "run"), pytest.raises(WorkdirInUse, match=f"in use by process {os.getpid()}"):
        train(config, tmp_path / "run")
    train(config, tmp_path / "run")


def test_evaluation_under_another_config_is_refused_or_not_filed(tmp_path):
    def evaluate(which, config, named):
        command = command_line.Command("eval", str(tmp_path / "run"), config, named, which)
        return evaluate_mode.run(command)

    config = small_config()
    train(config, tmp_path / "run")
    report = (tmp_path / "run/eval/12-test.json").read_text()
    other = small_config(data__subset_seed=3)
    with pytest.raises(ConfigError, match="data.subset_seed: the run has 0, this command 3"):
        evaluate(None, other, True)
    assert evaluate("latest", other, False) == 0  # an override on top of the run's own config
    assert (tmp_path / "run/eval/12-test.json").read_text() == report
    with pytest.raises(CheckpointError, match="expected latest, best or one of the steps"):
        evaluate("13", config, False)
    (tmp_path / "run/eval/12-test.json").unlink()
    assert evaluate("12", config, True) == 0
    again = json.loads((tmp_path / "run/eval/12-test.json").read_text())
    assert {**again, **json.loads(report)} == again and set(again["scores"]) == set(scores.OVERALL)
    with np.load(tmp_path / "run/eval/12-test-predictions.npz") as images:
        logits, predictions = images["logits"], images["predictions"]
        assert logits.dtype == np.float32 and logits.shape == (600, 10)
        np.testing.assert_array_equal(logits.argmax(1), predictions)
        assert 100 * (predictions == images["labels"]).mean() == pytest.approx(again["accuracy"])
    with pytest.raises(ConfigError, match="holds no run"):
        evaluate_mode.run(command_line.Command("eval", str(tmp_path / "none"), config, True))


@pytest.mark.faults("W1")
def test_a_workdir_that_can_not_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    command = command_line.Command("train", str(tmp_path / "file"), small_config(), True)
    with pytest.raises(ConfigError, match="is a file, expected a directory"):
        train_mode.run(command)
    with pytest.raises(ConfigError, match="can't be written"):
        train(small_config(), tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("recipe", "base", "told"),
    [("ce", "sgd", "plain SGD"), ("ce", "adamw", "plain AdamW"), ("ce_sam", "adamw", "sam on AdamW with rho 0.")],
)
def test_the_plan_names_the_optimizer(recipe, base, told):
    config = small_config(recipe, optim__base=base)
    assert plan._link_of(config, sources.load(config)).startswith(told)


@pytest.mark.faults("G2")
def test_what_only_devices_and_data_tell_is_told_at_once(tmp_path):
    config = small_config(batch_size=30, data__mean=(0.5, 0.5, 0.5), data__std=(0.5,) * 3, eval__rank_bounds=(3, 12))
    config.duration = "0.2 steps"
    assert devices.num_devices() == 8
    with pytest.raises(ConfigError) as error:
        make_program(config, sources.load(config))
    assert len(error.value.problems) == 4
    assert "30 can't be split over 8 devices. Fix: --config.batch_size=24" in str(error.value)
    config.data.augmentation, config.method, config.paco.key_augmentation = "autoaugment", "paco", "simclr"
    with pytest.raises(ConfigError) as error:
        make_program(config, sources.load(config))
    assert len(error.value.problems) == 6
    for name in ("autoaugment", "simclr"):
        assert f"{name} changes colors: found images with 1 channels, expected 3" in str(error.value)


def test_progress_lines(capsys):
    progress = Progress(100, 32, 0)
    progress.begin(1)
    for step in range(1, 101):
        progress.update(step, "loss 1")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2  # the first and the last; one a minute between
    assert "100/100 100.0%" in lines[-1]
    assert duration(7510) == "2h05m"
