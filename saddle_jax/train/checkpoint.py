"""Checkpoints: orbax writes the arrays, a manifest makes a checkpoint one, a rename publishes it.

    checkpoints/<step>/state/         orbax, the whole TrainState
    checkpoints/<step>/meta.json      format version, step, best step so far
    checkpoints/<step>/MANIFEST.json  size and sha256 of every file, written last

A folder without a manifest is no checkpoint. Orbax restores damaged bytes silently, so files are compared with the
manifest before anything is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np

from saddle_jax.errors import CheckpointError
from saddle_jax.files import sync_folder, write_atomically
from saddle_jax.train.state import TrainState

FORMAT_VERSION = 1
_MANIFEST, _META, _STATE = "MANIFEST.json", "meta.json", "state"


class Best(NamedTuple):
    """The evaluation with the highest accuracy so far."""

    step: int
    accuracy: float  # percent
    split: str  # that chose it


class Checkpoint(NamedTuple):
    """A checkpoint on disk."""

    step: int
    path: pathlib.Path
    best: Best | None  # as of this step
    running_mean: dict[str, Any]  # of the metrics since the last log record


def save(folder: pathlib.Path, state: TrainState, best: Best | None, running_mean: dict[str, Any]) -> Checkpoint:
    """Write the state and publish it atomically; keep this checkpoint and the best one, delete the others.

    Raises:
      CheckpointError: the disk refused; what was there before is untouched.
    """
    step = int(state.step)
    final, temporary = folder / str(step), folder / f".tmp-{step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for abandoned in folder.glob(".tmp-*"):
            shutil.rmtree(abandoned)
        temporary.mkdir()
        _write((temporary / _STATE).resolve(), jax.tree.map(np.asarray, state))
        meta = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "best": best._asdict() if best else None,
            "running_mean": running_mean,
        }
        (temporary / _META).write_text(json.dumps(meta, indent=1))
        write_atomically(temporary / _MANIFEST, json.dumps(_digests(temporary), indent=1))
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync_folder(folder)
    except Exception as error:  # tensorstore reports a full disk as one of many kinds
        raise CheckpointError(f"{final}: can't be written ({error}). Fix it and run the same command again") from error
    for other in available(folder):
        if other not in (step, best.step if best else step):
            shutil.rmtree(folder / str(other))
    return Checkpoint(step, final, best, running_mean)


def available(folder: pathlib.Path) -> list[int]:
    """Return the steps that have a checkpoint, in order."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdecimal() and (path / _MANIFEST).is_file())


def find(folder: pathlib.Path, which: str = "latest") -> Checkpoint:
    """Return the checkpoint that `which` names: latest, best or a step.

    Raises:
      CheckpointError: there is none, or it differs from its manifest.
    """
    steps = available(folder)
    if not steps:
        raise CheckpointError(f"{folder}: found no checkpoint, expected a run that has saved one")
    if which == "latest":
        return _open(folder / str(steps[-1]))
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
    """Read a checkpoint into the structure, shapes and dtypes of `like`.

    Raises:
      CheckpointError: it holds another network's or optimizer's state; the message lists what differs.
    """
    from orbax.checkpoint import v1 as ocp

    path = (checkpoint.path / _STATE).resolve()
    with _reading():
        stored = _leaves(ocp.metadata(path).metadata)
    expected = _leaves(like)
    differing = [
        f"  {name}: found {stored.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
        for name in [*expected, *(stored.keys() - expected.keys())]
        if stored.get(name) != expected.get(name)
    ]
    if differing:
        more = [f"  ... and {len(differing) - 10} more"] if len(differing) > 10 else []
        lines = [f"{checkpoint.path} belongs to another model, optimizer or precision:", *differing[:10], *more]
        raise CheckpointError("\n".join(lines))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)
    with _reading():
        return ocp.load(path, abstract)


# Of several processes one alone reads and writes (processes.on_first): orbax must not wait for the others.


def _write(path: pathlib.Path, tree: Any) -> None:
    """Write a tree of host arrays, by orbax's older interface: the save of v1 0.12.8 asks all processes in any case."""
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(**_alone())
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        checkpointer.save(path, args=ocp.args.StandardSave(tree))


def _reading() -> contextlib.AbstractContextManager:
    """Return the context in which this process reads by itself."""
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    for name, value in _alone().items():
        setattr(context.multiprocessing, name, value)
    return context


def _alone() -> dict[str, Any]:
    this = jax.process_index()
    return {"primary_host": this, "active_processes": {this}, "barrier_sync_key_prefix": f"process_{this}"}


def _open(path: pathlib.Path) -> Checkpoint:
    if not (path / _MANIFEST).is_file():
        raise CheckpointError(f"{path}: found no checkpoint there")
    try:
        expected = dict(json.loads((path / _MANIFEST).read_bytes()))
    except (ValueError, TypeError):
        expected = {_MANIFEST: []}
    found = _digests(path)
    damaged = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if damaged:
        raise CheckpointError(
            f"{path} is damaged: {', '.join(damaged[:5])} ({len(damaged)} files) differ from its manifest. "
            "Fix: move that folder away to continue from the checkpoint before it, if there is one"
        )
    meta = json.loads((path / _META).read_text())
    if meta["format_version"] != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format {meta['format_version']}; this version reads {FORMAT_VERSION}")
    best = Best(**meta["best"]) if meta["best"] else None
    return Checkpoint(meta["step"], path, best, meta["running_mean"])


def _leaves(tree: Any) -> dict[str, str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): f"{np.dtype(leaf.dtype)}{list(leaf.shape)}" for path, leaf in leaves}


def _name(path: tuple) -> str:
    """Return "params.conv1.kernel" for a leaf, whether its containers have fields, keys or positions."""
    return ".".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)


def _digests(folder: pathlib.Path) -> dict[str, list]:
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _MANIFEST:
            content = path.read_bytes()
            digests[path.relative_to(folder).as_posix()] = [len(content), hashlib.sha256(content).hexdigest()]
    return digests
