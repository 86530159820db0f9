"""The weights that `model.weights` names: read from a published file, and fitted to the config's network.

The classifier always starts anew: nothing in a file says which class each of its outputs stands for.
"""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from saddle_jax.data.sources import Splits
from saddle_jax.errors import CheckpointError, ConfigError, first_lines
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.catalogue import published
from saddle_jax.host.files import sha256_of
from saddle_jax.models.adapters import ADAPTERS
from saddle_jax.training.state import TrainState
from saddle_jax.weights import names, publishers, weight_file

_HEAD = "linear"  # entry of the classifier's parameters
_ADAPTERS = {module for modules in ADAPTERS.values() for module in modules}


class FileOrigin(NamedTuple):
    """A file of published weights that a run starts from."""

    path: pathlib.Path
    class_vectors: pathlib.Path | None = None

    def record(self) -> dict[str, Any]:
        """Return the entry for the new run's run.json."""
        return {"file": str(self.path.resolve()), "sha256": sha256_of(self.path)}

    def adopt(self, state: TrainState, splits: Splits) -> tuple[TrainState, str]:
        """Return the state with the backbone's weights from the file, on the host, and a line about them.

        Everything outside the backbone stays as it is.

        Raises:
          CheckpointError: the file can't be read, is not the published one whose name it has, or holds another
            network's weights.
        """
        try:
            published.require_published(self.path)
            tensors, publisher = publishers.to_timm(weight_file.read(self.path))
            state = _placed(tensors, state)
        except (CheckpointError, OSError) as error:
            raise CheckpointError(f"model.weights: {str(self.path)!r}: {error}") from error
        left_out = sum(_is_head(name, tensor) for name, tensor in tensors.items())
        line = f"weights are those of {self.path}, {len(tensors) - left_out} tensors in the naming of {publisher}"
        line += "; its classifier is left out, and a new one starts" if left_out else ""
        if self.class_vectors is None:
            return state, line
        kernel_DC = _class_vectors(self.class_vectors, splits.stats.names, state.params[_HEAD]["kernel"])
        return state._replace(params={**state.params, _HEAD: {**state.params[_HEAD], "kernel": kernel_DC}}), line


def find(config: ConfigDict) -> FileOrigin | None:
    """Return the file that `model.weights` names, or None.

    Raises:
      ConfigError: there is no such file.
    """
    model = config.model
    if not model.weights:
        return None
    if problems := published.missing(config_lib.flatten(config)):
        raise ConfigError(problems)
    path = pathlib.Path(model.weights).expanduser()
    return FileOrigin(path, pathlib.Path(model.class_vectors).expanduser() if model.class_vectors else None)


def _placed(tensors: dict[str, np.ndarray], state: TrainState) -> TrainState:
    """Return the state with these tensors in place of all parameters but the classifier's and the adapters'."""
    params = traverse_util.flatten_dict(state.params)
    of_file = {path: x for path, x in params.items() if path[0] != _HEAD and _ADAPTERS.isdisjoint(path)}
    asked = traverse_util.unflatten_dict(of_file)
    tensors = {name: tensor for name, tensor in tensors.items() if not _is_head(name, tensor)}
    tensors = publishers.fitted(tensors, asked)
    _require_alike(tensors, asked)
    backbone, model_state = names.convert(tensors, asked, state.model_state)
    whole = traverse_util.unflatten_dict({**params, **traverse_util.flatten_dict(backbone)})
    return state._replace(params=jax.tree.map(np.asarray, whole), model_state=model_state)


def _class_vectors(path: pathlib.Path, names: Sequence[str], like_DC: np.ndarray) -> np.ndarray:
    """Return the classes' vectors at length 1 as the kernel of a classifier, (D, C)."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            vectors = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"model.class_vectors: {str(path)!r} can't be read ({error})") from error
    size = len(like_DC)
    problems = [f"class {name!r} has no vector" for name in names if name not in vectors]
    for name in set(names) & vectors.keys():
        vector = vectors[name]
        if vector.shape != (size,) or not np.isfinite(vector).all() or not np.any(vector):
            problems.append(
                f"class {name!r}: found {vector.dtype} of shape {vector.shape}, expected {size} finite numbers"
            )
    if problems:
        listed = "\n".join(first_lines(problems))
        raise ConfigError(f"model.class_vectors: {str(path)!r} does not fit:\n{listed}")
    kernel_DC = np.stack([vectors[name] for name in names], axis=1).astype(like_DC.dtype)
    return kernel_DC / np.linalg.norm(kernel_DC, axis=0)


def _require_alike(tensors: dict[str, np.ndarray], asked: Any) -> None:
    """Check that the file's network is like this one at all, before every tensor that doesn't fit is reported."""
    ours = set(traverse_util.flatten_dict({"params": asked}))
    theirs = {names.our_path(name, x.ndim) for name, x in tensors.items()}
    if len(ours & theirs) < len(ours) / 2:
        lines = ["the file holds the weights of another network. It has tensors such as"]
        lines += first_lines([f"{name} {tensors[name].shape}" for name in tensors], 5)
        lines.append("Fix: the --config.model.name that the file belongs to, or a file of this network")
        raise CheckpointError("\n".join(lines))


def _is_head(name: str, tensor: np.ndarray) -> bool:
    return names.our_path(name, tensor.ndim)[1] == _HEAD
