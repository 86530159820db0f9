"""Trackers: what they get of a run, that they get each step once, and that they never hold up the training."""

import importlib.util
import io
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import threading
import types

import numpy as np
import one_layer
import pytest
from conftest import ROOT
from PIL import Image
from small_runs import small_config, train

from saddle_jax.data import sources
from saddle_jax.errors import DataError
from saddle_jax.experiment import checks
from saddle_jax.host import processes
from saddle_jax.models import networks
from saddle_jax.modes import views
from saddle_jax.tracking import about, follow, start
from saddle_jax.training import run as run_lib
from saddle_jax.training.program import make_program

NAME = "CE + DRW + SAM, digits, seed 0"
STEPS = {"train": [3, 6, 9, 12], "eval/test": [6, 12]}


@pytest.fixture(scope="module")
def program(compile_file_quickly):
    """The program of every run in this file: one layer, so that it compiles soon."""
    config = small_config()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(networks, "make_network", one_layer.make)
        return make_program(config, sources.load(config))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, program):
    """A run that has finished, with the sheet of its views."""
    workdir, config = tmp_path_factory.mktemp("trained") / "run", small_config(tracker="wandb")
    views.draw_for_trackers(config, sources.load(config), program.views, workdir)
    train(small_config(), workdir, program=program)
    return workdir


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def cut(run, step):
    """Make of a finished run one that is at a step; return the rest of its metrics, and its results."""
    path, results = run / "metrics.jsonl", (run / "results.json").read_text()
    lines = path.read_text().splitlines(keepends=True)
    early = [line for line in lines if json.loads(line)["step"] <= step]
    path.write_text("".join(early))
    (run / "results.json").unlink()
    return "".join(lines[len(early) :]), results


def go_on(run, rest):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(rest[0])
    (run / "results.json").write_text(rest[1])


class Recorder:
    """A tracker that keeps what it gets, and refuses some of it."""

    def __init__(self, refuses=()):
        self.records, self.classes_seen, self.pictures, self.closed = [], [], [], []
        self._calls, self._refuses = 0, refuses

    def __call__(self, *_):
        return self

    def _may_refuse(self):
        self._calls += 1
        if self._calls in self._refuses:
            raise ConnectionError("no answer")

    def scalars(self, records):
        self._may_refuse()
        self.records += records

    def classes(self, step, classes):
        self._may_refuse()
        self.classes_seen.append((step, classes))

    def picture(self, step, name, path):
        self._may_refuse()
        self.pictures.append((step, name, Image.open(io.BytesIO(path.read_bytes())).size))

    def close(self, finished):
        self.closed.append(finished)

    def steps(self):
        return {kind: [record.step for record in self.records if record.kind == kind] for kind in STEPS}


def ended():
    event = threading.Event()
    event.set()
    return event


def test_what_a_tracker_gets_of_a_run(run):
    tracker = Recorder()
    follow.follow(run, "none", tracker, ended())
    assert tracker.steps() == STEPS
    (step, classes), report = tracker.classes_seen[-1], json.loads((run / "eval/12-test.json").read_text())
    assert step == 12 and classes.split == "test" and len(classes.rows()) == 10
    assert [row[2] for row in classes.rows()] == report["class_accuracy"]
    (best,) = (record for record in tracker.records if record.kind == "best")
    expected = json.loads((run / "results.json").read_text())["best"]
    assert best.step == expected["step"]
    assert best.values["best/test/accuracy"] == expected["accuracy"]
    assert best.values["best/test/tail"] == expected["groups"]["tail"]["accuracy"]
    assert [picture[:2] for picture in tracker.pictures] == [(0, "views"), (12, "confusion")]
    assert all(width > 500 for *_, (width, _) in tracker.pictures)
    assert tracker.closed == [True]

    told = about.read(run)
    assert (told.name, told.project, told.group) == (NAME, "digits_lt-smoke-ce_drw_sam-exp50", "")
    assert told.hyperparameters["sam.rho"] == "0.1" and told.hyperparameters["batch_size"] == 32
    assert not {"asam.rho", "tracker", "log_every"} & set(told.hyperparameters)


def test_every_key_of_the_metrics_is_documented(trained):
    page = (ROOT / "docs/tracking.md").read_text()
    keys = {key for line in (trained / "metrics.jsonl").read_text().splitlines() for key in json.loads(line)}
    assert len(keys) > 15
    assert not [key for key in keys if f"`{key.replace('/test/', '/<split>/')}`" not in page]


def test_seeds_of_an_experiment_have_a_group_and_share_the_sheet(trained, tmp_path):
    for seed in (0, 1):
        shutil.copytree(trained, tmp_path / f"several/seed-{seed}")
    (tmp_path / "several/plots").mkdir()
    shutil.move(tmp_path / "several/seed-0/plots/views.png", tmp_path / "several/plots")
    tracker = Recorder()
    follow.follow(tmp_path / "several/seed-0", "none", tracker, ended())
    assert about.read(tmp_path / "several/seed-0").group == about.read(tmp_path / "several/seed-1").group == "several"
    assert (0, "views") in [picture[:2] for picture in tracker.pictures]


def test_a_resumed_run_sends_each_step_once(run):
    rest = cut(run, 8)  # 9 was not saved, and comes again
    first, second = Recorder(), Recorder()
    follow.follow(run, "none", first, ended())
    assert first.steps() == {"train": [3, 6], "eval/test": [6]} and first.closed == [False]
    assert [step for step, _ in first.classes_seen] == [6]
    go_on(run, rest)
    follow.follow(run, "none", second, ended())
    assert {kind: first.steps()[kind] + second.steps()[kind] for kind in STEPS} == STEPS
    assert [step for step, _ in second.classes_seen] == [12]
    assert [name for _, name, _ in first.pictures + second.pictures] == ["views", "confusion", "confusion"]


@pytest.mark.parametrize("refused", range(1, 5))
def test_what_was_refused_is_sent_again_and_nothing_twice(run, refused, monkeypatch, capsys):
    monkeypatch.setattr(follow, "_RETRY", 0.01)
    monkeypatch.setattr(follow, "_POLL", 0.01)
    tracker, event = Recorder({refused}), threading.Event()
    threading.Timer(1.0, event.set).start()
    follow.follow(run, "none", tracker, event)
    assert tracker.steps() == STEPS
    assert [name for _, name, _ in tracker.pictures] == ["views", "confusion"]
    assert [step for step, _ in tracker.classes_seen] == [12] and tracker.closed == [True]
    assert "ConnectionError: no answer; trying again" in capsys.readouterr().out


def test_a_line_that_is_being_written_is_left_until_it_is_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = follow._Tail(path)
    assert not list(tail.new())
    path.write_text('{"step": 1, "train/loss": 2.0, "peak_mib": null}\n{"step": 2, "trai')
    assert list(tail.new()) == [follow.Record("train", 1, {"train/loss": 2.0})]
    with path.open("a") as file:
        file.write('n/loss": 3.0}\n')
    assert list(tail.new()) == [follow.Record("train", 2, {"train/loss": 3.0})]
    assert not list(tail.new())


def test_tensorboard_shows_hyperparameters_classes_and_pictures(run):
    from tensorboard.backend.event_processing import event_multiplexer
    from tensorboard.plugins.hparams import plugin_data_pb2
    from tensorboard.util import tensor_util

    from saddle_jax.tracking.to_tensorboard import TensorBoard

    rest = cut(run, 8)
    follow.follow(run, "tensorboard", TensorBoard, ended())
    go_on(run, rest)
    follow.follow(run, "tensorboard", TensorBoard, ended())
    events = event_multiplexer.EventMultiplexer(size_guidance={"tensors": 0})
    events.AddRunsFromDirectory(str(run)).Reload()
    (shown,) = events.Runs()
    assert shown == f"tensorboard/{NAME}"

    def found(tag):
        return {event.step: event.tensor_proto for event in events.Tensors(shown, tag)}

    assert [event.step for event in events.Tensors(shown, "train/loss")] == STEPS["train"]
    assert [event.step for event in events.Tensors(shown, "eval/test/tail")] == STEPS["eval/test"]
    report = json.loads((run / "eval/12-test.json").read_text())
    assert tensor_util.make_ndarray(found("eval/test/accuracy")[12]) == pytest.approx(report["accuracy"])
    table = found("classes/test")[12].string_val[0].decode().splitlines()
    assert len(table) == 12 and table[2] == f"| 0 | 118 | {report['class_accuracy'][0]:.1f} % |"
    assert list(found("class_accuracy/test")) == [6, 12]
    for tag, step in (("views", 0), ("confusion", 12)):
        width, height, png = found(tag)[step].string_val
        assert Image.open(io.BytesIO(png)).size == (int(width), int(height))
    content = events.SummaryMetadata(shown, "_hparams_/session_start_info").plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["sam.rho"].string_value == "0.1" and hparams["optim.name"].string_value == "sam"


FAKE = """
import json, os, pathlib, time, types
class Settings:
    mode = None
    def __init__(self, **_): pass
def setup(): return types.SimpleNamespace(settings=Settings())
def write(*what):
    with open(os.environ["FAKE_LOG"], "a") as file: file.write(json.dumps(what) + "\\n")
class Run:
    url = "https://example.org/run"
    def __init__(self, dir): self.dir = dir + "/run/files"
    def define_metric(self, *_, **__): pass
    def log(self, values): write("log", {k: v for k, v in values.items() if isinstance(v, (int, float))})
    def finish(self, exit_code):
        if os.environ.get("FAKE") == "hangs": time.sleep(1000)
        write("finish", exit_code)
def init(**given):
    if os.environ.get("FAKE") == "refuses": raise RuntimeError("no key.")
    write("init", {k: v for k, v in given.items() if isinstance(v, (str, dict))})
    return Run(given["dir"])
def Table(*_): return "table"
def Histogram(*_): return "histogram"
def Image(path): return path
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A package wandb that writes down what it is asked to do; returns what it has written."""
    folder = tmp_path / "packages" / "wandb"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(FAKE)
    (folder / "__main__.py").write_text("import sys, wandb\nwandb.write(*sys.argv[1:])\n")
    monkeypatch.setenv("PYTHONPATH", f"{folder.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "asked"))
    return lambda: [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]


def processes_of(workdir):
    """Return the processes that follow the run."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"saddle_jax.tracking" in words and str(workdir).encode() in words:
            found.append(int(folder.name))
    return found


def test_training_is_followed_and_a_resumed_run_goes_on_in_the_same_place(fake, program, tmp_path, monkeypatch, capsys):
    class Stop(Exception):
        pass

    log = run_lib.Run.log

    def stop(self, step, *given):
        log(self, step, *given)
        if step == 9:
            raise Stop

    config, workdir = small_config(tracker="wandb"), tmp_path / "run"
    monkeypatch.setattr(start, "_HURRY", 30.0)
    monkeypatch.setattr(run_lib.Run, "log", stop)
    with pytest.raises(Stop):
        train(config, workdir, program=program)
    monkeypatch.setattr(run_lib.Run, "log", log)
    train(config, workdir, program=program, quiet=False)
    assert "note   wandb: https://example.org/run" in capsys.readouterr().out
    asked = fake()
    (_, first), (_, second) = [one for one in asked if one[0] == "init"]
    assert first["id"] == second["id"] and (first["name"], first["project"]) == (NAME, config.name)
    assert [one[1] for one in asked if one[0] == "finish"] == [1, 0]
    logged = [one[1] for one in asked if one[0] == "log"]
    assert [values["step"] for values in logged if "train/loss" in values] == STEPS["train"]
    assert [values["step"] for values in logged if "eval/test/accuracy" in values] == STEPS["eval/test"]
    monkeypatch.setattr(start, "_Process", None)  # a run that has finished starts none
    train(config, workdir, program=program)


def test_the_other_processes_track_nothing(program, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    with pytest.raises(DataError, match="can't be read"):  # there is no first process that evaluates
        train(small_config(tracker="wandb", tensorboard=True), tmp_path / "run", program=program)
    assert (tmp_path / "run/checkpoints/12").is_dir()
    assert not (tmp_path / "run/trackers").exists()


@pytest.mark.usefixtures("fake")
def test_a_tracker_that_never_answers_does_not_keep_training_from_ending(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE", "hangs")
    monkeypatch.setattr(start, "PATIENCE", 3.0)
    workdir = tmp_path / "run"
    train(small_config(tracker="wandb"), workdir, program=program, quiet=False)
    note = capsys.readouterr().out.split("note   ")[1].splitlines()[0]
    assert note.startswith("wandb has not answered for 3s, and was stopped. To send what is missing: python -m ")
    assert not processes_of(workdir)


def test_what_a_stopped_process_has_left_is_uploaded_before_anything_else(fake, run):
    folder = run / "trackers/wandb"
    folder.mkdir(parents=True)
    state = {"own": {"id": "abcd", "open": "left/behind"}, "sent": {"train": 6}}
    (folder / "state.json").write_text(json.dumps(state))
    send("wandb", run)
    first, second, *others = fake()
    assert (first[0], first[-1]) == ("sync", "left/behind") and (second[0], second[1]["id"]) == ("init", "abcd")
    assert [one[1]["step"] for one in others if one[0] == "log" and "train/loss" in one[1]] == [9, 12]
    assert "open" not in json.loads((folder / "state.json").read_text())["own"]


def test_a_tracker_that_can_not_be_started_is_told(program, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/trackers").write_text("a file")
    train(small_config(tracker="wandb"), tmp_path / "run", program=program, quiet=False)
    assert "note   wandb can't be started, training goes on: " in capsys.readouterr().out


@pytest.mark.usefixtures("fake")
def test_a_tracker_that_refuses_is_told_at_once_and_training_goes_on(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE", "refuses")
    results = train(small_config(tracker="wandb"), tmp_path / "run", program=program, quiet=False)
    note = capsys.readouterr().out.split("note   ")[1].splitlines()[0]
    assert note.startswith("wandb has stopped, training goes on: RuntimeError: no key. To send what is missing: ")
    assert results["last"]["step"] == 12


def test_the_process_of_a_killed_run_sends_the_rest_and_ends(fake, run):
    command = [sys.executable, "-m", "saddle_jax.tracking", "wandb", str(run), "--follow"]
    environment = {**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}{os.pathsep}{ROOT}"}
    training = subprocess.Popen(["sleep", "100"], stdout=subprocess.PIPE)  # its end of the pipe closes with it
    tracker = subprocess.Popen(command, stdin=training.stdout, env=environment, stdout=subprocess.DEVNULL)
    training.stdout.close()
    os.kill(training.pid, signal.SIGKILL)
    training.wait()
    assert tracker.wait(60) == 0
    assert [one[0] for one in fake()][:: len(fake()) - 1] == ["init", "finish"]


def send(tracker, run, **environment):
    """Send a run as the command of the notes does."""
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    command = [sys.executable, "-m", "saddle_jax.tracking", tracker, str(run)]
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    # MLflow writes artifacts into the working directory.
    done = subprocess.run(command, env=environment, cwd=run.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wandb_records(path):
    """Yield the records of a file of W&B, which has LevelDB's format: chunks in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    content, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def test_weights_and_biases_offline(run):
    pytest.importorskip("wandb")
    rest = cut(run, 8)
    assert "offline; to send it: wandb sync " in send("wandb", run, WANDB_MODE="offline")
    go_on(run, rest)
    send("wandb", run, WANDB_MODE="offline")
    files = sorted(run.glob("trackers/wandb/wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    runs, steps, seen = [], [], set()
    for record in (record for file in files for record in wandb_records(file)):
        if record.WhichOneof("record_type") == "run":
            runs.append((record.run.run_id, record.run.display_name, record.run.project))
        values = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
        seen |= values.keys()
        steps += [json.loads(values["step"])] if "train/loss" in values else []
    assert steps == STEPS["train"]
    assert len(set(runs)) == 1 and runs[0][1:] == (NAME, "digits_lt-smoke-ce_drw_sam-exp50")
    assert {"views.path", "confusion.path", "classes/test.path", "class_accuracy/test.bins"} <= seen


@pytest.mark.filterwarnings("ignore")  # of the packages that it needs
def test_mlflow_in_a_local_store(run, tmp_path):
    pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    rest = cut(run, 8)
    send("mlflow", run, MLFLOW_TRACKING_URI=store)
    go_on(run, rest)
    send("mlflow", run, MLFLOW_TRACKING_URI=store)
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("digits_lt-smoke-ce_drw_sam-exp50")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == (NAME, "FINISHED")
    assert found.data.params["sam.rho"] == "0.1"
    best = [json.loads(rest[1])["best"]["step"]]
    expected = {"train/loss": STEPS["train"], "eval/test/tail": STEPS["eval/test"], "best/test/tail": best}
    for metric, steps in expected.items():
        assert [one.step for one in client.get_metric_history(found.info.run_id, metric)] == steps
    assert [file.path for file in client.list_artifacts(found.info.run_id, "classes")] == [
        "classes/test-12.csv", "classes/test-6.csv",
    ]  # fmt: skip
    assert len(client.list_artifacts(found.info.run_id, "images")) >= 3


@pytest.mark.parametrize("found", [None, types.SimpleNamespace(origin=None)], ids=["nothing", "a folder of that name"])
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_told_with_the_command_that_installs_it(name, found, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: found if asked == name else find(asked))
    (problem,) = checks.problems_of(small_config(tracker=name))
    assert problem == (
        f"tracker='{name}' needs the package {name}, which is not installed. "
        f'Fix: pip install "saddle_jax[{name}]", or --config.tracker=none'
    )


def test_the_sheet_is_drawn_only_where_a_tracker_shows_it(trained, tmp_path):
    config = small_config()
    splits = sources.load(config)
    views.draw_for_trackers(config, splits, (), tmp_path)
    assert not list(tmp_path.iterdir())
    assert np.asarray(Image.open(trained / "plots/views.png").convert("L")).std() > 50
