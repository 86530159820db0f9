"""How steps get their images: by the feed that the config names, for one run or for several in step."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.encoded import Encoded
from saddle_jax.data.feeds import numpy as in_process
from saddle_jax.data.feeds import resident, workers
from saddle_jax.data.order import Order, slots_at
from saddle_jax.data.sources import Splits
from saddle_jax.experiment.config import flatten
from saddle_jax.experiment.field_values import needs_host
from saddle_jax.host import devices
from saddle_jax.host.faults import fault_point
from saddle_jax.host.memory import memory_limit
from saddle_jax.train.program import Layout, Program
from saddle_jax.train.state import TrainState
from saddle_jax.train.steps import StepMetrics

_RESIDENT_SHARE = 0.25  # of a device's memory that images may take


class Segment(NamedTuple):
    """Steps that are queued by one call."""

    start: int  # steps taken before it
    stop: int  # and after it
    inputs: Any  # on the devices


class Feed:
    """Feeds runs that go in step and differ in nothing but seeds and images."""

    def __init__(self, configs: Sequence[ConfigDict], splits: Sequence[Splits], program: Program):
        config = configs[0]
        self._program, self._splits = program, splits
        self._orders = [_orders(*run, program) for run in zip(configs, splits, strict=True)]
        own_images = any(split is not splits[0] for split in splits)
        self.pipeline = pipeline_of(config, splits if own_images else splits[:1])
        is_resident = self.pipeline == "resident"
        self._layout = Layout(resident=is_resident, runs=len(splits), own_images=own_images and is_resident)
        self._length = steps_at_once(config, program.schedules.steps_per_epoch) if is_resident else 1
        self._data: Any = ()
        if self._layout.own_images:
            trains = [split.train for split in splits]
            self._data = resident.put(np.stack([t.images for t in trains]), np.stack([t.labels for t in trains]))
        elif is_resident:
            self._data = resident.put(splits[0].train.images, splits[0].train.labels)

    def advance(self, state: TrainState, segment: Segment) -> tuple[TrainState, StepMetrics]:
        """Queue a segment's steps; metrics have axes for steps and runs where there are several."""
        steps = self._program.train_steps(self._layout._replace(scanned=segment.stop - segment.start > 1))
        return devices.settle(steps(state, self._data, segment.inputs))

    def segments(self, start: int, total: int, is_event: Callable[[int], bool]) -> Iterator[Segment]:
        """Yield the steps from `start` to `total`, as many at once as may be; each event is a segment's last step.

        There are two lengths, the longest and 1, so that nothing more has to be compiled.
        """
        images = {id(split): self._host_images(split) for split in self._splits}
        batches = [
            zip(*[self._batches(order, images[id(split)], start, total) for order in orders], strict=True)
            for orders, split in zip(self._orders, self._splits, strict=True)
        ]
        step = start
        while step < total:
            fits = step + self._length <= total and not any(map(is_event, range(step + 1, step + self._length)))
            stop = step + (self._length if fits else 1)
            fault_point("feed")
            inputs = [[next(run) for run in batches] for _ in range(step, stop)]
            yield Segment(step, stop, devices.put(self._arrange(inputs)))
            step = stop

    def lower(self, state: TrainState, segment: Segment) -> jax.stages.Lowered:
        """Return a segment's function before its compilation."""
        return self._program.train_steps(self._layout).lower(state, self._data, segment.inputs)

    def _host_images(self, split: Splits) -> Any:
        """Return a set's images as the pipeline takes them: one copy, however many runs read it."""
        if self.pipeline != "tfdata":
            return split.train.images
        from saddle_jax.data.feeds import tfdata

        return tfdata.as_tensor(split.train.images)

    def _batches(self, order: Order, images: Any, start: int, total: int) -> Iterator[Any]:
        slots = (devices.own_rows(slots_at(order, step)) for step in range(start, total))
        if self.pipeline == "resident":
            return slots
        if self.pipeline == "tfdata":
            from saddle_jax.data.feeds import tfdata

            return tfdata.training_batches(images, order.labels_N, slots, order.augmentation)
        feed = workers if self.pipeline == "workers" else in_process
        return feed.training_batches(images, order.labels_N, slots, order.augmentation)

    def _arrange(self, inputs: list[list[Any]]) -> Any:
        """Return (D, [steps,] [runs,] B / D, ...) from a batch for every step and run."""

        def stacked(parts: list[Any], several: bool) -> Any:
            return jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *parts) if several else parts[0]

        steps = [stacked([devices.split(one) for one in runs], len(runs) > 1) for runs in inputs]
        return stacked(steps, len(steps) > 1)


def pipeline_of(config: ConfigDict, splits: Sequence[Splits]) -> str:
    """Return the pipeline that the config names; for auto resident where the images fit, then tf.data, then NumPy.

    Several steps at once are resident; encoded images go through tf.data. What only the host can augment comes from
    workers.
    """
    if config.data.pipeline != "auto":
        return config.data.pipeline
    if isinstance(splits[0].train.images, Encoded):
        return "tfdata"
    if needs_host(flatten(config)):
        return "workers"
    images = [part.images.nbytes for split in splits for part in (split.train, split.validation, split.test) if part]
    if config.steps_at_once > 1 or sum(images) <= _RESIDENT_SHARE * memory_limit():
        return "resident"
    return "tfdata" if importlib.util.find_spec("tensorflow") else "numpy"


def steps_at_once(config: ConfigDict, steps_per_epoch: int) -> int:
    """Return how many steps a device takes without coming back to the host.

    One on a CPU, where the gradient of a convolution's kernel is some thirty times slower inside a scan.
    """
    return int(config.steps_at_once) or (1 if jax.default_backend() == "cpu" else steps_per_epoch)


def _orders(config: ConfigDict, splits: Splits, program: Program) -> list[Order]:
    """Return an order for each view of a run."""
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
