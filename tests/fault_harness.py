"""A small job as a real process that is killed, broken and started again; and what its end must be equal to.

Twenty classes of 64 to 2 synthetic images, ResNet-8, 200 steps on two forced devices with SAM, knots and DRW inside; a
checkpoint every 10 steps, an evaluation every 25, every step in metrics.jsonl.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest
from conftest import AS_SHIPPED, ROOT
from small_runs import METHODS

from saddle_jax.training import checkpoint, manifest, metrics

STEPS, EVERY, EVAL_EVERY = 200, 10, 25
CONFIG = """
from configs import default

def get_config():
    config = default.get_config()
    config.update_from_flattened_dict({
        "name": "faults", "batch_size": 32, "duration": "200 steps", "checkpoint_every": "10 steps",
        "log_every": "1 steps", "eval.every": "25 steps", "eval.batch_size": 32, "tensorboard": False,
        "data.source": "arrays", "data.path": PATH, "data.profile": "as_is", "data.crop_padding": 2,
        "data.mean": (0.5,) * 3, "data.std": (0.25,) * 3,
        "model.name": "resnet8", "model.width": 0.25, "loss.class_weights": "drw", "loss.drw_start": "120 steps",
        "optim.lr": ((0, 0.1), ("100 steps", 0.02)),
        "optim.name": "sam", "sam.rho": ((0, 0.05), ("80 steps", 0.1)),
        **CHANGES,
    })
    return config
"""


def trials(family, full, small=0):
    """Run a test `full` times in `make test-faults`, and the first `small` of these in `make test`."""

    def mark(test):
        values = [pytest.param(i, marks=() if i < small else pytest.mark.nightly) for i in range(full)]
        return pytest.mark.faults(family)(pytest.mark.slow(pytest.mark.parametrize("trial", values)(test)))

    return mark


class Outcome(NamedTuple):
    """All that must not depend on interruptions."""

    leaves: str  # sha256 over the leaves of the last checkpoint, by name
    best: checkpoint.Best | None
    records: list  # of metrics.jsonl, without what depends on the machine
    results: dict


class Job:
    """Starts the job in one directory, again and again."""

    def __init__(self, config: pathlib.Path, cache: pathlib.Path, workdir: pathlib.Path):
        self.workdir, self._config, self._cache, self._starts = workdir, config, cache, 0
        self.log = workdir.with_name(f"{workdir.name}.log")
        self.history: list[str] = []  # what was done, for whoever has to do it again

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.workdir / "checkpoints"

    def environment(self, faults: str = "") -> dict[str, str]:
        """Return the environment of the command."""
        return {
            **os.environ,
            **AS_SHIPPED,  # compiled once, and run many times
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2 "
            "--xla_cpu_collective_call_terminate_timeout_seconds=180",
            "JAX_COMPILATION_CACHE_DIR": str(self._cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "SADDLE_FAULTS": faults,
        }

    def start(self, *arguments: str, faults: str = "", file_size: int = 0) -> subprocess.Popen:
        """Start the command; its output goes into a new log. No file may grow beyond `file_size` KiB if given."""
        self._starts += 1
        self.log = self.workdir.with_name(f"{self.workdir.name}-{self._starts}.log")
        self.history.append(f"start {self._starts} SADDLE_FAULTS={faults!r} {' '.join(arguments)}")
        command = [
            sys.executable,
            ROOT / "main.py",
            f"--config={self._config}",
            f"--workdir={self.workdir}",
            *arguments,
        ]

        if file_size:
            command = ["bash", "-c", f'ulimit -f {file_size}; exec "$@"', "-", *command]
        with self.log.open("w") as log:
            environment = self.environment(faults)
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)

    def run(self, *arguments: str, expect: int = 0, **options) -> str:
        """Run the command to its end; return what it printed."""
        process = self.start(*arguments, **options)
        code = process.wait(300)
        self.history.append(f"ended with {code}")
        assert code == expect, self.told()
        return self.log.read_text()

    def interrupt(self, process: subprocess.Popen, *signals: tuple[int, float]) -> int:
        """Send signals, each after its wait in seconds, the first from the first step on; return the exit code."""
        deadline = time.monotonic() + 120
        while process.poll() is None and "start  " not in self.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        for number, wait in signals:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait)
                break
            self.history.append(f"{signal.Signals(number).name} after {wait:.3f} s")
            process.send_signal(number)
        code = process.wait(120)
        self.history.append(f"ended with {code}")
        return code

    def steps_recorded(self) -> int:
        """Return the last step in metrics.jsonl."""
        if not (self.workdir / "metrics.jsonl").is_file():
            return 0
        return max((record["step"] for record in metrics.read(self.workdir)), default=0)

    def require_sound(self) -> int:
        """Require that what must be there is: no checkpoint damaged, and no more than an interval lost."""
        steps = checkpoint.available(self.checkpoints)
        damaged = [step for step in steps if manifest.damage(self.checkpoints / str(step))]
        assert not damaged, f"{damaged} damaged\n{self.told()}"
        recorded = self.steps_recorded()
        newest = max(steps, default=0)
        # The record of a step follows the save of every earlier one.
        assert newest >= max(0, recorded - 1) // EVERY * EVERY, f"{recorded - newest} steps lost\n{self.told()}"
        return newest

    def outcome(self) -> Outcome:
        """Return what a finished run has left."""
        from orbax.checkpoint import v1 as ocp

        found = checkpoint.find(self.checkpoints)
        assert found.step == STEPS, self.told()
        leaves, _ = jax.tree_util.tree_flatten_with_path(ocp.load((found.path / "state").resolve()))
        digest = hashlib.sha256()
        for path, leaf in sorted((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves):
            digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
            digest.update(leaf.tobytes())
        records = [
            {key: value for key, value in record.items() if key not in ("peak_mib", "images_per_second")}
            for record in metrics.read(self.workdir)
        ]
        for kind, steps in (("train/loss", range(1, STEPS + 1)), ("eval/test/accuracy", range(25, STEPS + 1, 25))):
            assert [record["step"] for record in records if kind in record] == list(steps), self.told()
        results = json.loads((self.workdir / "results.json").read_text())
        return Outcome(digest.hexdigest(), found.best, records, results)

    def require_as(self, unbroken: Outcome) -> None:
        """Run to the end, and require that it is bit for bit that of the unbroken run."""
        self.run()
        found = self.outcome()
        for name, ours, expected in zip(Outcome._fields, found, unbroken, strict=True):
            assert ours == expected, f"{name} differs\n{self.told()}"

    def told(self) -> str:
        """Return what it takes to do it again."""
        lines = [*self.history, f"workdir {self.workdir}", f"the last output, {self.log}:"]
        return "\n".join([*lines, *self.log.read_text().splitlines()[-30:]])


class Bench(NamedTuple):
    """What the trials of one process share."""

    config: pathlib.Path
    cache: pathlib.Path
    unbroken: Outcome
    seconds: float  # that the unbroken run took from its first line about training
    saves: list[int]  # the steps it saved, in order

    def job(self, folder: pathlib.Path) -> Job:
        """Return the job in a new directory."""
        return Job(self.config, self.cache, folder / "run")


def write_images(path: pathlib.Path) -> None:
    """Write the synthetic long-tailed set: each class a pattern of its own in noise."""
    random = np.random.default_rng(0)
    patterns = random.uniform(0, 255, (20, 16, 16, 3))
    counts = np.round(np.geomspace(64, 2, 20)).astype(int)
    arrays = {}
    for split, labels in (("train", np.repeat(np.arange(20), counts)), ("test", np.repeat(np.arange(20), 4))):
        noise = random.normal(0, 120, (len(labels), 16, 16, 3))
        arrays[f"{split}_images"] = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels.astype(np.int32)
    np.savez(path, **arrays)


def make_bench(folder: pathlib.Path, method: str = "plain") -> Bench:
    """Write the job, compile it, and run it unbroken."""
    changes = METHODS[method] if method == "plain" else METHODS[method] | {"loss.class_weights": "none"}
    images, config = folder / "images.npz", folder / "job.py"
    write_images(images)
    config.write_text(CONFIG.replace("PATH", repr(str(images))).replace("CHANGES", repr(changes)))
    if method == "retrain":  # of a network that such a job has trained
        first = folder / "first.py"
        first.write_text(CONFIG.replace("PATH", repr(str(images))).replace("CHANGES", "{}"))
        Job(first, folder / "compiled", folder / "first").run()
        changes = changes | {"start_from": str(folder / "first")}
        config.write_text(CONFIG.replace("PATH", repr(str(images))).replace("CHANGES", repr(changes)))
    warm, job = (Job(config, folder / "compiled", folder / name) for name in ("warm", "unbroken"))
    warm.run()  # everything is compiled by now
    began = time.monotonic()
    process = job.start()
    while process.poll() is None and "start  " not in job.log.read_text():
        time.sleep(0.02)
    began = time.monotonic()
    assert process.wait(300) == 0, job.told()
    seconds = time.monotonic() - began
    unbroken = job.outcome()
    assert warm.outcome() == unbroken, f"two unbroken runs differ\n{job.told()}"
    evaluated = [(r["step"], r["eval/test/accuracy"]) for r in unbroken.records if "eval/test/accuracy" in r]
    improved = [step for i, (step, a) in enumerate(evaluated) if all(a > b for _, b in evaluated[:i])]
    return Bench(config, folder / "compiled", unbroken, seconds, sorted({*range(EVERY, STEPS + 1, EVERY), *improved}))


def saved_step(output: str) -> int:
    """Return the step that an interrupted run says it has saved."""
    found = re.search(r"saved step ([\d,]+) of", output)
    return int(found[1].replace(",", "")) if found else 0
