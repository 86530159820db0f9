"""A run that is read, and not trained: its config, its checkpoints."""

from __future__ import annotations

import pathlib
from typing import Any

import jax

from saddle_jax.errors import CheckpointError, ConfigError
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.command_line import Command
from saddle_jax.train import checkpoint
from saddle_jax.train.state import TrainState


def differences(command: Command) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which the command's config is not its run's.

    Raises:
      ConfigError: there is no run.
    """
    path = pathlib.Path(command.workdir, "config.json")
    if not path.is_file():
        runs = sorted(map(str, pathlib.Path(command.workdir).glob("seed-*")))
        fix = f"one of its seeds, e.g. --workdir {runs[0]}" if runs else "--workdir of a run"
        raise ConfigError(f"--mode {command.mode}: {command.workdir} holds no run. Fix: {fix}")
    trained = config_lib.from_json(path.read_bytes())
    return config_lib.differences(trained, command.config)


def restore_from_a_running_run(
    checkpoints: pathlib.Path, which: str, like: TrainState
) -> tuple[checkpoint.Checkpoint, TrainState]:
    """Return a checkpoint and its state on the host; the run may delete it for a newer one meanwhile."""
    for last_try in (False, True):
        try:
            found = checkpoint.find(checkpoints, which)
            return found, jax.device_get(checkpoint.restore(found, like))
        except CheckpointError:
            raise
        except Exception as error:  # orbax and the file system have many names for a file that has gone
            if last_try:
                raise CheckpointError(f"{checkpoints}: {which} can't be read ({error}). Fix: try again") from error
    raise AssertionError
