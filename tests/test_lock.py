"""One process at a time in a directory, told by name; what a dead one left behind is taken over."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import ROOT

from saddle_jax.errors import ConfigError, WorkdirInUse
from saddle_jax.host import lock

pytestmark = pytest.mark.faults("W1")

HOST = socket.gethostname()


def hold(workdir, ready):
    with lock.exclusive(workdir):
        ready.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / "run"."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that keeps no locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "_SETTLE", 0.2)
    monkeypatch.setattr(lock, "_BEAT", 0.1)


def left_behind(workdir, pid, host=HOST, age=0):
    workdir.mkdir(exist_ok=True)
    path = workdir / ".lock"
    path.write_text(json.dumps({"pid": pid, "host": host, "since": time.time() - 7500}))
    os.utime(path, (time.time() - age,) * 2)


def dead_pid():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_who_holds_it_is_named_and_gone_with_its_process(holder, tmp_path):
    for attempt in (lambda: lock.require_free(tmp_path / "run"), lock.exclusive(tmp_path / "run").__enter__):
        with pytest.raises(WorkdirInUse, match=f"in use by process {holder.pid} on {HOST}, started .* ago") as error:
            attempt()
        assert error.value.exit_code == 6
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    lock.require_free(tmp_path / "run")
    with lock.exclusive(tmp_path / "run") as notes:
        assert len(notes) == 1
        assert f"took over the lock of process {holder.pid} on {HOST}" in notes[0]
    with lock.exclusive(tmp_path / "run") as notes:
        assert notes == []  # the last one gave it back


def test_the_second_command_ends_within_seconds(holder, tmp_path):
    command = [sys.executable, ROOT / "main.py", "--config=configs/digits_lt.py", f"--workdir={tmp_path / 'run'}"]
    began = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    seconds = time.monotonic() - began
    assert result.returncode == 6
    assert f"process {holder.pid} on {HOST}" in result.stderr
    assert os.getloadavg()[0] > 4 or seconds < 15  # 5 on an idle machine, most of it imports


@pytest.mark.parametrize("content", ["", "what is this", "{}", '{"pid": "x", "host": 3, "since": 0}', "1234"])
def test_a_lock_file_that_can_not_be_read_locks_nobody_out(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with lock.exclusive(tmp_path) as notes:
        assert notes == []


def test_a_lock_of_another_host_that_the_file_system_has_let_go(tmp_path):
    left_behind(tmp_path, 1, host="elsewhere")
    with lock.exclusive(tmp_path) as notes:
        assert "took over the lock of process 1 on elsewhere, started 2h05m ago" in notes[0]


@pytest.mark.parametrize(
    ("pid", "host", "age", "is_free"),
    [
        (None, HOST, 0, True),  # it was here and does not exist any more
        ("own", HOST, 0, False),
        ("own", HOST, 300, True),  # another process has its number now
        (1, "elsewhere", 10, False),
        (1, "elsewhere", 300, True),  # the old heartbeat of a host that is gone
    ],
)
def test_without_locks_signs_of_life_decide(tmp_path, no_locks, pid, host, age, is_free):
    pid = os.getpid() if pid == "own" else pid  # a name for the test that every worker gives it
    left_behind(tmp_path, pid or dead_pid(), host, age)
    if not is_free:
        with pytest.raises(WorkdirInUse, match="in use by process"):
            lock.require_free(tmp_path)
        with pytest.raises(WorkdirInUse, match="in use by process"), lock.exclusive(tmp_path):
            pass
        return
    lock.require_free(tmp_path)
    with lock.exclusive(tmp_path) as notes:
        assert "took over the lock" in notes[0]
        assert "its file system has no locks" in notes[1]
        before = (tmp_path / ".lock").stat().st_mtime_ns
        time.sleep(0.3)
        assert (tmp_path / ".lock").stat().st_mtime_ns > before
        with pytest.raises(WorkdirInUse), lock.exclusive(tmp_path):
            pass


def test_directories_that_can_not_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    deep = tmp_path.joinpath(*["d" * 200] * 21)  # longer than a path may be
    for path, why in (
        (tmp_path / "file", "File exists"),
        (tmp_path / "file" / "below", "Not a directory"),
        (deep, "File name too long"),
    ):
        lock.require_free(path)
        with pytest.raises(ConfigError, match=f"can't be written .*{why}") as error, lock.exclusive(path):
            pass
        assert error.value.exit_code == 2


def test_a_directory_that_can_only_be_read():
    code = (
        "import os, sys, pathlib; from saddle_jax.host import lock\n"
        "from saddle_jax.errors import ConfigError\n"
        "if os.getuid() == 0: os.seteuid(65534)  # nobody: root may write everywhere\n"
        "try:\n  lock.exclusive(pathlib.Path(sys.argv[1])).__enter__()\n"
        "except ConfigError as error: print(error); os._exit(error.exit_code)"
    )
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users
        os.chmod(folder, 0o555)
        result = subprocess.run([sys.executable, "-c", code, f"{folder}/run"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2, result.stderr
    assert "can't be written" in result.stdout
    assert "Permission denied" in result.stdout
