"""Read a file of weights, whoever wrote it: safetensors, PyTorch's, or NumPy's .npz. No code in it is run."""

from __future__ import annotations

import pathlib
import struct
import zipfile

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from saddle_jax.errors import CheckpointError
from saddle_jax.weights import archive


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file, by the names that they have in it.

    Raises:
      CheckpointError: the file is damaged or of another kind.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if _is_npz(path, start):
            with np.load(path, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        if start[8:9] == b"{":
            return safetensors.numpy.load_file(path)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, SafetensorError, struct.error) as error:
        raise CheckpointError(
            f"the file is damaged ({type(error).__name__}: {str(error)[:200]}). Fix: download it again"
        ) from error
    return archive.read(path).tensors


def _is_npz(path: pathlib.Path, start: bytes) -> bool:
    """Return whether a file is a zip of arrays; PyTorch's files are zips of other things."""
    if start[:4] != b"PK\3\4":
        return False
    with zipfile.ZipFile(path) as file:
        return all(name.endswith(".npy") for name in file.namelist())
