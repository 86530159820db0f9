"""The contestants of our train steps: PyTorch's steps, plain and tuned."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from our_steps import RHO

from saddle_jax.host import devices

Contestant = Callable[[], object]  # takes a step, or returns how many steps of one network it took
TORCH = importlib.util.find_spec("torch") is not None
REFERENCE = "PyTorch eager"
TUNED = {
    REFERENCE: {},
    "PyTorch channels_last": {"channels_last": True},
    "PyTorch compile": {"compiled": True},
    "PyTorch bf16 channels_last": {"channels_last": True, "bfloat16": True},
    "PyTorch bf16 channels_last compile": {"channels_last": True, "bfloat16": True, "compiled": True},
}
PACKAGES = ["jax", "jaxlib", "flax", "optax", "numpy", *(["torch"] if TORCH else [])]


def need_one_device() -> None:
    """Exit if JAX sees several devices, because PyTorch's loops use one."""
    if devices.num_devices() > 1:
        sys.exit(
            f"found {devices.num_devices()} devices, expected 1. Fix: CUDA_VISIBLE_DEVICES=0 and no forced CPU devices"
        )


def wanted(name: str, only: str) -> bool:
    """Return whether comma-separated parts of names ask for a contestant. The reference is always wanted."""
    return name == REFERENCE or any(part.strip() in name for part in only.split(","))


def theirs(
    make_network: Callable[[], Any],
    optimizer: str,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    only: str,
    tf32: bool,
    compiled: bool,
) -> dict[str, Contestant]:
    """Return PyTorch's steps, or none if it would run on a different device than JAX.

    Args:
      make_network: returns a PyTorch module; called only if PyTorch is installed.
      compiled: also use torch.compile.
    """
    if not TORCH:
        print("no PyTorch: measuring ours alone. Fix: pip install torch==2.13.0")
        return {}
    import torch_resnet

    if (jax.default_backend() == "gpu") != torch_resnet.CUDA:
        print(f"PyTorch is on {torch_resnet.PLACE}, JAX on {jax.default_backend()}: measuring ours alone")
        return {}
    torch_resnet.allow_tf32(tf32)
    rho = RHO if optimizer == "SAM" else None
    return {
        name: torch_resnet.make_step(make_network(), images, labels, rho=rho, **settings)
        for name, settings in TUNED.items()
        if wanted(name, only) and (compiled or not settings.get("compiled"))
    }
