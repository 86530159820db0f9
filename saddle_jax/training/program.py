"""Everything that a config compiles to: schedules, the first state, and the steps mapped over devices."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from saddle_jax.data.augment import augmentation
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.encoded import Encoded
from saddle_jax.data.features import Features
from saddle_jax.data.feeds import resident
from saddle_jax.data.images import Batch
from saddle_jax.data.order import Slots, steps_per_epoch
from saddle_jax.data.sources import Splits
from saddle_jax.errors import ConfigError
from saddle_jax.experiment.catalogue import find, view_augmentations
from saddle_jax.experiment.config import flatten
from saddle_jax.host import devices
from saddle_jax.losses import logit_scale
from saddle_jax.methods.base import ASCENT, DESCENT, Stream
from saddle_jax.methods.choose import make_method
from saddle_jax.optim import chain
from saddle_jax.schedules import Schedules, logged_schedules, make_schedules
from saddle_jax.training.gradient import pass_like
from saddle_jax.training.state import TrainState
from saddle_jax.training.steps import EvalOutput, StepMetrics, init_state, make_eval_step, make_train_step

# The per-device training step of a feed: (state, data, inputs) -> state, metrics.
# data: the images that stay on the devices, a `Resident`, or () where images come with every batch.
# inputs: a tuple with an entry for each view: slots to be filled from the data, or a batch.
Step = Callable[[TrainState, Any, Any], tuple[TrainState, StepMetrics]]
Wrap = Callable[[Step], Step]


def over_runs(step: Step) -> Step:
    """Return the step of several runs on the same data. State, inputs, and metrics have a leading axis for runs."""
    return jax.vmap(step, in_axes=(0, None, 0))


def over_runs_with_own_data(step: Step) -> Step:
    """Return the step of several runs, each with its own data. The data also have a leading axis for the runs."""
    return jax.vmap(step, in_axes=(0, 0, 0))


def scan_steps(step: Step) -> Step:
    """Return several steps as one function. Inputs and metrics have a leading axis for steps, before that for runs."""

    def steps(state: TrainState, data: Any, inputs: Any) -> tuple[TrainState, StepMetrics]:
        return jax.lax.scan(lambda state, inputs: step(state, data, inputs), state, inputs)

    return steps


class Program(NamedTuple):
    """A config's compiled functions. Runs that differ in nothing but seeds and images can share one."""

    schedules: Schedules
    streams: tuple[Stream, ...]  # of the images that a step takes
    views: tuple[Augmentation, ...]  # of all streams in order: how each is augmented
    init: Callable[[int], TrainState]  # seed -> state
    step_of_batches: Step  # its inputs are batches
    step_of_slots: Step  # its inputs are slots, to be filled from images on the devices
    # (step, *wraps) -> the step in these wraps, the first one innermost, mapped over the devices; it donates the state.
    # The same step and wraps give the same function, which is compiled once.
    mapped: Callable[..., Any]
    # (resident, with logits) -> the mapped function (params, model_state, data, inputs) -> output
    eval_step: Callable[[bool, bool], Callable[[Any, Any, Any, Any], EvalOutput]]
    linear: str | None  # see `methods.base.Method`
    trained: Callable[[Any], Any] | None  # likewise


def make_program(config: ConfigDict, splits: Splits, *, to_train: bool = True) -> Program:
    """Build the model, the optimizer and the steps.

    Args:
      to_train: whether training steps will be taken. What only they need is not asked of a machine that uses a run.

    Raises:
      ConfigError: the config does not fit the devices or the images; it lists every problem.
    """
    schedules = _check(config, splits, to_train=to_train)
    devices.set_precision(config.precision)
    devices.set_mapping(config.mapping)
    method = make_method(config, splits.stats, splits.train.images.shape[1:], devices.AXIS, schedules)
    views = _views(config, splits, method.streams)
    tx = chain.make_optimizer(
        config,
        schedules,
        splits.stats,
        aux_like=pass_like(method),
        axis_name=devices.AXIS,
        trained=method.trained,
        is_classifier=method.is_classifier,
    )
    link = find("optim.name", config.optim.name)
    init = devices.jit_once(lambda key: init_state(method, tx, key, with_average=config.optim.ema_decay > 0))
    step = make_train_step(
        method,
        tx,
        schedules.class_weights,
        first_pass=ASCENT if link.ascends else DESCENT,
        batch_stats_policy=config.optim.batch_stats,
        micro_batches=config.micro_batches,
        ema_decay=config.optim.ema_decay,
        axis_name=devices.AXIS,
        logged=logged_schedules(config, schedules),
    )

    def step_of_batches(state: TrainState, _: Any, batches: tuple[Batch, ...]) -> tuple[TrainState, StepMetrics]:
        return step(state, batches)

    def step_of_slots(
        state: TrainState, data: resident.Resident, slots_of_views: tuple[Slots, ...]
    ) -> tuple[TrainState, StepMetrics]:
        pairs = zip(slots_of_views, views, strict=True)
        return step(state, tuple(resident.batch(data, slots, view) for slots, view in pairs))

    @functools.cache
    def mapped(step: Step, *wraps: Wrap) -> Callable:
        for wrap in wraps:
            step = wrap(step)
        return devices.map_step(step, num_replicated=2, donate=True)

    @functools.cache
    def eval_step(from_resident: bool, with_logits: bool):
        evaluate = make_eval_step(method, logit_scale(config) if with_logits else None)

        def one(params: Any, model_state: Any, data: Any, inputs: Any) -> EvalOutput:
            return evaluate(params, model_state, resident.batch(data, inputs, None) if from_resident else inputs)

        return devices.map_step(one, num_replicated=3, gather=True)

    return Program(
        schedules=schedules,
        streams=method.streams,
        views=views,
        init=lambda seed: init(jax.random.key(seed)),
        step_of_batches=step_of_batches,
        step_of_slots=step_of_slots,
        mapped=mapped,
        eval_step=eval_step,
        linear=method.linear,
        trained=method.trained,
    )


def _views(config: ConfigDict, splits: Splits, streams: tuple[Stream, ...]) -> tuple[Augmentation, ...]:
    """Return the augmentation of every view of all streams."""
    return tuple(_view(config, splits, name) for stream in streams for name in stream.augmentations)


def _view(config: ConfigDict, splits: Splits, name: str) -> Augmentation:
    images = splits.train.images
    if isinstance(images, Features):
        return Augmentation(name, images.shape[1:], views=images.views)
    return augmentation.make(config.data, name, images.shape[1:], encoded=isinstance(images, Encoded))


def _problems_of_steps(config: ConfigDict, splits: Splits) -> Iterator[str]:
    """Yield the reasons why training steps can't be taken on this machine."""
    parts = devices.num_devices()
    if config.batch_size % parts:
        fix = max(parts, config.batch_size // parts * parts)
        yield f"batch_size: {config.batch_size} can't be split over {parts} devices. Fix: --config.batch_size={fix}"
    elif config.batch_size // parts % config.micro_batches:
        yield (
            f"micro_batches: a device's {config.batch_size // parts} images of a step can't be cut into "
            f"{config.micro_batches} equal parts. Fix: choose a divisor of {config.batch_size // parts}"
        )
    by_tfdata = config.data.pipeline == "tfdata" and not isinstance(splits.train.images, Encoded)
    if by_tfdata and importlib.util.find_spec("tensorflow") is None:
        yield "data.pipeline='tfdata' needs TensorFlow. Fix: --config.data.pipeline=numpy"


def _check(config: ConfigDict, splits: Splits, *, to_train: bool) -> Schedules:
    problems = list(_problems_of_steps(config, splits)) if to_train else []
    channels = splits.train.images.shape[-1]
    if len(config.data.mean) != channels:
        problems.append(
            f"data.mean and data.std: found {len(config.data.mean)} channels, expected {channels}, as the images have. "
            "Fix: one number per channel"
        )
    for name in dict.fromkeys(view_augmentations(flatten(config)).values()):
        if problem := augmentation.problem_of(_view(config, splits, name)):
            problems.append(problem)
    bounds, num_classes = config.eval.rank_bounds, splits.stats.num_classes
    if bounds and bounds[-1] > num_classes:
        problems.append(f"eval.rank_bounds: found {bounds}, expected at most {num_classes}, the number of classes")
    problems += chain.problems_of(config, splits.stats)
    if isinstance(splits.train.images, Encoded) and importlib.util.find_spec("tensorflow") is None:
        problems.append('encoded images need TensorFlow. Fix: pip install "saddle_jax[tensorflow]"')
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
