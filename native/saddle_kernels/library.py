"""Load the compiled kernels and tell XLA of them."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import pathlib

import jax

_HANDLERS = {
    "saddle_conv": "SaddleConv",
    "saddle_norm_forward": "SaddleNormForward",
    "saddle_norm_backward": "SaddleNormBackward",
}


@functools.cache
def load() -> None:
    """Load the compiled kernels and register them with XLA, once.

    Raises:
      ImportError: oneDNN or the library is missing or cannot be loaded.
    """
    try:
        ctypes.CDLL(str(_onednn()), mode=ctypes.RTLD_GLOBAL)  # so that ours finds it, wherever pip has put it
        library = ctypes.CDLL(str(pathlib.Path(__file__).with_name("libsaddle_kernels.so")))
    except OSError as error:
        raise ImportError(
            f"saddle_kernels can't be loaded: {error}. Fix: pip install --force-reinstall ./native"
        ) from error
    for target, symbol in _HANDLERS.items():
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")


def _onednn() -> pathlib.Path:
    """Return where pip has installed oneDNN."""
    package = "onednn-cpu-gomp"
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"saddle_kernels needs {package}. Fix: pip install {package}==2023.2.0") from error
    found = [file for file in files if file.name == "libdnnl.so.3"]
    if not found:
        raise ImportError(f"found no libdnnl.so.3 in {package}. Fix: pip install --force-reinstall {package}==2023.2.0")
    return pathlib.Path(str(found[0].locate()))
