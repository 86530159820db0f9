"""Load the compiled kernels and register them with XLA."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import pathlib

import jax

_ONEDNN = "onednn-cpu-gomp"
_HANDLERS = {
    "saddle_conv": "SaddleConv",
    "saddle_norm_forward": "SaddleNormForward",
    "saddle_norm_backward": "SaddleNormBackward",
}


@functools.cache
def load() -> ctypes.CDLL:
    """Load the compiled kernels and register them with XLA, once.

    Raises:
      ImportError: oneDNN, OpenMP or the kernels are missing, or made for another jaxlib.
    """
    try:
        ctypes.CDLL(str(_onednn()))  # the next library then finds it, wherever pip has put it
        library = ctypes.CDLL(str(pathlib.Path(__file__).with_name("libsaddle_kernels.so")))
        for target, symbol in _HANDLERS.items():
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")
    except (OSError, AttributeError, jax.errors.JaxRuntimeError) as error:
        fix = "apt-get install libgomp1" if "libgomp" in str(error) else "pip install --force-reinstall ./native"
        raise ImportError(f"saddle_kernels can't be loaded: {error}. Fix: {fix}") from error
    return library


@functools.cache
def has_bfloat16() -> bool:
    """Return whether oneDNN has bfloat16 convolutions for this processor."""
    return bool(load().SaddleHasBfloat16())


def _onednn() -> pathlib.Path:
    """Return where pip has installed oneDNN."""
    try:
        files = importlib.metadata.files(_ONEDNN) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"saddle_kernels needs {_ONEDNN}. Fix: pip install {_ONEDNN}==2023.2.0") from error
    for file in files:
        if file.name == "libdnnl.so.3" and (path := pathlib.Path(str(file.locate()))).exists():
            return path
    raise ImportError(
        f"found no libdnnl.so.3 of {_ONEDNN}: pip puts it beside Python's own libraries, or nowhere with --target. "
        f"Fix: pip install --force-reinstall {_ONEDNN}==2023.2.0, in a virtual environment"
    )
