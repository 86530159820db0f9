"""Long-tailed image classification with sharpness-aware minimization, in JAX.

    run = saddle_jax.train("folder:la_sam", root="my_images", workdir="runs/mine")
    run = saddle_jax.load("runs/mine")
    run.predict("photo.jpg").classes

Importing this costs nothing; JAX is imported by the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saddle_jax.host import xla

if TYPE_CHECKING:
    from saddle_jax.api import Run, load, train

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "load", "train"]

xla.prepare()  # before JAX reads its flags


def __dir__() -> list[str]:
    """List the package's names, including those that are not imported yet."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import a name from `saddle_jax.api` when it is first used."""
    if name not in ("Run", "load", "train"):
        raise AttributeError(f"module 'saddle_jax' has no attribute {name!r}")
    from saddle_jax import api

    return getattr(api, name)
