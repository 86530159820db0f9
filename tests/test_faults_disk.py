"""A disk that refuses ends a run with code 4, naming what it needs; nothing older is lost, and the rest is bit-exact.

C4 and C5 of docs/reliability.md.
"""

import re
import subprocess
import sys

import pytest
from conftest import ROOT
from fault_harness import STEPS, trials

from saddle_jax.training import checkpoint

ERRORS = {  # (where the system refuses, which file is named)
    "ENOSPC": ("save:arrays", "checkpoints/{step}"),
    "EIO": ("save:manifest", "checkpoints/{step}"),
    "EROFS": ("save:begin", "checkpoints/{step}"),
    "EACCES": ("metrics", "metrics.jsonl"),
}


@pytest.mark.parametrize("error", ERRORS)
@trials("C4", 1)
def test_the_system_refuses(bench, tmp_path, error, trial):
    point, name = ERRORS[error]
    job, number = bench.job(tmp_path), 5
    output = job.run(faults=f"{point}={error}@{number}", expect=4)
    newest = job.require_sound()
    if point == "metrics":
        assert newest == 0
    else:
        assert newest == bench.saves[number - 2]
        assert re.search(r"needs [\d,]{5,} bytes", output), job.told()
    assert f"{job.workdir / name.format(step=bench.saves[number - 1])} can't be written" in output, job.told()
    assert "run the same command again" in output
    assert "Traceback" not in output
    job.require_as(bench.unbroken)


@pytest.mark.parametrize(("limit", "name"), [(30, "checkpoints/10"), (60, "metrics.jsonl")])
@trials("C4", 1)
def test_a_file_may_not_grow(bench, tmp_path, limit, name, trial):
    job = bench.job(tmp_path)
    output = job.run(file_size=limit, expect=4)
    assert f"{job.workdir / name} can't be written" in output, job.told()
    newest = job.require_sound()
    assert (newest > 0) == (name == "metrics.jsonl"), job.told()
    job.require_as(bench.unbroken)


@trials("C4", 1)
def test_a_disk_that_is_full(bench, tmp_path, trial):
    """A real one, of memory, in a mount namespace of its own; then it is made larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    job = bench.job(disk)
    command = " ".join([sys.executable, str(ROOT / "main.py"), f"--config={bench.config}", f"--workdir={job.workdir}"])
    script = (
        f"mount -t tmpfs -o size=600k tmpfs {disk} || exit 77\n"
        f"{command}; echo first $?; ls {job.checkpoints} | sort -n | tail -1\n"
        f"mount -o remount,size=50m {disk}\n{command}; echo second $?\ncp -r {disk} {tmp_path / 'kept'}"
    )
    environment = job.environment()
    result = subprocess.run(
        ["unshare", "-Urm", "bash", "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip(f"no mount namespace here: {result.stderr}")
    assert "first 4\n" in result.stdout, result.stdout + result.stderr
    assert "can't be written" in result.stderr
    assert re.search(r"bytes are free there", result.stderr), result.stderr
    assert re.search(r"first 4\n\d+\n", result.stdout), result.stdout  # an older checkpoint was there
    assert "second 0" in result.stdout, result.stdout + result.stderr
    job.workdir = tmp_path / "kept/run"
    assert job.outcome() == bench.unbroken


@pytest.mark.parametrize("step", [10, 100, STEPS])
@trials("C5", 1)
def test_a_save_that_fails_fails_the_run(bench, tmp_path, step, trial):
    job, number = bench.job(tmp_path), bench.saves.index(step) + 1
    output = job.run(faults=f"save:arrays=EIO@{number}", expect=4)
    assert f"{job.checkpoints / str(step)} can't be written" in output
    assert not (job.workdir / "results.json").exists()
    assert checkpoint.available(job.checkpoints)[-1:] == bench.saves[number - 2 : number - 1][: number - 1]
    job.require_as(bench.unbroken)
