"""Spectra of whole runs: in their own mode, along training, killed and started again, on one device and eight."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
from conftest import ROOT
from small_runs import small_config

import saddle_jax
from configs import default
from saddle_jax import modes
from saddle_jax.data import sources
from saddle_jax.data.images import Batch
from saddle_jax.errors import CheckpointError, ConfigError, DataError, NonFiniteError, WorkdirInUse
from saddle_jax.experiment import command_line
from saddle_jax.experiment import config as config_lib
from saddle_jax.host import lock
from saddle_jax.methods.plain import make as make_plain
from saddle_jax.modes import spectra as spectra_mode
from saddle_jax.report import style
from saddle_jax.spectra import results
from saddle_jax.spectra.spectrometer import Spectrometer
from saddle_jax.training import checkpoint
from saddle_jax.training.program import make_program

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

ONE_DEVICE = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
EIGHT_DEVICES = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
QUICK = ("--config.spectra.steps=8", "--config.spectra.probes=2", "--config.spectra.escape_batches=2")
QUICK_FIELDS = {"steps": 8, "probes": 2, "escape_batches": 2}
SMALL = (
    "--config=configs/digits_lt.py:ldam_drw_sam,smoke", "--config.duration=12 steps", "--config.eval.every=6 steps",
    "--config.checkpoint_every=6 steps", "--config.model.width=0.125", "--config.loss.drw_start=1 step",
)  # fmt: skip


def main(*arguments, environment=ONE_DEVICE):
    command = [sys.executable, ROOT / "main.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def run(workdir, checkpoint=None, compare=(), draw=False, **fields):
    """Run the mode in this process on a run's own config, with fields of config.spectra changed."""
    config = default.get_config()
    if (workdir / "config.json").is_file():
        config = config_lib.from_json((workdir / "config.json").read_bytes())
    spectra = {f"spectra.{key}": value for key, value in {**QUICK_FIELDS, **fields}.items() if "__" not in key}
    others = {key.replace("__", "."): value for key, value in fields.items() if "__" in key}
    config.update_from_flattened_dict({**spectra, **others})
    command = command_line.Command(
        "spectra", str(workdir), config, checkpoint=checkpoint, compare=list(map(str, compare))
    )
    with contextlib.nullcontext() if draw else no_pictures():
        return modes.run(command)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a cosine head and re-weighting."""
    workdir = tmp_path_factory.mktemp("trained")
    result = main(*SMALL, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


@contextlib.contextmanager
def no_pictures():
    """Save no figure where a test looks at numbers; each takes longer than many a spectrum."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", lambda _, path: path)
        yield


def numbers(folder):
    """Return all that must not depend on interruptions, a dictionary for each target."""
    summary = results.read_summary(folder)
    for target in summary["targets"].values():
        target.pop("seconds")
    arrays = {}
    for name in summary["targets"]:
        with np.load(folder / f"{name}.npz") as stored:
            arrays[name] = {key: stored[key].tobytes() for key in stored if key != "summary"}
    return summary, arrays


def test_a_finished_run_is_measured_and_drawn(copy, tmp_path, capsys):
    code = run(copy, classes="9,tail,whole", draw=True)
    assert code == 0
    folder = copy / "spectra" / "12"
    printed = capsys.readouterr().out
    for part in ("ce loss, logit scale 30, BatchNorm in eval mode, float32", "per probe;", "class-9", "whole"):
        assert part in printed
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["targets"]) == ["class-9", "tail", "whole"]
    assert summary["epoch"] == pytest.approx(12 / summary_steps_per_epoch(copy))
    for name, target in summary["targets"].items():
        assert target["lambda_min"] < target["lambda_max"]
        assert target["residual_max"] >= 0
        assert target["products"] == 2 * 8 + 4 + 2
        assert target["repeat"] == 0
        if target["lambda_min"] < 0:
            assert target["escape"]["rho"] == pytest.approx(0.1)
            assert (folder / f"{name}-slice.png").stat().st_size > 5000
        for ending in ("png", "pdf"):
            assert (folder / f"{name}.{ending}").stat().st_size > 5000
    assert (folder / "all.png").is_file()
    counts = json.loads((copy / "class_stats.json").read_text())["counts"]
    assert [summary["targets"][n]["images"] for n in summary["targets"]] == [
        counts[9], sum(counts[7:]), sum(counts),
    ]  # fmt: skip

    # Finished targets are not measured again, further ones join them; here from Python.
    before = numbers(folder)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    with no_pictures():
        found = saddle_jax.load(copy).spectra("9,3", **QUICK_FIELDS)
    assert found == json.loads((folder / "summary.json").read_text()) and "class-3" in found["targets"]
    assert "class-9" in (said := capsys.readouterr().out)
    assert "(measured before)" in said
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    after = numbers(folder)
    assert after[1].pop("class-3")
    assert after[1] == before[1]

    # Other settings take the folder; what was there is kept aside.
    other = shutil.copytree(copy, tmp_path / "another", ignore=shutil.ignore_patterns("spectra"))
    fields = {"probes": 1, "eigenvectors": True, "dtype": "float64", "landscape": str(other)}
    run(copy, "latest", classes="9", draw=True, **fields)
    (aside,) = folder.parent.glob("12-*")
    with np.load(folder / "class-9.npz") as stored:
        vector = np.concatenate([stored[k].ravel() for k in stored if k.startswith("eigenvector_min/")])
        assert "eigenvector_max/layer1_0/conv1/kernel" in stored
        assert vector.dtype == np.float64
        assert np.linalg.norm(vector) == pytest.approx(1)
        plane, path = stored["landscape_losses"], stored["path_run"]
        np.testing.assert_array_equal(path, stored["path_another"])
    middle = results.read_summary(folder)["targets"]["class-9"]["loss"]
    assert plane.shape == (25, 25) and plane[12, 12] == pytest.approx(middle)
    assert path[:, 0].tolist() == [6, 12]
    assert path[-1, [1, 2, 3, 5]].tolist() == [0, 0, 0, pytest.approx(middle)]
    assert 0 < path[0, 4] < 1
    assert (folder / "class-9-landscape.svg").stat().st_size > 5000
    kept = numbers(aside)[1]
    assert kept.pop("class-3")
    assert kept == before[1]


def summary_steps_per_epoch(workdir):
    stats = json.loads((workdir / "class_stats.json").read_text())
    return -(-stats["train_images"] // json.loads((workdir / "config.json").read_text())["batch_size"])


FIELDS = {
    "loss": "training", "logit_scale": 1.0, "class_weights": "training", "batch_norm": "train", "steps": 9, "probes": 3,
    "seed": 1, "density_variance": 1e-3, "escape_batches": 3, "escape_batch_size": 5, "rho": 0.3, "slice_radius": 0.4,
    "dtype": "float64",
}  # fmt: skip
CHANGES = {  # what a field must change, and what it must not
    "loss": ("loss", ""), "logit_scale": ("loss", ""), "class_weights": ("loss", ""), "batch_norm": ("loss", ""),
    "steps": ("nodes", "loss"), "probes": ("trace", "loss"), "seed": ("trace", "loss"),
    "density_variance": ("density", "nodes"), "escape_batches": ("escape_along", "nodes"),
    "escape_batch_size": ("escape_along", "nodes"), "rho": ("escape_sam_along", "escape_along"),
    "slice_radius": ("escape_losses", "escape_sam_along"), "dtype": ("loss", ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def by_default(trained, tmp_path_factory):
    """The spectrum of its tail, as by default."""
    workdir = pathlib.Path(shutil.copytree(trained, tmp_path_factory.mktemp("by_default") / "run"))
    run(workdir, classes="tail")
    return numbers_of(workdir, "tail")


@pytest.fixture(scope="module")
def cosines_and_labels(trained):
    """What the last checkpoint says of its tail, image by image."""
    config = config_lib.from_json((trained / "config.json").read_bytes())
    splits = sources.load(config)
    program = make_program(config, splits)
    state = checkpoint.restore(checkpoint.find(trained / "checkpoints"), program.init(0))
    chosen = np.isin(splits.train.labels, (7, 8, 9))
    images, labels = splits.train.images[chosen], splits.train.labels[chosen]
    method = make_plain(config, splits.stats, images.shape[1:], None)
    batch = Batch(images, labels, np.ones(len(labels), bool), labels, labels)
    cosines = jax.jit(method.predict)(state.params, state.model_state, batch)
    return np.asarray(cosines, np.float64), labels, splits.stats.counts_C


def numbers_of(workdir, target):
    with np.load(workdir / "spectra" / "12" / f"{target}.npz") as stored:
        arrays = {key: stored[key] for key in stored}
    return {**json.loads(str(arrays.pop("summary"))), **arrays}


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_does_what_it_says(copy, by_default, field):
    expected = by_default
    run(copy, classes="tail", **{field: FIELDS[field]})
    found = numbers_of(copy, "tail")
    changed, kept = CHANGES[field]
    assert found["lambda_min"] < 0
    assert not np.array_equal(found[changed], expected[changed])
    if kept:
        np.testing.assert_array_equal(found[kept], expected[kept])


@pytest.mark.parametrize(
    ("loss", "scale", "weights"), [("ce", 30.0, "none"), ("training", 0.0, "training"), ("ce", 1.0, "none")]
)
def test_the_loss_of_a_run_is_what_its_name_says(copy, cosines_and_labels, loss, scale, weights):
    """Loss of the tail, from the checkpoint's logits and the formulas written out."""
    run(copy, classes="tail", loss=loss, logit_scale=scale, class_weights=weights, dtype="float64")
    found = numbers_of(copy, "tail")
    cosines, labels, counts = cosines_and_labels
    logits = cosines * (scale or 30.0)
    class_weights = np.ones(10)
    if loss == "training":
        margins = counts**-0.25 * (0.5 / (counts**-0.25).max())
        logits = 30.0 * (cosines - np.eye(10)[labels] * margins)
        class_weights = (1 - 0.9999) / (1 - 0.9999**counts)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    expected = np.average(losses, weights=class_weights[labels])
    assert found["loss"] == pytest.approx(expected, rel=1e-4)  # the logits here are float32


@pytest.mark.slow
@pytest.mark.nightly
def test_one_device_and_eight_measure_the_same(trained, tmp_path):
    found = {}
    for name, environment in (("one", ONE_DEVICE), ("eight", EIGHT_DEVICES)):
        workdir = pathlib.Path(shutil.copytree(trained, tmp_path / name))
        result = main("--mode=spectra", f"--workdir={workdir}", "--config.spectra.classes=1,9,tail", *QUICK,
                      "--config.spectra.dtype=float64", environment=environment)  # fmt: skip
        assert result.returncode == 0, result.stderr
        found[name] = {}
        for target in ("class-1", "class-9", "tail"):
            with np.load(workdir / "spectra" / "12" / f"{target}.npz") as stored:
                found[name][target] = {key: stored[key] for key in stored if key != "summary"}
                summary = json.loads(str(stored["summary"]))
                found[name][target]["summary"] = [summary[k] for k in ("loss", "lambda_max", "lambda_min", "trace")]
    for target, arrays in found["one"].items():
        for key, value in arrays.items():
            other = found["eight"][target][key]
            np.testing.assert_allclose(other, value, rtol=1e-8, atol=1e-10 * np.nanmax(np.abs(value)), err_msg=key)


@pytest.mark.faults("K6")
@pytest.mark.slow
@pytest.mark.nightly
def test_killed_between_classes_it_goes_on_where_it_stopped(trained, tmp_path, record_property):
    arguments = ("--mode=spectra", "--config.spectra.classes=each", "--config.spectra.steps=30")
    expected = pathlib.Path(shutil.copytree(trained, tmp_path / "unbroken"))
    assert main(*arguments, f"--workdir={expected}").returncode == 0
    workdir = pathlib.Path(shutil.copytree(trained, tmp_path / "killed"))
    folder = workdir / "spectra" / "12"
    for finished, number in ((1, signal.SIGKILL), (3, signal.SIGTERM), (5, signal.SIGKILL), (7, signal.SIGINT)):
        command = [sys.executable, ROOT / "main.py", *arguments, f"--workdir={workdir}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_DEVICE)
        while len(list(folder.glob("*.npz"))) < finished and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
        assert process.returncode == (-9 if number == signal.SIGKILL else 75), error
        if number != signal.SIGKILL:
            assert "finished targets are kept" in error
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    assert 7 <= len(kept) < 10
    assert main(*arguments, f"--workdir={workdir}").returncode == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    assert numbers(folder) == numbers(expected / "spectra" / "12")
    record_property("faults", 4)


def stopped_while_it_measures(step, workdir, *along):
    """Train until a first class of `step` is measured, then send SIGTERM; return what was printed."""
    command = [sys.executable, ROOT / "main.py", *SMALL, *along, f"--workdir={workdir}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_DEVICE)
    while not list(workdir.glob(f"spectra/{step}/*.npz")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 75, error
    return output, error


@pytest.mark.slow
def test_along_training_it_measures_the_same_and_changes_nothing(trained, tmp_path):
    """Also when it is stopped while it measures: training goes on with the rest."""
    along = ("--config.spectra.every=12 steps", "--config.spectra.at=('6 steps',)", "--config.spectra.classes=0,9")
    along += ("--config.spectra.steps=40", "--config.spectra.probes=2", "--config.spectra.escape_batches=2")
    workdir = tmp_path / "along"
    _, error = stopped_while_it_measures(6, workdir, *along)
    assert "saved step 6 of 12" in error
    assert len(list(workdir.glob("spectra/6/*.npz"))) == 1
    assert main(*SMALL, *along, f"--workdir={workdir}").returncode == 0
    assert list(results.folders(workdir)) == [6, 12]
    assert all(len(list(folder.glob("*.npz"))) == 2 for folder in results.folders(workdir).values())
    assert (workdir / "spectra" / "ratio.pdf").is_file()
    assert (workdir / "results.json").read_bytes() == (trained / "results.json").read_bytes()
    mode = pathlib.Path(shutil.copytree(trained, tmp_path / "mode"))
    assert main("--mode=spectra", f"--workdir={mode}", "--checkpoint=all", *along).returncode == 0
    assert list(results.folders(mode)) == [6, 12]
    for step in ("6", "12"):
        assert numbers(workdir / "spectra" / step) == numbers(mode / "spectra" / step)
    # A later command of the same run may ask for other spectra.
    assert modes.run(command_line.parse(["main.py", *SMALL, f"--workdir={workdir}"])) == 0


@pytest.mark.slow
@pytest.mark.nightly
def test_a_signal_or_a_failure_at_the_last_step_is_no_silent_success(tmp_path):
    along = (
        "--config.spectra.at=(0, '8 steps', '12 steps')",
        "--config.spectra.classes=each",
        "--config.spectra.steps=40",
    )
    workdir = tmp_path / "last"
    (workdir / "spectra" / "8").mkdir(parents=True)
    (workdir / "spectra" / "8" / "summary.json").write_text("{")  # measuring fails there; training goes on
    output, error = stopped_while_it_measures(12, workdir, *along)
    assert "note   spectra at step 8 are not complete: DataError" in output
    assert len(list(workdir.glob("spectra/0/*.npz"))) == 10  # of the first weights
    assert not (workdir / "results.json").exists()
    shutil.rmtree(workdir / "spectra" / "8")  # the fix that the message names
    assert main(*SMALL, *along, f"--workdir={workdir}").returncode == 0
    assert len(list(workdir.glob("spectra/12/*.npz"))) == 10
    assert (workdir / "results.json").is_file()


def test_a_checkpoint_that_vanishes_is_looked_for_once_more(copy, monkeypatch):
    find, calls = checkpoint.find, []

    def vanishing(folder, which="latest"):
        calls.append(which)
        if len(calls) == 1:
            raise FileNotFoundError("pruned")
        return find(folder, which)

    monkeypatch.setattr(checkpoint, "find", vanishing)
    assert run(copy, classes="9") == 0
    assert len(calls) == 2

    def gone(folder, which="latest"):
        raise FileNotFoundError("pruned")

    monkeypatch.setattr(checkpoint, "find", gone)
    with pytest.raises(CheckpointError, match="latest can't be read"):
        run(copy, classes="9")


def test_a_landscape_depends_on_the_weights_along_its_paths():
    config = small_config("ce", spectra__landscape="alone")
    spectrometer = Spectrometer(config, sources.load(config))
    one, other = (types.SimpleNamespace(step=4, params={"w": np.full(2, n)}, model_state={}) for n in (1.0, 2.0))
    later = types.SimpleNamespace(step=8, params=one.params, model_state={})
    paths = ({"SGD": [one]}, {"SGD": [other]}, {"SGD": [later]}, {"SGD": [one, later]}, {"SAM": [one]}, {})
    found = [json.dumps(spectrometer.settings(one, some), sort_keys=True) for some in paths]
    assert len(set(found)) == len(paths)
    config.spectra.landscape = ""
    assert spectrometer.settings(one, paths[0]) == spectrometer.settings(one, {})


def test_of_all_checkpoints_those_deleted_meanwhile_are_left_out(tmp_path, capsys):
    for step in (3, 6, 9):
        (tmp_path / str(step)).mkdir()

    def read(which):
        if not (tmp_path / which).is_dir():
            raise CheckpointError(f"{which} is gone")
        return which

    states = spectra_mode._left(tmp_path, read)
    assert next(states) == "3"
    (tmp_path / "6").rmdir()
    assert list(states) == ["9"]
    assert "left out step 6: its checkpoint" in capsys.readouterr().out

    def damaged(which):
        raise CheckpointError(f"{which} is damaged")

    with pytest.raises(CheckpointError, match="3 is damaged"):
        list(spectra_mode._left(tmp_path, damaged))
    with pytest.raises(CheckpointError, match="latest is gone"):
        list(spectra_mode._left(tmp_path / "none", read))


def test_runs_are_compared_side_by_side(copy, tmp_path):
    with pytest.raises(DataError, match="has no spectra yet. Fix: --mode spectra"):
        run(tmp_path, compare=(copy, copy))
    run(copy, classes="9")
    other = pathlib.Path(shutil.copytree(copy, tmp_path / "other"))
    assert run(tmp_path / "out", compare=(copy, other), draw=True) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        f"run_other_12.{ending}" for ending in ("png", "pdf", "svg")
    }
    with pytest.raises(DataError, match="no spectra at step 7 .found steps 12"):
        run(tmp_path / "out", "7", (copy, other))
    (other / "spectra" / "12" / "class-9.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="class-9.npz can't be read"):
        run(tmp_path / "out", compare=(copy, other))
    run(other, classes="9")  # measures it again
    assert run(tmp_path / "out", compare=(copy, other)) == 0


def test_bad_input_gets_one_clear_error(copy, tmp_path):
    with pytest.raises(ConfigError, match="'12' is neither the name of a class or a group nor a class's number"):
        run(copy, classes="12")
    with pytest.raises(ConfigError, match="model.width: the run has 0.125, this command 1.0"):
        run(copy, model__width=1.0)
    with pytest.raises(ConfigError, match="holds no run"):
        run(tmp_path)
    for named in (tmp_path, copy):
        with pytest.raises(ConfigError, match="spectra.landscape: found .* expected the directory of another run"):
            run(copy, landscape=str(named))
    with pytest.raises(CheckpointError, match="expected latest, best or one of the steps"):
        run(copy, "11")
    assert not (copy / "spectra").exists()
    with (
        lock.exclusive(copy / "spectra" / ".locks" / "12"),
        pytest.raises(WorkdirInUse, match="in use.*Fix: wait for it"),
    ):
        run(copy, classes="9")
    with pytest.raises(ConfigError, match="more --config.spectra.memory_gib"):
        run(copy, classes="9", memory_gib=1e-6)
    assert not (copy / "spectra" / "12").exists()
    run(copy, classes="9")
    (copy / "spectra" / "12" / "summary.json").write_text("{")
    with pytest.raises(DataError, match="summary.json can't be read"):
        run(copy, classes="9")


def test_a_checkpoint_of_another_model_or_a_diverged_one(copy, tmp_path, monkeypatch):
    theirs = pathlib.Path(shutil.copytree(copy, tmp_path / "mixed"))
    config = json.loads((theirs / "config.json").read_text())
    config["model"]["head"] = "linear"  # has a bias
    (theirs / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="another model, optimizer or precision"):
        run(theirs)

    restore = checkpoint.restore
    diverged = lambda found, like: jax.tree.map(  # noqa: E731
        lambda x: np.asarray(x) * np.float32(1e30) if x.dtype == np.float32 else x, restore(found, like)
    )
    monkeypatch.setattr(checkpoint, "restore", diverged)
    with pytest.raises(NonFiniteError, match="class 9: .* is nan: these weights have diverged"):
        run(copy, classes="9")
    assert not list((copy / "spectra").glob("*/*.npz"))
