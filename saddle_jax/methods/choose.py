"""Build the method that a config names."""

from __future__ import annotations

from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError
from saddle_jax.experiment.catalogue import make
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
    """Return the method that the config names, for steps mapped over `axis_name`; `image_shape` is (H, W, K).

    Raises:
      ConfigError: a user's own entry returns something other than a Method.
    """
    method = make("method", config.method, config, stats, image_shape, axis_name, schedules)
    if not isinstance(method, Method):
        raise ConfigError(
            f"method: {config.method} returned {type(method).__name__}, expected a saddle_jax.methods.base.Method"
        )
    return method
