"""Start a process for each tracker of a run that is trained, and end it in bounded time, whatever it waits for."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

import saddle_jax
from saddle_jax.host import watchdog
from saddle_jax.host.console import duration
from saddle_jax.tracking.follow import make_folder, read_state

PATIENCE = 30.0  # seconds that a run which has finished waits for its trackers
_HURRY = 5.0  # seconds that a run that ends early waits: others wait for it, or it is about to lose its machine


class Followed(NamedTuple):
    """A run that is trained."""

    config: ConfigDict
    workdir: pathlib.Path
    say: Callable[[str, str], None]  # prints a line for the user: a word that says what it is, and its text


def names_of(config: ConfigDict) -> list[str]:
    """Return the names of a run's trackers."""
    names = ["tensorboard"] if config.tensorboard and importlib.util.find_spec("tensorflow") is not None else []
    return names if config.tracker == "none" else [*names, str(config.tracker)]


@contextlib.contextmanager
def following(runs: Sequence[Followed]) -> Iterator[None]:
    """Follow runs while the block trains them. No failure or delay of a tracker affects the block."""
    started = [_start(name, run) for run in runs for name in names_of(run.config)]
    processes = [process for process in started if process is not None]
    patience = _HURRY
    try:
        yield
        patience = PATIENCE
    finally:
        for process in processes:
            process.tell()
        deadline = time.monotonic() + patience
        for process in processes:
            process.end(deadline, patience)


def _start(name: str, run: Followed) -> _Process | None:
    try:
        return _Process(name, run)
    except OSError as error:
        run.say("note", f"{name} can't be started, training goes on: {error}")
        return None


class _Process:
    """A tracker's process, which follows one run."""

    def __init__(self, name: str, run: Followed):
        self._name, self._run = name, run
        self._folder = make_folder(run.workdir, name)
        self._log = self._folder / "log.txt"
        self._told = False
        command = [sys.executable, "-m", "saddle_jax.tracking", name, str(run.workdir.absolute()), "--follow"]
        paths = [str(pathlib.Path(saddle_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                start_new_session=True,  # Ctrl-C is for the training; this process ends after it
            )
        self._watcher = threading.Thread(target=self._watch, name=f"tracker {name}", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        """Tell the user if the process ends before the training."""
        if self._process.wait() and not self._told:
            self._told = True
            self._run.say("note", f"{self._name} has stopped, training goes on: {self._reason()}. {self._later()}")

    def tell(self) -> None:
        """Tell the process that the training has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already
            self._process.stdin.write(b"\n")
            self._process.stdin.close()

    def end(self, deadline: float, patience: float) -> None:
        """Wait for the process until `deadline`, a time of time.monotonic; then stop it."""
        while self._process.poll() is None and time.monotonic() < deadline:
            watchdog.alive()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
        if self._process.poll() is None:
            self._told = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._watcher.join()
            self._run.say(
                "note", f"{self._name} has not answered for {duration(patience)}, and was stopped. {self._later()}"
            )
            return
        self._watcher.join()
        if self._process.returncode == 0 and (where := read_state(self._folder).own.get("where")):
            self._run.say("note", f"{self._name}: {where}")

    def _reason(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip(" .") for line in reversed(lines) if line.strip()), "no reason given")

    def _later(self) -> str:
        words = ["python", "-m", "saddle_jax.tracking", self._name, str(self._run.workdir)]
        return f"To send what is missing: {shlex.join(words)} (log: {self._log})"
