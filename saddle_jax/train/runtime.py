"""What surrounds a run: its directory, where it came from, and requests to stop."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
from ml_collections import ConfigDict

from configs import default
from saddle_jax import __version__
from saddle_jax import config as config_lib
from saddle_jax.data.sources import Splits
from saddle_jax.errors import ConfigError, DataError, WorkdirInUse
from saddle_jax.files import write_atomically

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections", "clu", "tensorflow-cpu")


class StopRequest:
    """Note SIGTERM or SIGINT as a request for an orderly end; a second signal ends the process at once."""

    def __init__(self):
        self.signal_name = ""  # of the signal that came
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def exclusive(workdir: pathlib.Path) -> Iterator[None]:
    """Keep other processes out of a run's directory; the lock goes with the process, however it ends.

    Raises:
      WorkdirInUse: another process holds the lock.
    """
    with (workdir / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise WorkdirInUse(
                f"{workdir} is in use by process {lock.read() or '?'}. Fix: another --workdir"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def open_run(workdir: pathlib.Path, config: ConfigDict, splits: Splits, command: list[str]) -> bool:
    """Make the run's directory, or make sure that what is there is this run; return whether it was there.

    Raises:
      ConfigError: another config's run is there, and the message lists every differing field; or the directory can't
        be written.
      DataError: the run was trained on other images.
    """
    stored = workdir / "config.json"
    class_stats = {
        "counts": splits.stats.counts_C.tolist(),
        "names": list(splits.stats.names),
        "split_hash": splits.split_hash,
        "train_images": len(splits.train.labels),
        "test_images": len(splits.test.labels),
    }
    if stored.is_file():
        differing = config_lib.differences(config_lib.from_json(stored.read_text(), default.get_config()), config)
        if differing:
            fix = "Fix: another --workdir, or the run's own values"
            raise ConfigError(
                [f"{workdir} holds a run with another config. {fix}"]
                + [f"{field}: the run has {old!r}, this command {new!r}" for field, (old, new) in differing.items()]
            )
        trained_on = json.loads((workdir / "class_stats.json").read_text())["split_hash"]
        if trained_on != splits.split_hash:
            raise DataError(
                f"{workdir} was trained on other images: found split {splits.split_hash}, expected {trained_on}. "
                "Fix: the data set of the first start, or another --workdir"
            )
        return True
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "class_stats.json").write_text(json.dumps(class_stats, indent=1))
        (workdir / "run.json").write_text(json.dumps(provenance(config, splits, command), indent=1))
        write_atomically(stored, config_lib.to_json(config))  # the last of them: it is what makes this a run
    except OSError as error:
        raise ConfigError(f"--workdir: {workdir} can't be written ({error}). Fix: another --workdir") from error
    return False


def provenance(config: ConfigDict, splits: Splits, command: list[str]) -> dict[str, Any]:
    """Return what it takes to make the run again."""
    return {
        "command": command,
        "saddle_jax": __version__,
        "git": _git_revision(),
        "python": sys.version.split()[0],
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "seed": config.seed,
        "fingerprint": config_lib.fingerprint(config),
        "split_hash": splits.split_hash,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def peak_memory_mib() -> float:
    """Return the most memory used so far: of the first accelerator where it tells, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Return the commit of the code, with "-dirty" where files differ from it; None outside a checkout."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        folder = pathlib.Path(__file__).parent
        return subprocess.run(describe, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
