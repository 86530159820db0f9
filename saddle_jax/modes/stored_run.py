"""Read the config and the checkpoints of a stored run, for modes that do not train."""

from __future__ import annotations

import pathlib
from typing import Any

import jax

from saddle_jax.errors import CheckpointError, ConfigError
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.command_line import Command
from saddle_jax.training import checkpoint
from saddle_jax.training.state import TrainState


def differences(command: Command) -> dict[str, tuple[Any, Any]]:
    """Return {field: (run's value, command's value)} for the fields that must agree but differ.

    Raises:
      ConfigError: the workdir holds no run.
    """
    path = pathlib.Path(command.workdir, "config.json")
    if not path.is_file():
        runs = sorted(map(str, pathlib.Path(command.workdir).glob("seed-*")))
        fix = f"one of its seeds, e.g. --workdir {runs[0]}" if runs else "name the --workdir of a run"
        raise ConfigError(f"--mode {command.mode}: {command.workdir} holds no run. Fix: {fix}")
    trained = config_lib.from_json(path.read_bytes())
    return config_lib.differences(trained, command.config)


def restore_from_a_running_run(
    checkpoints: pathlib.Path, which: str, like: TrainState
) -> tuple[checkpoint.Checkpoint, TrainState]:
    """Return a checkpoint and its state on the host, with the weights that are evaluated.

    Tries twice, because a running run may replace the checkpoint with a newer one in the meantime.

    Raises:
      CheckpointError: the checkpoint does not exist, does not fit, or can't be read.
    """
    for last_try in (False, True):
        try:
            found = checkpoint.find(checkpoints, which)
            return found, jax.device_get(checkpoint.restore(found, like)).evaluated()
        except CheckpointError:
            raise
        except Exception as error:  # orbax and the file system raise many kinds of errors for a deleted file
            if last_try:
                raise CheckpointError(f"{checkpoints}: {which} can't be read ({error}). Fix: try again") from error
    raise AssertionError
