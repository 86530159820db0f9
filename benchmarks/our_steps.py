"""Steps of saddle_jax for the benchmarks, as in training: they gather, augment, and normalize every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import cifar10_lt
from saddle_jax.data.sources import Images, Splits
from saddle_jax.host import compiled, devices
from saddle_jax.longtail import ClassStats
from saddle_jax.training import seeds
from saddle_jax.training.feed import Feed
from saddle_jax.training.program import Program, make_program
from saddle_jax.training.state import TrainState, stack

CIFAR10_LT = 12_406  # training images at ratio 100
RHO = 0.1
METHODS = {
    "plain": {},
    "glmc": {},
    "paco": {
        **{"data.augmentation": "autoaugment", "data.pipeline": "workers"},
        **{"paco.queue_size": 1024, "paco.dim": 32, "paco.temperature": 0.05},
    },
}

Step = Callable[[], int]  # takes steps, waits for them and returns how many steps of one network these were


class Ours(NamedTuple):
    """Everything that training needs."""

    config: ConfigDict
    program: Program
    feed: Feed
    state: TrainState


def make_splits(images: int, classes: int, size: int = 32) -> Splits:
    """Return random images, by default of CIFAR's size. Times do not depend on the pixels."""
    draw = np.random.default_rng(0)
    labels = np.arange(images, dtype=np.int32) % classes
    train = Images(draw.integers(0, 256, (images, size, size, 3), dtype=np.uint8), labels)
    return Splits(train, None, train, ClassStats(np.bincount(labels, minlength=classes), ()), "", "")


def make_feed(
    optimizer: str,
    *,
    batch: int = 128,
    images: int = CIFAR10_LT,
    classes: int = 10,
    size: int = 32,
    network: str = "resnet32",
    dtype: str = "float32",
    kernels: str = "auto",
    remat: bool = False,
    pipeline: str = "resident",
    num_seeds: int = 1,
    steps_at_once: int = 0,
    precision: str = "highest",
    method: str = "plain",
) -> Ours:
    """Return the feed and first state of one network or several.

    Args:
      optimizer: SGD or SAM.
      size: pixels per side.
      num_seeds: networks that train in the same steps.
      method: uses the views, heads, and queue of its CIFAR recipe, but this network and batch.
    """
    config = cifar10_lt.get_config("ce_sam" if optimizer == "SAM" else "ce")
    config.batch_size, config.precision, config.num_seeds = batch, precision, num_seeds
    config.model.name, config.model.dtype, config.model.remat = network, dtype, remat
    config.model.kernels = kernels
    config.data.pipeline, config.steps_at_once = pipeline, steps_at_once
    config.sam.rho = (RHO,)
    config.update_from_flattened_dict({"method": method, **METHODS[method]})
    splits = make_splits(images, classes, size)
    program = make_program(config, splits)
    configs = [seeds.member_config(config, seed) for seed in seeds.seeds_of(config)]
    feed = Feed(configs, [splits] * num_seeds, program)
    state = devices.replicate(stack([jax.device_get(program.init(seed)) for seed in range(num_seeds)]))
    return Ours(config, program, feed, state)


def make_step(optimizer: str, **settings: Any) -> Step:
    """Return a function that takes the next steps, compiled: an epoch on accelerators, one step on CPUs."""
    return steps_of(make_feed(optimizer, **settings))


def steps_of(ours: Ours) -> Step:
    """Return a function that takes the next steps, compiled, from the given state on."""
    feed, state, networks = ours.feed, ours.state, ours.config.num_seeds
    segments = feed.segments(0, 10**9, lambda _: False)

    def step() -> int:
        nonlocal state
        segment = next(segments)
        state, metrics = feed.advance(state, segment)
        jax.block_until_ready((state, metrics))
        return (segment.stop - segment.start) * networks

    step()  # compile under the settings of this moment
    return step


def memory_of(ours: Ours) -> int:
    """Return the bytes that a step needs on the device, including images, by the compiler's count."""
    function, arguments = ours.feed.call(ours.state, ours.feed.blank_segment(1))
    return compiled.memory_of(function.lower(*arguments).compile()) or 0
