"""A tree of arrays on disk: orbax writes and reads it, in one process, whatever the other processes do."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np

from saddle_jax.errors import CheckpointError

# Only one of several processes reads and writes (processes.on_first), so orbax must not wait for the others.


def write(path: pathlib.Path, tree: Any) -> None:
    """Write a tree of host arrays with orbax's older interface, since v1's save (0.12.8) always asks all processes."""
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(**_alone())
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        checkpointer.save(path.resolve(), args=ocp.args.StandardSave(tree))


def read(path: pathlib.Path) -> dict[str, Any]:
    """Return all leaves of a stored tree by name, such as "params.conv1.kernel", on the host."""
    from orbax.checkpoint import v1 as ocp

    path, context = path.resolve(), ocp.Context()
    for name, value in _alone().items():
        setattr(context.multiprocessing, name, value)
    with context:
        as_stored = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), ocp.metadata(path).metadata)
        return _leaves(ocp.load(path, as_stored))


def arrange(found: dict[str, Any], like: Any, problem: str) -> Any:
    """Return leaves, by name, as a tree with the structure, shapes, and dtypes of `like`.

    Raises:
      CheckpointError: they differ from `like`; the message is `problem` and the differences.
    """
    expected = _leaves(like)
    differing = [
        f"  {name}: found {_shown(found.get(name))}, expected {_shown(expected.get(name))}"
        for name in dict.fromkeys([*expected, *found])
        if _shown(found.get(name)) != _shown(expected.get(name))
    ]
    if differing:
        more = [f"  ... and {len(differing) - 10} more"] if len(differing) > 10 else []
        raise CheckpointError("\n".join([problem, *differing[:10], *more]))
    return jax.tree_util.tree_map_with_path(lambda path, _: found[_name(path)], like)


def _alone() -> dict[str, Any]:
    this = jax.process_index()
    return {"primary_host": this, "active_processes": {this}, "barrier_sync_key_prefix": f"process_{this}"}


def _leaves(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _shown(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"


def _name(path: tuple) -> str:
    """Return a leaf's name, "params.conv1.kernel", whether its containers have fields, keys, or positions."""
    return ".".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)
