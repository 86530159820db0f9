"""What a config compiles to: schedules, initial state, and the steps mapped over the devices."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from saddle_jax import devices
from saddle_jax.data.images import Batch
from saddle_jax.data.sources import Splits
from saddle_jax.errors import ConfigError
from saddle_jax.methods.base import make_plain
from saddle_jax.optim.chain import make_optimizer
from saddle_jax.schedules import Schedules, make_schedules
from saddle_jax.train.state import TrainState
from saddle_jax.train.steps import (
    EvalOutput,
    StepMetrics,
    init_state,
    make_eval_step,
    make_train_step,
    pass_like,
)


class Program(NamedTuple):
    """Runs that differ in nothing but seed and images can share one, and its compilation."""

    schedules: Schedules
    init: Callable[[int], TrainState]  # seed -> state
    train_step: Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]  # batch split over devices; donates
    eval_step: Callable[[Any, Any, Batch], EvalOutput]


def make_program(config: ConfigDict, splits: Splits) -> Program:
    """Build the model, the optimizer and the mapped steps.

    Raises:
      ConfigError: all that does not fit together now that the devices and the images are known.
    """
    schedules = _check(config, splits)
    devices.set_precision(config.precision)
    method = make_plain(config, splits.stats, splits.train.images.shape[1:], devices.AXIS)
    tx = make_optimizer(config, schedules, aux_like=pass_like(method), axis_name=devices.AXIS)
    init = jax.jit(lambda key: init_state(method, tx, key))
    step = make_train_step(
        method,
        tx,
        schedules.class_weights,
        batch_stats_policy=config.sam.batch_stats,
        axis_name=devices.AXIS,
    )
    return Program(
        schedules=schedules,
        init=lambda seed: init(jax.random.key(seed)),
        train_step=devices.map_step(step, num_replicated=1, donate=True),
        eval_step=devices.map_step(make_eval_step(method), num_replicated=2, gather=True),
    )


def _check(config: ConfigDict, splits: Splits) -> Schedules:
    problems: list[str] = []
    parts, channels = devices.num_devices(), splits.train.images.shape[-1]
    if config.batch_size % parts:
        fix = max(parts, config.batch_size // parts * parts)
        problems.append(
            f"batch_size: {config.batch_size} can't be split over {parts} devices. Fix: --config.batch_size={fix}"
        )
    if len(config.data.mean) != channels:
        problems.append(f"data.mean and data.std: found {len(config.data.mean)} channels, the images have {channels}")
    bounds, num_classes = config.eval.rank_bounds, splits.stats.num_classes
    if bounds and bounds[-1] > num_classes:
        problems.append(f"eval.rank_bounds: found {bounds}, but there are {num_classes} classes")
    if config.data.pipeline == "tfdata" and importlib.util.find_spec("tensorflow") is None:
        problems.append("data.pipeline='tfdata' needs TensorFlow. Fix: --config.data.pipeline=numpy")
    try:
        schedules = make_schedules(config, splits.stats, -(-len(splits.train.labels) // config.batch_size))
    except ConfigError as error:
        raise ConfigError(problems + error.problems) from error
    if problems:
        raise ConfigError(problems)
    return schedules
