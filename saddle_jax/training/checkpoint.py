"""Checkpoints: orbax writes the arrays, a manifest completes a checkpoint, and a rename publishes it.

    checkpoints/<step>/state/         orbax, the whole TrainState
    checkpoints/<step>/meta.json      format version, step, best step so far, kept for good
    checkpoints/<step>/MANIFEST.json  size and sha256 of every file, written last
    checkpoints/quarantine/<step>-<n> damaged ones, set aside and never deleted

Orbax restores damaged bytes silently, so files are compared with the manifest before anything is read. The newest two
checkpoints are kept, so that there is one to fall back on if the newest is damaged. For each of them, the checkpoint
that was best at that step is kept, too. That takes two to four times the size of a state on disk, and one more while a
save is under way. Checkpoints that are kept for good add to that.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np

from saddle_jax.errors import CheckpointError
from saddle_jax.host.faults import fault_point
from saddle_jax.host.files import refusal, sync, write_atomically, writing
from saddle_jax.training import manifest, stored_arrays
from saddle_jax.training.state import TrainState

FORMAT_VERSION = 5
_META, _STATE, _QUARANTINE = "meta.json", "state", "quarantine"


class Best(NamedTuple):
    """The evaluation with the highest accuracy so far."""

    step: int
    accuracy: float  # percent
    split: str  # the split that chose it


class Checkpoint(NamedTuple):
    """A checkpoint on disk."""

    step: int
    path: pathlib.Path
    best: Best | None  # as of this step
    running_mean: dict[str, Any]  # of the metrics since the last log record


def save(
    folder: pathlib.Path, state: TrainState, best: Best | None, running_mean: dict[str, Any], *, keep: bool = False
) -> Checkpoint:
    """Write the state and publish it atomically; delete checkpoints that are no longer kept.

    Args:
      best: the best evaluation so far.
      running_mean: the metrics since the last log record.
      keep: later calls never delete this checkpoint.

    Raises:
      CheckpointError: the write failed. Earlier checkpoints are untouched.
    """
    step, state = int(state.step), jax.tree.map(np.asarray, state)
    final, temporary = folder / str(step), folder / f".tmp-{step}"
    meta = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "best": best._asdict() if best else None,
        "keep": keep,
        "running_mean": running_mean,
    }
    try:
        fault_point("save:begin")
        folder.mkdir(parents=True, exist_ok=True)
        for abandoned in folder.glob(".tmp-*"):
            shutil.rmtree(abandoned)
        temporary.mkdir()
        fault_point("save:arrays")
        stored_arrays.write(temporary / _STATE, state)
        write_atomically(temporary / _META, json.dumps(meta, indent=1))
        fault_point("save:manifest")
        manifest.write(temporary)
        fault_point("save:commit")
        if final.exists():
            _delete(final)
        temporary.rename(final)
        sync(folder)
        fault_point("save:committed")
        for other in _superfluous(folder):
            _delete(folder / str(other))
    except CheckpointError:
        raise
    except Exception as error:  # tensorstore reports a full disk with any of many types
        raise refusal(final, sum(leaf.nbytes for leaf in jax.tree.leaves(state)), error) from error
    return Checkpoint(step, final, best, running_mean)


def available(folder: pathlib.Path) -> list[int]:
    """Return the steps that have a checkpoint, sound or not, in rising order."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdecimal() and path.is_dir())


def resume(folder: pathlib.Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest sound checkpoint, or None if there are no checkpoints, and notes for the user.

    Damaged checkpoints that are newer, and a damaged best one, are moved to quarantine/. So only the process that
    trains may call this.

    Raises:
      CheckpointError: there are checkpoints, but all are damaged. Nothing is moved.
    """
    damaged: dict[int, str] = {}
    steps = available(folder)
    for step in reversed(steps):
        if not (damage := manifest.damage(folder / str(step))):
            break
        damaged[step] = damage
    else:
        if not steps:
            return None, []
        lines = [f"  {folder / str(step)}: {damage}" for step, damage in damaged.items()]
        fix = "Fix: restore one from a copy, or start over in another --workdir"
        raise CheckpointError("\n".join(["every checkpoint of this run is damaged:", *lines, fix]))
    found = _read(folder / str(step))
    notes = [f"{_set_aside(folder, bad, damage)}; going on from step {step:,}" for bad, damage in damaged.items()]
    if found.best and found.best.step != step:
        path = folder / str(found.best.step)
        if not path.is_dir():
            notes.append(f"{path}, the best checkpoint so far, is gone; training does not need it")
        elif damage := manifest.damage(path):
            notes.append(f"{_set_aside(folder, found.best.step, damage)}; it was the best so far; training continues")
    return found, notes


def find(folder: pathlib.Path, which: str = "latest", *, by_flag: bool = True) -> Checkpoint:
    """Return the checkpoint that `which` names (latest, best, or a step). Move nothing and substitute no other.

    Args:
      by_flag: the user chose it with --checkpoint and can choose another.

    Raises:
      CheckpointError: there is none, or it differs from its manifest.
    """
    steps = available(folder)
    if not steps:
        raise CheckpointError(f"{folder}: found no checkpoint, expected a run that has saved one")
    if which == "latest":
        return _open(folder / str(steps[-1]), by_flag)
    if which == "best":
        best = _open(folder / str(steps[-1])).best
        if best is None:
            raise CheckpointError(f"{folder}: no evaluation has chosen a best checkpoint yet. Fix: --checkpoint latest")
        return _open(folder / str(best.step))
    if which not in map(str, steps):
        shown = ", ".join(map(str, steps))
        raise CheckpointError(f"--checkpoint: found {which!r}, expected latest, best or one of the steps {shown}")
    return _open(folder / which)


def restore(checkpoint: Checkpoint, like: TrainState) -> TrainState:
    """Read a checkpoint onto the host, with the structure, shapes, and dtypes of `like`.

    Raises:
      CheckpointError: it holds another network's or optimizer's state; the message lists the differences.
    """
    problem = f"{checkpoint.path} belongs to another model, optimizer or precision:"
    return stored_arrays.arrange(stored_arrays.read(checkpoint.path / _STATE), like, problem)


def restore_weights(checkpoint: Checkpoint, like: TrainState) -> TrainState:
    """Read only the weights that are evaluated onto the host; the rest is that of `like`. Raises like `restore`."""
    parts = {"params": like.params, "model_state": like.model_state}
    leaves = stored_arrays.read(checkpoint.path / _STATE)
    average = {name.removeprefix("average."): leaf for name, leaf in leaves.items() if name.startswith("average.")}
    found = {name: leaf for name, leaf in (average or leaves).items() if name.partition(".")[0] in parts}
    return like._replace(**stored_arrays.arrange(found, parts, f"{checkpoint.path} belongs to another network:"))


def _open(path: pathlib.Path, by_flag: bool = True) -> Checkpoint:
    if not path.is_dir():
        aside = sorted(map(str, (path.parent / _QUARANTINE).glob(f"{path.name}-*")))
        why = f": it was damaged and is now {aside[-1]}" if aside else ""
        raise CheckpointError(f"{path}: found no checkpoint there{why}. Fix: choose another --checkpoint")
    if damage := manifest.damage(path):
        others = [str(step) for step in available(path.parent) if str(step) != path.name]
        named = f", or --checkpoint {' or '.join(others)}" if others and by_flag else ""
        raise CheckpointError(
            f"{path} is damaged: {damage}. Fix: the command that trained the run sets it aside and goes on from the "
            f"checkpoint before it{named}"
        )
    return _read(path)


def _read(path: pathlib.Path) -> Checkpoint:
    meta = json.loads((path / _META).read_text())
    if meta["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {meta['format_version']}; this version reads format {FORMAT_VERSION}. "
            "Fix: use the version of saddle_jax that wrote it, which run.json names"
        )
    best = Best(**meta["best"]) if meta["best"] else None
    return Checkpoint(meta["step"], path, best, meta["running_mean"])


def _set_aside(folder: pathlib.Path, step: int, damage: str) -> str:
    """Move a damaged checkpoint to quarantine, and return a note about it."""
    damaged, quarantine = folder / str(step), folder / _QUARANTINE
    with writing(quarantine):
        quarantine.mkdir(exist_ok=True)
        target = next(path for n in itertools.count(1) if not (path := quarantine / f"{step}-{n}").exists())
        damaged.rename(target)
        sync(folder)
    return f"DAMAGED: checkpoint {damaged} ({damage}) was moved to {target}"


def _superfluous(folder: pathlib.Path) -> list[int]:
    """Return the steps of all checkpoints except the newest two, the best as of each, and those kept for good."""
    steps = available(folder)
    newest = steps[-2:]
    kept = set(newest)
    for step in steps:
        try:
            meta = json.loads((folder / str(step) / _META).read_text())
            if meta["keep"]:
                kept.add(step)
            if step in newest and meta["best"]:
                kept.add(meta["best"]["step"])
        except (OSError, ValueError, TypeError, KeyError):  # damage is reported when it is opened
            continue
    return [step for step in steps if step not in kept]


def _delete(path: pathlib.Path) -> None:
    """Delete a checkpoint without ever leaving a part of it under its name."""
    going = path.with_name(f".tmp-old-{path.name}")
    path.rename(going)
    fault_point("save:deleting")
    shutil.rmtree(going)
