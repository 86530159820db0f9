"""From the config's name of a method to the method: the file of that name."""

from __future__ import annotations

import importlib

from ml_collections import ConfigDict

from saddle_jax.longtail import ClassStats
from saddle_jax.methods.base import Method
from saddle_jax.schedules import Schedules


def make_method(
    config: ConfigDict,
    stats: ClassStats,
    image_shape: tuple[int, ...],
    axis_name: str | None,
    schedules: Schedules,
) -> Method:
    """Return the method that the config names, for steps mapped over `axis_name`; `image_shape` is (H, W, K)."""
    module = importlib.import_module(f"saddle_jax.methods.{config.method}")
    return module.make(config, stats, image_shape, axis_name, schedules)
