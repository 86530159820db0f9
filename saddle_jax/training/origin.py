"""The weights that a run starts from: random ones, a published file's, or those of the run that `start_from` names."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple, Protocol

from ml_collections import ConfigDict

from saddle_jax.data.sources import Splits
from saddle_jax.errors import CheckpointError, ConfigError, DataError
from saddle_jax.training import checkpoint, pretrained
from saddle_jax.training.directory import IMPORTED, differing_images
from saddle_jax.training.state import TrainState


class Origin(Protocol):
    """Where the first weights of a run come from, if they are not random."""

    def record(self) -> dict[str, Any]:
        """Return the entry for the new run's run.json."""
        ...

    def adopt(self, state: TrainState, splits: Splits) -> tuple[TrainState, str]:
        """Return the state with the origin's weights, on the host, and a line that says where they come from.

        Raises:
          CheckpointError: the weights are another network's; the message lists the differences.
        """
        ...


class RunOrigin(NamedTuple):
    """The run whose weights a run starts from, and the checkpoint that holds them."""

    run: pathlib.Path
    checkpoint: checkpoint.Checkpoint

    def record(self) -> dict[str, Any]:
        """Return the entry for the new run's run.json."""
        return {"run": str(self.run.resolve()), "step": self.checkpoint.step}

    def adopt(self, state: TrainState, splits: Splits) -> tuple[TrainState, str]:
        """Return the state with the run's weights, on the host, and a line about them; see `Origin`."""
        try:
            return checkpoint.restore_weights(self.checkpoint, state), self.describe(splits)
        except CheckpointError as error:
            fix = f"Fix: use the model and the number of classes of {self.run / 'config.json'}"
            raise CheckpointError(f"start_from: {error}\n{fix}") from error

    def describe(self, splits: Splits) -> str:
        """Return a line that says where the weights come from and warns of a likely mistake."""
        line = f"weights start as those of {self.run} at step {self.checkpoint.step:,}"
        if not any((self.run / name).is_file() for name in ("results.json", IMPORTED)):
            line += ", a run that has not finished"
        try:
            differing = differing_images(self.run, splits)
        except DataError:
            return f"{line}; the images that it was trained on are not known"
        return f"{line}; it was trained on other images ({', '.join(differing)} differ)" if differing else line


def find(config: ConfigDict, workdir: pathlib.Path) -> Origin | None:
    """Return the origin of the run in `workdir`, or None if it has random weights or a checkpoint of its own.

    Raises:
      ConfigError: `start_from` names no run, or several seeds' runs without this one; or `model.weights` names no file.
      CheckpointError: that run has no checkpoint, or its newest is damaged.
    """
    if checkpoint.available(workdir / "checkpoints"):
        return None
    if not config.start_from:
        return pretrained.find(config)
    run = _run_of(pathlib.Path(config.start_from).expanduser(), config.seed)
    try:
        return RunOrigin(run, checkpoint.find(run / "checkpoints", by_flag=False))
    except CheckpointError as error:
        raise CheckpointError(f"start_from: {error}") from error


def _run_of(folder: pathlib.Path, seed: int) -> pathlib.Path:
    for run in (folder / f"seed-{seed}", folder):
        if (run / "config.json").is_file():
            return run
    others = sorted(path.parent.name for path in folder.glob("seed-*/config.json"))
    if others:
        raise ConfigError(
            f"start_from: {folder} has {', '.join(others)}, expected seed-{seed}. Fix: use one of them for all seeds, "
            f"--config.start_from={folder / others[0]}"
        )
    raise ConfigError(f"start_from: {folder} holds no run. Fix: --config.start_from=DIRECTORY of a run that has saved")
