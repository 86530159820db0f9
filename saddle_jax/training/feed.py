"""Feed training steps with images through the config's pipeline, for one run or for several together."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.encoded import Encoded
from saddle_jax.data.features import Features
from saddle_jax.data.feeds import numpy as in_process
from saddle_jax.data.feeds import resident, workers
from saddle_jax.data.images import Batch, batch_of
from saddle_jax.data.order import Order, Slots, slots_at
from saddle_jax.data.sources import Splits
from saddle_jax.experiment.catalogue.augmentations import needs_host
from saddle_jax.experiment.config import flatten
from saddle_jax.host import devices
from saddle_jax.host.faults import fault_point
from saddle_jax.host.memory import memory_limit
from saddle_jax.training.program import Program, over_runs, over_runs_with_own_data, scan_steps
from saddle_jax.training.state import TrainState
from saddle_jax.training.steps import StepMetrics

_RESIDENT_SHARE = 0.25  # share of a device's memory that images may take


class Segment(NamedTuple):
    """Steps that one call queues."""

    start: int  # steps taken before it
    stop: int  # and after it
    inputs: Any  # on the devices


class Feed:
    """Feeds runs that take their steps together and differ in nothing but seeds and images."""

    def __init__(self, configs: Sequence[ConfigDict], splits: Sequence[Splits], program: Program):
        config, self._splits = configs[0], splits
        self._orders = [_orders(one, split, program) for one, split in zip(configs, splits, strict=True)]
        own_images = any(split is not splits[0] for split in splits)
        self.pipeline = pipeline_of(config, splits if own_images else splits[:1])
        self.longest = 1  # steps of the longest segments
        self._data: Any = ()  # images on the devices
        step, wrap = program.step_of_batches, over_runs
        if self.pipeline == "resident":
            step = program.step_of_slots
            images, labels = splits[0].train.images, splits[0].train.labels
            convolves = not isinstance(images, Features)
            self.longest = steps_at_once(config, program.schedules.steps_per_epoch, convolves=convolves)
            if own_images:
                wrap = over_runs_with_own_data
                images = np.stack([split.train.images for split in splits])
                labels = np.stack([split.train.labels for split in splits])
            self._data = resident.put(images, labels)
        wraps = (wrap,) if len(splits) > 1 else ()
        self._one_step = program.mapped(step, *wraps)
        self._several_steps = program.mapped(step, *wraps, scan_steps)

    def advance(self, state: TrainState, segment: Segment) -> tuple[TrainState, StepMetrics]:
        """Queue a segment's steps. Metrics have axes for steps and for runs if there are several of them."""
        function, arguments = self.call(state, segment)
        return devices.settle(function(*arguments))

    def segments(self, start: int, total: int, is_event: Callable[[int], bool]) -> Iterator[Segment]:
        """Yield the steps from `start` to `total` in segments. Every event is the last step of a segment.

        A segment has the full length, or one step if the full length would reach beyond an event. So only two
        functions are compiled.
        """
        images = {id(split): self._host_images(split) for split in self._splits}  # one copy for all runs that read it
        batches = [
            zip(*[self._batches(order, images[id(split)], start, total) for order in orders], strict=True)
            for orders, split in zip(self._orders, self._splits, strict=True)
        ]
        step = start
        while step < total:
            fits = step + self.longest <= total and not any(map(is_event, range(step + 1, step + self.longest)))
            stop = step + (self.longest if fits else 1)
            fault_point("feed")
            inputs = [[next(run) for run in batches] for _ in range(step, stop)]
            yield Segment(step, stop, devices.put(self._arrange(inputs)))
            step = stop

    def blank_segment(self, steps: int) -> Segment:
        """Return the first steps with blank images, which are enough to compile the steps."""
        inputs = [
            [tuple(self._blank(order, step) for order in orders) for orders in self._orders] for step in range(steps)
        ]
        return Segment(0, steps, devices.put(self._arrange(inputs)))

    def _blank(self, order: Order, step: int) -> Any:
        slots = devices.own_rows(slots_at(order, step))
        if self.pipeline == "resident":
            return slots
        shape = self._splits[0].train.images.shape[1:]
        return batch_of(np.zeros((len(slots.ids_B), *shape), np.uint8), order.labels_N, slots)

    def call(self, state: TrainState, segment: Segment) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return the function that takes a segment's steps, and its arguments."""
        function = self._one_step if segment.stop - segment.start == 1 else self._several_steps
        return function, (state, self._data, segment.inputs)

    def _host_images(self, split: Splits) -> Any:
        """Return the training images in the form that the pipeline takes."""
        if self.pipeline != "tfdata":
            return split.train.images
        from saddle_jax.data.feeds import tfdata

        return tfdata.as_tensor(split.train.images)

    def _batches(self, order: Order, images: Any, start: int, total: int) -> Iterator[Any]:
        slots = (devices.own_rows(slots_at(order, step)) for step in range(start, total))
        if self.pipeline == "resident":
            return slots
        return training_batches(self.pipeline, images, order.labels_N, slots, order.augmentation)

    def _arrange(self, inputs: list[list[Any]]) -> Any:
        """Return (D, [steps,] [runs,] B / D, ...) arrays from a batch for every step and run."""

        def stacked(parts: list[Any], several: bool) -> Any:
            return jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *parts) if several else parts[0]

        steps = [stacked([devices.split(one) for one in runs], len(runs) > 1) for runs in inputs]
        return stacked(steps, len(steps) > 1)


def training_batches(
    pipeline: str, images: Any, labels_N: np.ndarray, slots: Iterable[Slots], augmented: Augmentation
) -> Iterator[Batch]:
    """Yield the augmented batches that `slots` describe, made on the host by one of its pipelines."""
    if pipeline == "tfdata":
        from saddle_jax.data.feeds import tfdata

        return tfdata.training_batches(images, labels_N, slots, augmented)
    feed = workers if pipeline == "workers" else in_process
    return feed.training_batches(images, labels_N, slots, augmented)


def pipeline_of(config: ConfigDict, splits: Sequence[Splits]) -> str:
    """Return the pipeline that the config names.

    Features are always resident. For images, auto means the first of these that applies:

    - tfdata, if they are encoded
    - workers, if a view is augmented with Pillow
    - resident, if they fit into the devices' memory, or several steps are to be taken at once
    - tfdata, or numpy without TensorFlow
    """
    if isinstance(splits[0].train.images, Features):
        return "resident"
    if config.data.pipeline != "auto":
        return str(config.data.pipeline)
    if isinstance(splits[0].train.images, Encoded):
        return "tfdata"
    if needs_host(flatten(config)):
        return "workers"
    images = [part.images.nbytes for split in splits for part in (split.train, split.validation, split.test) if part]
    if config.steps_at_once > 1 or sum(images) <= _RESIDENT_SHARE * memory_limit():
        return "resident"
    return "tfdata" if importlib.util.find_spec("tensorflow") else "numpy"


def steps_at_once(config: ConfigDict, steps_per_epoch: int, *, convolves: bool = True) -> int:
    """Return how many steps a device takes without returning to the host: by default one epoch, but one step on a CPU.

    On CPUs the gradient of a convolution kernel is some thirty times slower inside a scan. Without convolutions
    (`convolves` is False for a step that takes features), steps are scanned there, too.
    """
    is_slow = convolves and devices.on_cpu()
    return int(config.steps_at_once) or (1 if is_slow else steps_per_epoch)


def _orders(config: ConfigDict, splits: Splits, program: Program) -> list[Order]:
    """Return the order of every view of a run."""
    streams = [(number, stream) for number, stream in enumerate(program.streams) for _ in stream.augmentations]
    return [
        Order(
            seed=config.seed,
            labels_N=splits.train.labels,
            batch_size=config.batch_size,
            num_devices=devices.num_devices(),
            class_share_C=stream.class_share_C,
            augmentation=augmentation,
            drop_last=config.data.drop_last,
            stream=number,
            view=view,
        )
        for view, ((number, stream), augmentation) in enumerate(zip(streams, program.views, strict=True))
    ]
