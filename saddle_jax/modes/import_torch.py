"""`--mode import`: turn a PyTorch checkpoint into the only checkpoint of a new run directory.

The optimizer's state is not imported, because the reference's checkpoints do not contain the momentum. The directory is
therefore only for `eval` and `spectra`, and training refuses it.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections import Counter

import jax
import numpy as np

from saddle_jax import __version__
from saddle_jax.data import sources
from saddle_jax.data.encoded import Encoded
from saddle_jax.errors import CheckpointError, ConfigError
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import console
from saddle_jax.host.files import sha256_of, write_atomically
from saddle_jax.host.lock import exclusive
from saddle_jax.schedules import Schedules
from saddle_jax.training import checkpoint
from saddle_jax.training.directory import IMPORTED, open_run
from saddle_jax.training.program import make_program
from saddle_jax.weights import archive, class_map, names


def run(command: Command) -> int:
    """Import the command's PyTorch file into its workdir.

    Raises:
      ConfigError: the workdir holds a run, or the command and the file do not go together.
      CheckpointError: the file can't be read or does not fit the config's network.
    """
    config, workdir = command.config, pathlib.Path(command.workdir)
    path = pathlib.Path(command.torch_file or "").expanduser()
    if config.num_seeds != 1:
        raise ConfigError(
            f"--mode import: found num_seeds={config.num_seeds}, expected 1: a file is one run. Fix: remove num_seeds"
        )
    _require_no_run(workdir)
    try:
        found = archive.read(path)
    except CheckpointError as error:
        raise CheckpointError(f"--torch_file: {error}") from error
    splits = sources.load(config)
    is_encoded = isinstance(splits.train.images, Encoded)
    if is_encoded and not command.class_map:  # the reference sorts these classes, and its sort is not stable
        raise ConfigError(
            f"--mode import: {config.data.name or config.data.root!r} needs --class_map FILE, because the reference "
            "numbers the classes of such sets in an order that can't be recomputed. Fix: export class_map from the "
            "reference's data set"
        )
    outputs_C = splits.stats.places_C
    if command.class_map:
        outputs_C = class_map.read(pathlib.Path(command.class_map), splits.stats.names, outputs_C)
    program = make_program(config, splits, to_train=False)
    step = _step(found.epoch, program.schedules)
    like = jax.eval_shape(lambda: program.init(config.seed))
    try:
        params, model_state = names.convert(found.tensors, like.params, like.model_state, outputs_C)
    except CheckpointError as error:
        part = "" if found.part is None else f", {found.part!r}"
        raise CheckpointError(f"--torch_file: {str(path)!r}{part}: {error}") from error
    state = jax.device_get(program.init(config.seed))
    state = state._replace(step=np.asarray(step, state.step.dtype), params=params, model_state=model_state)
    state = state.averaged_from_here()

    with exclusive(workdir):
        _require_no_run(workdir)
        origin = {
            "file": str(path.resolve()),
            "sha256": sha256_of(path),
            "arch": found.arch,
            "epoch": found.epoch,
            "part": found.part,
            "outputs": outputs_C.tolist(),
        }
        write_atomically(workdir / IMPORTED, json.dumps(origin, indent=1))
        checkpoint.save(workdir / "checkpoints", state, None, {})
        open_run(workdir, config, splits, sys.argv)
    epoch = "no epoch, assumed to be the last" if found.epoch is None else f"epoch {found.epoch}"
    arch = f"{found.arch!r}, " if found.arch else ""
    part = "a bare state_dict" if found.part is None else repr(found.part)
    console.say(f"saddle_jax {__version__} ", f"{path}: {arch}{len(found.tensors)} tensors of {part}, {epoch}")
    if found.others:
        others = ", ".join(map(repr, found.others))
        console.say("note", f"left out {others}, which may hold other weights of the network")
    prefixes = Counter(filter(None, map(names.prefix_of, found.tensors)))
    for prefix, count in prefixes.items():
        console.say("note", f"removed the prefix {prefix!r} from {count} names")
    reached = f"step {step:,} of {program.schedules.total_steps:,}"
    console.say("done", f"{workdir} at {reached}, for --mode eval and --mode spectra")
    return 0


def _require_no_run(workdir: pathlib.Path) -> None:
    """Check that the import would overwrite nothing except the remains of an interrupted import."""
    runs = [path for path in (workdir / "config.json", *workdir.glob("seed-*/config.json")) if path.is_file()]
    if runs or (checkpoint.available(workdir / "checkpoints") and not (workdir / IMPORTED).is_file()):
        raise ConfigError(f"--workdir: {workdir} already holds a run. Fix: another --workdir")


def _step(epoch: int | None, schedules: Schedules) -> int:
    """Return the step at the end of the given epoch, or the last step of the run if the file names no epoch."""
    if epoch is None:
        return schedules.total_steps
    step = epoch * schedules.steps_per_epoch
    if step >= schedules.total_steps + schedules.steps_per_epoch:
        raise ConfigError(
            f"--torch_file: found {epoch} epochs of {schedules.steps_per_epoch} steps, expected at most the "
            f"{schedules.total_steps:,} steps of the config's run. Fix: --config.duration='{epoch} epochs'"
        )
    return min(step, schedules.total_steps)
