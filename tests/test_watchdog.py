"""A process that gets on no longer ends by itself, and tells where it was."""

import os
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

from saddle_jax.host import watchdog

pytestmark = pytest.mark.faults("stalls")

CODE = """
import time
from saddle_jax.host import watchdog

def stuck():
    time.sleep(60)

with watchdog.watch(0.5):
    {before}
    {action}
print("went on")
"""


def run(action, before="pass"):
    began = time.monotonic()
    code = CODE.format(action=action, before=before)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    return result, time.monotonic() - began


def test_a_stall_ends_with_75_and_the_stacks_of_all_threads():
    result, _ = run("stuck()", before="watchdog.alive()")
    assert result.returncode == 75
    for part in ("no progress for", "watchdog_secs is 0.5", "in stuck", "watchdog.py", "the same command continues"):
        assert part in result.stderr
    assert "went on" not in result.stdout


def test_what_gets_on_is_left_alone_and_compilation_has_four_times_as_long():
    result, _ = run("[(time.sleep(0.2), watchdog.alive()) for _ in range(8)]")
    assert result.returncode == 0
    for before in ("pass", "watchdog.alive(); watchdog.alive('evaluation')"):
        assert run("time.sleep(1.2)", before)[0].returncode == 0
    again = "watchdog.alive('evaluation'); watchdog.alive('evaluation')"
    assert run("time.sleep(5)", again)[0].returncode == 75


def test_nothing_is_watched_where_the_limit_is_zero():
    with watchdog.watch(0):
        assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_that_stalls_ends_and_the_same_command_finishes_it(tmp_path):
    def train(**faults):
        arguments = (
            "--config=configs/digits_lt.py:ce_drw_sam,smoke", "--config.duration=12 steps", "--config.watchdog_secs=20",
            "--config.checkpoint_every=4 steps", "--config.tensorboard=False", f"--workdir={tmp_path / 'run'}",
        )  # fmt: skip
        environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1", **faults}
        command = [sys.executable, ROOT / "main.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)

    stalled = train(SADDLE_FAULTS="feed=stall@7")
    assert stalled.returncode == 75, stalled.stderr
    assert "in segments" in stalled.stderr, stalled.stdout + stalled.stderr  # where it was
    finished = train()
    assert finished.returncode == 0, finished.stderr
    assert "resuming at step 4" in finished.stdout
    assert "took over the lock" in finished.stdout
