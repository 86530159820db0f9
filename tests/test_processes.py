"""Two real processes over loopback, a CPU device each: equal to one, stopped, killed, started differently."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT
from fault_harness import trials
from small_runs import write_weights

from saddle_jax.data import sources
from saddle_jax.experiment import config as config_lib
from saddle_jax.training import checkpoint, metrics
from saddle_jax.training.program import make_program

pytestmark = pytest.mark.slow

EVERY = ["--config.duration=24 steps", "--config.checkpoint_every=8 steps", "--config.eval.every=12 steps"]
EVERY += ["--config.log_every=1 steps", "--config.tensorboard=False", "--config.model.batch_norm=synchronized"]


class Processes:
    """The processes of one command, and what they print."""

    def __init__(
        self,
        workdir: pathlib.Path,
        number: int,
        *more: str,
        each: dict[int, list[str]] | None = None,
        faults: dict[int, str] | None = None,
        roots: dict[int, pathlib.Path] | None = None,
        devices: int = 0,
        config: str = "configs/digits_lt.py:ce_drw_sam,smoke",
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        devices = devices or 2 // number
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", "XLA_FLAGS": flags}
        self.logs = [workdir.with_name(f"{workdir.name}-{time.monotonic_ns()}-{i}.log") for i in range(number)]
        self.running = []
        for i, log in enumerate(self.logs):
            joined = ["--distributed", "--coordinator", address, "--num_processes", "2", "--process_id", str(i)]
            command = [sys.executable, "main.py", "--config", config]
            command += ["--workdir", str(workdir), *EVERY, *more, *(joined if number == 2 else [])]
            command += (each or {}).get(i, [])
            root = (roots or {}).get(i, ROOT)
            own = {**environment, "SADDLE_FAULTS": (faults or {}).get(i, "")}
            with log.open("w") as out:
                started = subprocess.Popen(command, cwd=root, env=own, stdout=out, stderr=subprocess.STDOUT)
            self.running.append(started)

    def wait(self, seconds: float = 240) -> list[int]:
        try:
            return [process.wait(timeout=seconds) for process in self.running]
        finally:
            for process in self.running:
                process.kill()
                process.wait()

    def wait_for(self, path: pathlib.Path) -> None:
        """Return when there is such a file."""
        while not path.exists():
            assert all(process.poll() is None for process in self.running), self.text()
            time.sleep(0.02)

    def wait_for_step(self, workdir: pathlib.Path, step: int) -> None:
        """Return when the first process has looked at the metrics of a step."""
        self.wait_for(workdir / "metrics.jsonl")
        while max((record["step"] for record in metrics.read(workdir)), default=0) < step:
            assert all(process.poll() is None for process in self.running), self.text()
            time.sleep(0.02)

    def text(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)


def last_state(workdir):
    """The leaves of the last checkpoint, in float64."""
    with jax.enable_x64(True):
        config = config_lib.from_json((workdir / "config.json").read_bytes())
        like = jax.eval_shape(lambda: make_program(config, sources.load(config)).init(0))
        found = checkpoint.find(workdir / "checkpoints")
        assert found.step == 24
        return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoint.restore(found, like))]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The run of two processes that nothing disturbs."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    processes = Processes(workdir, 2)
    assert processes.wait() == [0, 0], processes.text()
    assert (workdir / "results.json").is_file()
    assert "step 24/24" in processes.logs[0].read_text()
    assert "step" not in processes.logs[1].read_text()  # one of them speaks
    return workdir


def assert_equal(a, b):
    for x, y in zip(last_state(a), last_state(b), strict=True):
        np.testing.assert_array_equal(x, y)
    assert (a / "eval/24-test.json").read_bytes() == (b / "eval/24-test.json").read_bytes()


def require_near(workdir, other):
    for x, y in zip(last_state(workdir), last_state(other), strict=True):
        scale = max(np.abs(y).max(), 1e-300)
        np.testing.assert_allclose(x / scale, y / scale, atol=1e-10)
    assert (workdir / "eval/24-test.json").read_text() == (other / "eval/24-test.json").read_text()


def test_two_processes_train_as_one_with_two_devices(unbroken, tmp_path):
    alone = Processes(tmp_path / "run", 1)
    assert alone.wait() == [0], alone.text()
    require_near(unbroken, tmp_path / "run")


@pytest.mark.nightly
@pytest.mark.parametrize(
    "config",
    ["methods/glmc_cifar.py:", "methods/paco_cifar100.py:", *(f"digits_lt.py:ce_{k}," for k in ("pgd", "cc_sam"))],
)
def test_methods_and_links_train_as_one(config, tmp_path):
    """Every process makes its part of all views, meets the other's queries and keys, and draws the same noise."""
    config = f"configs/{config}smoke"
    runs = {number: tmp_path / f"of_{number}" for number in (1, 2)}
    for number, workdir in runs.items():
        processes = Processes(workdir, number, config=config)
        assert processes.wait() == [0] * number, processes.text()
    require_near(runs[2], runs[1])


@pytest.mark.nightly
def test_features_are_computed_and_read_by_two_processes(tmp_path):
    more = [f"--config.model.weights={write_weights(tmp_path / 'resnet8.safetensors')}"]
    more += ["--config.model.train=head", "--config.model.cache_views=2"]
    for name, number in (("two/computes", 2), ("two/reads", 2), ("one/alone", 1)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        processes = Processes(tmp_path / name, number, *more)
        assert set(processes.wait()) == {0}, processes.text()
        assert ("features" in processes.text()) and (name != "two/reads") == ("features  step" in processes.text())
    assert_equal(tmp_path / "two/computes", tmp_path / "two/reads")
    assert len({(tmp_path / name / "eval/24-test.json").read_text() for name in ("two/reads", "one/alone")}) == 1


@pytest.mark.nightly
def test_two_devices_in_each_of_two_processes(unbroken, tmp_path):
    both = Processes(tmp_path / "run", 2, devices=2)
    assert both.wait() == [0, 0], both.text()
    require_near(unbroken, tmp_path / "run")


@pytest.mark.nightly
def test_a_signal_to_one_process_stops_both_at_the_same_step(unbroken, tmp_path):
    processes = Processes(tmp_path / "run", 2)
    processes.wait_for(tmp_path / "run/config.json")
    processes.running[1].send_signal(signal.SIGTERM)
    assert processes.wait() == [75, 75], processes.text()
    assert processes.text().count("saved step") == 2
    again = Processes(tmp_path / "run", 2)
    assert again.wait() == [0, 0], again.text()
    assert "resuming at step" in again.text()
    assert_equal(tmp_path / "run", unbroken)


@trials("M1", 10, small=1)
def test_when_one_process_is_killed_the_other_ends_and_the_rerun_is_bit_equal(unbroken, tmp_path, trial):
    """Even trials kill process 1 at some step; of the odd ones two in five kill process 0 in a save.

    The rerun maps its steps with shard_map, where the unbroken run has pmap.
    """
    killed, in_a_save = (1, False) if trial % 2 == 0 else (0, trial in (3, 7))
    faults = {0: f"save:arrays=SIGKILL@{trial // 3}+0.01"} if in_a_save else {}
    processes = Processes(tmp_path / "run", 2, faults=faults)
    if not in_a_save:
        processes.wait_for_step(tmp_path / "run", 1 + int(np.random.default_rng(trial).integers(12)))
        processes.running[killed].kill()
    codes = [process.wait(180) if i == killed else None for i, process in enumerate(processes.running)]
    began = time.monotonic()
    codes[1 - killed] = processes.running[1 - killed].wait(60)  # the heartbeat's 30 seconds, and as long again
    assert time.monotonic() - began < 60
    assert codes[killed] == -signal.SIGKILL
    assert codes[1 - killed] not in (0, 75)
    again = Processes(tmp_path / "run", 2, "--config.mapping=shard_map")
    assert again.wait() == [0, 0], again.text()
    assert_equal(tmp_path / "run", unbroken)


@pytest.fixture
def other_code(tmp_path):
    """A folder with this program, and a line more in one of its files."""
    folder = tmp_path / "other"
    for package in ("saddle_jax", "configs"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", folder)
    with (folder / "saddle_jax/losses.py").open("a") as file:
        file.write("# a line more\n")
    return folder


DIFFERING = {"--config.sam.rho=0.3": "sam.rho is [0.3]", "--config.eval.batch_size=7": "eval.batch_size is 7"}


@pytest.mark.faults("M3")
def test_processes_that_differ_stop_at_once_and_say_in_what(other_code, tmp_path):
    processes = Processes(tmp_path / "run", 2, each={1: list(DIFFERING)}, roots={1: other_code})
    assert processes.wait() == [2, 2], processes.text()
    for log in processes.logs:
        for words in ("process 1 (", "code is", *DIFFERING.values()):
            assert words in log.read_text()
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
@pytest.mark.faults("M3")
@pytest.mark.parametrize("differing", [*DIFFERING, "code"])
def test_one_difference_is_enough(differing, other_code, tmp_path):
    difference = {"roots": {1: other_code}} if differing == "code" else {"each": {1: [differing]}}
    processes = Processes(tmp_path / "run", 2, **difference)
    assert processes.wait() == [2, 2], processes.text()
    for log in processes.logs:
        assert DIFFERING.get(differing, "code is") in log.read_text()
    assert not (tmp_path / "run").exists()


@pytest.fixture
def image_files(tmp_path):
    """Two sets of ten classes that differ in one pixel."""
    random = np.random.default_rng(0)
    arrays = {f"{split}_images": random.integers(0, 256, (64, 8, 8, 1), np.uint8) for split in ("train", "test")}
    arrays |= {f"{split}_labels": np.arange(64) % 10 for split in ("train", "test")}
    np.savez(tmp_path / "one.npz", **arrays)
    arrays["train_images"][5, 3, 3] ^= 1
    np.savez(tmp_path / "other.npz", **arrays)
    return tmp_path / "one.npz", tmp_path / "other.npz"


ARRAYS = ["--config.data.source=arrays", "--config.data.profile=as_is"]


@pytest.mark.faults("M3")
def test_processes_with_other_images_stop_at_once_and_say_which(image_files, tmp_path):
    paths = {i: [f"--config.data.path={path}"] for i, path in enumerate(image_files)}
    processes = Processes(tmp_path / "run", 2, *ARRAYS, each=paths)
    assert processes.wait() == [2, 2], processes.text()
    assert "content_hash is" in processes.logs[0].read_text()
    assert "split_hash is" not in processes.text()


def test_a_process_that_fails_alone_keeps_its_exit_code(image_files, tmp_path):
    paths = {0: [f"--config.data.path={image_files[0]}"], 1: ["--config.data.path=nowhere.npz"]}
    processes = Processes(tmp_path / "run", 2, *ARRAYS, each=paths)
    codes = processes.wait(100)
    assert codes[1] == 3, processes.text()
    assert codes[0] not in (0, 75)
    assert "found no file 'nowhere.npz'" in processes.logs[1].read_text()


def test_an_error_of_the_first_process_is_every_process_s(unbroken):
    processes = Processes(unbroken, 2, "--config.optim.momentum=0.5")
    assert processes.wait() == [2, 2], processes.text()
    assert "optim.momentum: the run has 0.9, this command 0.5" in processes.logs[1].read_text()
