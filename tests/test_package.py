"""The package, as `pip install .` brings it: what it holds, and how it works outside the repository."""

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser

import pytest
import yaml
from conftest import ROOT

import saddle_jax

SMOKE = ["saddle-jax", "--config", "cifar10_lt:smoke"]
assert f"    {' '.join(SMOKE)} " in (ROOT / "README.md").read_text()

# As where TensorFlow is not installed. Python runs this before anything else.
NO_TENSORFLOW = "import sys; sys.modules.update(dict.fromkeys(('tensorflow', 'tensorflow_datasets', 'tensorboard')))\n"


def build(source, target, *kinds):
    command = [sys.executable, "-m", "hatchling", "build", "-d", target, *kinds]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(target.glob("*.whl"))


def names_in(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, with the source distribution beside it."""
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def outside(wheel, tmp_path_factory):
    """A function that runs the installed command, in a folder outside the repository and without TensorFlow."""
    site, folder = (tmp_path_factory.mktemp(name) for name in ("site", "outside"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "sitecustomize.py").write_text(NO_TENSORFLOW)
    (folder / "configs").mkdir()  # not ours
    (folder / "configs/__init__.py").write_text("raise RuntimeError('not the shipped configs')")
    environment = {**os.environ, "PYTHONPATH": str(site), "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}

    def run(*arguments, stdout=subprocess.PIPE):
        command = [sys.executable, "-m", "saddle_jax", *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=300
        )

    run.folder = folder
    return run


def test_the_wheel_holds_the_package_and_its_configs_alone(wheel, tmp_path):
    names, info = names_in(wheel), f"saddle_jax-{saddle_jax.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"saddle_jax", info}
    here = [*ROOT.glob("saddle_jax/**/*.py"), *ROOT.glob("saddle_jax/**/*.json"), ROOT / "saddle_jax/py.typed"]
    expected = {path.relative_to(ROOT).as_posix() for path in here}
    expected |= {f"saddle_jax/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("configs/**/*.py")}
    assert {name for name in names if not name.startswith(info)} == expected
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert b"saddle-jax = saddle_jax.__main__:run" in archive.read(f"{info}/entry_points.txt")
        about = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert (about["Version"], about["License-Expression"]) == (saddle_jax.__version__, "Apache-2.0")
    assert set(about.get_all("Provides-Extra")) == {
        *("cuda12", "cuda13", "tpu", "tensorflow", "onnx", "torch", "wandb", "mlflow"),
    }
    core = [needed for needed in about.get_all("Requires-Dist") if "extra ==" not in needed]
    assert core and not any(re.match("tensor|torch|onnx", needed) for needed in core)
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert names_in(build(source, tmp_path / "again", "-t", "wheel")) == names


def test_versions_stand_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["tensorflow"]]
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "-e .[tensorflow]"
    assert all(any(re.match(rf"{line}\W", one) for one in needed) for line in lines[1:])
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == project["license"] and citation["title"].endswith(project["description"][1:])
    assert {"cff-version", "message", "authors", "preferred-citation"} <= citation.keys()


@pytest.mark.faults("O1")
@pytest.mark.slow
def test_runs_outside_without_tensorflow_even_if_nobody_reads_the_output(outside):
    short = ["--workdir=runs/sam", "--config.duration=20 steps", "--config.eval.every=20 steps"]
    checked = outside("--mode=check", *SMOKE[1:], *short)
    assert checked.returncode == 0 and "the step was not kept" in checked.stdout, checked.stderr
    with open("/dev/full", "w") as full:
        trained = outside(*SMOKE[1:], *short, stdout=full)
    assert trained.returncode == 4 and len(trained.stderr.splitlines()) == 1
    assert "could not be written in full: No space left on device" in trained.stderr
    run = outside.folder / "runs/sam"
    assert (run / "results.json").is_file() and (run / "metrics.jsonl").is_file()
    assert not (run / "tensorboard").exists()
    (start,) = json.loads((run / "run.json").read_text())["starts"]
    assert start["command"] == ["saddle-jax", *SMOKE[1:], *short] and start["git"] is None
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does once it has read enough
    evaluated = outside("--mode=eval", "--workdir=runs/sam", stdout=writing)
    os.close(writing)
    assert (evaluated.returncode, evaluated.stderr) == (0, "")
    assert outside("--mode=report", "--runs=runs/*").returncode == 0


def test_what_needs_tensorflow_names_the_fix(outside):
    refused = outside("--config=cifar10_lt", "--workdir=runs/cifar")
    assert refused.returncode == 3
    assert "needs tensorflow and tensorflow-datasets" in refused.stderr
    assert 'Fix: pip install "saddle_jax[tensorflow]"' in refused.stderr
    assert not (outside.folder / "runs/cifar").exists()


@pytest.mark.faults("O1")
@pytest.mark.parametrize(
    ("redirections", "code"), [(">&-", 0), (">&- 2>&- <&-", 0), (">/dev/full", 4), ("2>/dev/full", 0), ("| true", 0)]
)
def test_help_that_nobody_reads(redirections, code, tmp_path):
    command = f"{shlex.join([sys.executable, str(ROOT / 'main.py'), '--help'])} {redirections}"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == code
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr
