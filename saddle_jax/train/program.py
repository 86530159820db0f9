"""From a config and its images to everything that steps need: schedules, initial state, mapped step functions."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from saddle_jax.data.augment import augmentation
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.encoded import Encoded
from saddle_jax.data.feeds import resident
from saddle_jax.data.order import Slots, steps_per_epoch
from saddle_jax.data.sources import Splits
from saddle_jax.errors import ConfigError
from saddle_jax.experiment.config import flatten
from saddle_jax.experiment.field_values import view_augmentations
from saddle_jax.host import devices
from saddle_jax.methods.base import Stream
from saddle_jax.methods.choose import make_method
from saddle_jax.optim import chain
from saddle_jax.schedules import Schedules, make_schedules
from saddle_jax.train.gradient import pass_like
from saddle_jax.train.state import TrainState
from saddle_jax.train.steps import (
    EvalOutput,
    StepMetrics,
    init_state,
    make_eval_step,
    make_train_step,
)


class Layout(NamedTuple):
    """What one call of a training function takes. Every layout makes the same steps."""

    resident: bool = False  # slots, to be filled from images on the devices, instead of a batch
    runs: int = 1  # that are trained at once; more than one: states and inputs have an axis for them
    own_images: bool = False  # resident: every run has images of its own
    scanned: bool = False  # several steps: inputs have an axis for them, before that of the runs


class Program(NamedTuple):
    """Runs that differ in nothing but seed and images can share one, and its compilation.

    `data` is a `Resident`, or () where images come with every batch; inputs are slots or batches, on the devices: of a
    training step a tuple, one for each view.
    """

    schedules: Schedules
    streams: tuple[Stream, ...]  # of images that a step takes
    views: tuple[Augmentation, ...]  # of all streams in order: how each is augmented
    init: Callable[[int], TrainState]  # seed -> state
    # layout -> the mapped function (state, data, inputs) -> state, metrics; donates the state
    train_steps: Callable[[Layout], Callable[[TrainState, Any, Any], tuple[TrainState, StepMetrics]]]
    # resident -> the mapped function (params, batch_stats, data, inputs) -> output
    eval_step: Callable[[bool], Callable[[Any, Any, Any, Any], EvalOutput]]


def make_program(config: ConfigDict, splits: Splits) -> Program:
    """Build the model, the optimizer and the mapped steps.

    Raises:
      ConfigError: all that does not fit together now that the devices and the images are known.
    """
    schedules = _check(config, splits)
    devices.set_precision(config.precision)
    method = make_method(config, splits.stats, splits.train.images.shape[1:], devices.AXIS, schedules)
    views = _views(config, splits, method.streams)
    context = {"aux_like": pass_like(method), "axis_name": devices.AXIS, "trained": method.trained}
    tx = chain.make_optimizer(config, schedules, splits.stats, **context)
    init = jax.jit(lambda key: init_state(method, tx, key))
    step = make_train_step(
        method,
        tx,
        schedules.class_weights,
        first_pass=chain.first_pass(config.optim.name),
        batch_stats_policy=config.sam.batch_stats,
        micro_batches=config.micro_batches,
        axis_name=devices.AXIS,
        logged={"lr": schedules.lr, "rho": schedules.rho},
    )
    evaluate = make_eval_step(method)

    def filled_step(
        state: TrainState, data: resident.Resident, slots_of_views: tuple[Slots, ...]
    ) -> tuple[TrainState, StepMetrics]:
        return step(state, tuple(map(functools.partial(resident.batch, data), slots_of_views, views)))

    @functools.cache
    def train_steps(layout: Layout):
        one = filled_step if layout.resident else lambda state, _, views: step(state, views)
        if layout.runs > 1:
            one = jax.vmap(one, in_axes=(0, 0 if layout.own_images else None, 0))

        def several(state: TrainState, data: Any, inputs: Any) -> tuple[TrainState, StepMetrics]:
            return jax.lax.scan(lambda state, inputs: one(state, data, inputs), state, inputs)

        return devices.map_step(several if layout.scanned else one, num_replicated=2, donate=True)

    @functools.cache
    def eval_step(from_resident: bool):
        def one(params: Any, batch_stats: Any, data: Any, inputs: Any) -> EvalOutput:
            return evaluate(params, batch_stats, resident.batch(data, inputs, None) if from_resident else inputs)

        return devices.map_step(one, num_replicated=3, gather=True)

    return Program(schedules, method.streams, views, lambda seed: init(jax.random.key(seed)), train_steps, eval_step)


def _views(config: ConfigDict, splits: Splits, streams: tuple[Stream, ...]) -> tuple[Augmentation, ...]:
    """Return how the views of all streams are augmented."""
    return tuple(_view(config, splits, name) for stream in streams for name in stream.augmentations)


def _view(config: ConfigDict, splits: Splits, name: str) -> Augmentation:
    images = splits.train.images
    return augmentation.make(config.data, name, images.shape[1:], encoded=isinstance(images, Encoded))


def _check(config: ConfigDict, splits: Splits) -> Schedules:
    problems: list[str] = []
    parts, channels = devices.num_devices(), splits.train.images.shape[-1]
    if config.batch_size % parts:
        fix = max(parts, config.batch_size // parts * parts)
        problems.append(
            f"batch_size: {config.batch_size} can't be split over {parts} devices. Fix: --config.batch_size={fix}"
        )
    elif config.batch_size // parts % config.micro_batches:
        problems.append(
            f"micro_batches: a device's {config.batch_size // parts} images of a step can't be cut into "
            f"{config.micro_batches} equal parts. Fix: a divisor of {config.batch_size // parts}"
        )
    if len(config.data.mean) != channels:
        problems.append(f"data.mean and data.std: found {len(config.data.mean)} channels, the images have {channels}")
    for name in dict.fromkeys(view_augmentations(flatten(config)).values()):
        if problem := augmentation.problem_of(_view(config, splits, name)):
            problems.append(problem)
    bounds, num_classes = config.eval.rank_bounds, splits.stats.num_classes
    if bounds and bounds[-1] > num_classes:
        problems.append(f"eval.rank_bounds: found {bounds}, but there are {num_classes} classes")
    problems += chain.problems_of(config, splits.stats)
    if importlib.util.find_spec("tensorflow") is None:
        if isinstance(splits.train.images, Encoded):
            problems.append("encoded images need TensorFlow. Fix: pip install -r requirements.txt")
        elif config.data.pipeline == "tfdata":
            problems.append("data.pipeline='tfdata' needs TensorFlow. Fix: --config.data.pipeline=numpy")
    images = len(splits.train.labels)
    if not (steps := steps_per_epoch(images, config.batch_size, config.data.drop_last)):
        raise ConfigError(
            [
                *problems,
                f"batch_size: {config.batch_size} is more than the {images} training images, and data.drop_last leaves "
                "out an epoch's only batch. Fix: a smaller batch_size, or --config.data.drop_last=False",
            ]
        )
    try:
        schedules = make_schedules(config, splits.stats, steps)
    except ConfigError as error:
        raise ConfigError(problems + error.problems) from error
    if problems:
        raise ConfigError(problems)
    return schedules
