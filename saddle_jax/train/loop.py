"""A run from its first step, or from its last checkpoint, to its last step."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from saddle_jax import devices
from saddle_jax.config import parse_duration
from saddle_jax.data import feeder
from saddle_jax.data.images import Batch
from saddle_jax.data.order import Order
from saddle_jax.data.sources import Images, Splits
from saddle_jax.errors import DataError, NonFiniteError, Preempted
from saddle_jax.files import write_atomically
from saddle_jax.train import checkpoint, evaluate
from saddle_jax.train.directory import exclusive, open_run
from saddle_jax.train.metrics import MetricWriter, Progress, RunningMean
from saddle_jax.train.program import Program
from saddle_jax.train.runtime import StopRequest, peak_memory_mib
from saddle_jax.train.state import Observer, TrainState
from saddle_jax.train.steps import StepMetrics


def train(
    config: ConfigDict,
    workdir: pathlib.Path,
    splits: Splits,
    program: Program,
    command: list[str],
    *,
    quiet: bool = False,
    stop: StopRequest | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Train the run in `workdir` from its start, or from its last checkpoint, to its end; return its reports.

    The reports, {"last": ..., "best": ...}, are also in results.json. A finished run is not trained again.

    Args:
      command: what was typed, for run.json.
      quiet: print nothing.
      stop: the caller's watch for signals, if it has begun one.
      observer: looks at the state at its steps.

    Raises:
      ConfigError, DataError: the directory holds another run.
      WorkdirInUse: another process trains there.
      Preempted: SIGTERM or SIGINT came; the state is saved.
      NonFiniteError: loss or update stopped being finite; the last good checkpoint is kept.
    """
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(StopRequest())
        stack.enter_context(exclusive(workdir))
        run = Run(config, workdir, splits, program, command, quiet=quiet, observer=observer)
        tensorboard = config.tensorboard and run.step < run.total
        with MetricWriter(workdir, tensorboard=tensorboard, resumed_step=run.step) as run.writer:
            run.train(stop)
        return run.finish()


class Run:
    """One run in its directory: state, best evaluation, and what is written on the way."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: pathlib.Path,
        splits: Splits,
        program: Program,
        command: list[str],
        *,
        quiet: bool,
        observer: Observer | None,
    ):
        self._quiet, self._observer = quiet, observer
        self.config, self.workdir, self.splits, self.program = config, workdir, splits, program
        schedules = program.schedules
        self.total = schedules.total_steps

        def every(duration: str) -> int:
            return max(1, parse_duration(duration).steps(schedules.steps_per_epoch, self.total))

        self.eval_every, self.log_every = every(config.eval.every), every(config.log_every)
        self.checkpoint_every = every(config.checkpoint_every)
        warnings = open_run(workdir, config, splits, command)
        self.state = program.init(config.seed)
        self.best: checkpoint.Best | None = None
        self.mean = RunningMean()
        self.saved_step = 0
        if checkpoint.available(self.checkpoints):
            latest = checkpoint.find(self.checkpoints)
            self.state = checkpoint.restore(latest, self.state)
            self.best, self.saved_step = latest.best, latest.step
            self.mean = RunningMean(**latest.running_mean)
        self.step = self._started_at = self.saved_step
        self.writer: MetricWriter
        self.progress = Progress(self.total, config.batch_size, self.step, quiet=quiet)
        for warning in warnings:
            self.progress.say(f"note   {warning}")
        self.progress.say(f"start  resuming at step {self.step:,}" if self.step else "start  from the first step")

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.workdir / "checkpoints"

    def train(self, stop: StopRequest) -> None:
        """Take the steps that are left."""
        if not self._observe(stop):  # the first weights, or what was cut short when this step was reached
            raise Preempted(f"{stop.signal_name}: stopped before a step was taken; the same command continues")
        pending: tuple[int, StepMetrics] | None = None
        for batch in training_batches(self.config, self.splits, self.step, self.total):
            if stop.signal_name and self.step == self._started_at:
                raise Preempted(f"{stop.signal_name}: stopped before a step was taken; the same command continues")
            self.state, metrics = devices.settle(self.program.train_step(self.state, devices.split(batch)))
            self.step += 1
            if pending is not None:  # the step before: the device is busy with this one meanwhile
                self._look(*pending)
            pending = (self.step, metrics)
            if self._observer is not None and self.step in self._observer.steps:
                self._look(*pending)
                pending = None
            observed = self._observe(stop)
            stopping = stop.signal_name  # read once: a signal may come at any line
            evaluates = self.step % self.eval_every == 0 or self.step == self.total
            saves = self.step % self.checkpoint_every == 0 or self.step == self.total or bool(stopping)
            if pending is not None and (evaluates or saves):
                self._look(*pending)
                pending = None
            if evaluates:
                saves |= self._evaluate()
            if saves:
                self._save()
            if stopping and (self.step < self.total or not observed):
                raise Preempted(f"{stopping}: saved step {self.step:,} of {self.total:,}; the same command continues")

    def _observe(self, stop: StopRequest) -> bool:
        """Let the observer look if this is a step of its; return whether it is done, and no signal cut it short."""
        if self._observer is None or self.step not in self._observer.steps:
            return True
        try:
            self.progress.say(self._observer.look(jax.device_get(self.state), self.workdir, stop, self._quiet))
        except Preempted:
            return False
        return True

    def _look(self, step: int, metrics: StepMetrics) -> None:
        """Read a step's metrics: stop at the first that is not finite, log when it is time."""
        values = jax.device_get(metrics)
        if step == self._started_at + 1:
            self.progress.begin(step)
        if not values.finite:
            quantities = {"loss": values.loss, "loss at w + e": values.perturbed_loss, "update": values.update_norm}
            broken = ", ".join(f"{name} is {value}" for name, value in quantities.items() if not np.isfinite(value))
            saved = self.checkpoints / str(self.saved_step) if self.saved_step else "none saved yet"
            raise NonFiniteError(
                f"step {step:,}: {broken}. The weights before it were kept. Last good checkpoint: {saved}. "
                "Fix: a lower learning rate or rho in a new --workdir; precision=highest rules out rounding"
            )
        scalars = {"loss": values.loss, "perturbed_loss": values.perturbed_loss, "ascent_norm": values.ascent_norm}
        self.mean.add({**scalars, "update_norm": values.update_norm, **values.method})
        if step % self.log_every == 0 or step == self.total:
            means = self.mean.take()
            lr, rho = float(self.program.schedules.lr(step - 1)), float(self.program.schedules.rho(step - 1))
            epoch = step / self.program.schedules.steps_per_epoch
            record = {f"train/{name}": value for name, value in means.items()}
            cost = {"images_per_second": self.progress.images_per_second(step), "peak_mib": peak_memory_mib()}
            self.writer.write(step, {"epoch": epoch, **record, "lr": lr, "rho": rho, **cost})
            self.progress.update(step, f"loss {means['loss']:.4f}  lr {lr:.3g}  rho {rho:.3g}")

    def _evaluate(self) -> bool:
        """Evaluate on every split and return whether this is the best so far."""
        chooser = "test" if self.splits.validation is None else "validation"
        improved = False
        for split, images in (("validation", self.splits.validation), ("test", self.splits.test)):
            if images is None:
                continue
            report = evaluate_split(self.config, self.program, self.splits, images, self.state, self.workdir, split)
            groups = {f"eval/{split}/{name}": group["accuracy"] for name, group in report["groups"].items()}
            overall = {f"eval/{split}/{name}": report[name] for name in ("accuracy", "balanced_accuracy", "top5")}
            self.writer.write(self.step, {**overall, **groups})
            self.progress.say(f"eval {split} step {self.step:,}: {evaluate.one_line(report)}")
            if split == chooser and (self.best is None or report["accuracy"] > self.best.accuracy):
                self.best = checkpoint.Best(self.step, report["accuracy"], split)
                improved = True
        return improved

    def _save(self) -> None:
        checkpoint.save(self.checkpoints, jax.device_get(self.state), self.best, self.mean.state())
        self.saved_step = self.step

    def finish(self) -> dict[str, Any]:
        """Write and return the test reports of the last and of the best step, and which split chose the best."""
        best = self.best or checkpoint.Best(self.total, 0.0, "test")

        def report(step: int, chosen_by: str) -> dict[str, Any]:
            path = self.workdir / "eval" / f"{step}-test.json"
            try:
                return {**json.loads(path.read_bytes()), "chosen_by": chosen_by}
            except (OSError, ValueError) as error:
                raise DataError(f"{path} can't be read ({error}). Fix: --mode eval writes it anew") from error

        results = {"last": report(self.total, ""), "best": report(best.step, f", best on {best.split}")}
        write_atomically(self.workdir / "results.json", json.dumps(results, indent=1))
        for name, one in results.items():
            self.progress.say(f"{name} (step {one['step']:,}{one['chosen_by']}): {evaluate.one_line(one)}")
        self.progress.say(f"done   this run has finished; its reports are in {self.workdir / 'results.json'}")
        return results


def evaluate_split(
    config: ConfigDict,
    program: Program,
    splits: Splits,
    images: Images,
    state: TrainState,
    workdir: pathlib.Path | None,
    split: str,
) -> dict[str, Any]:
    """Evaluate a state on a split's images; write the report into the run's directory if one is given."""
    parts = devices.num_devices()
    batch_size = -(-min(config.eval.batch_size, len(images.labels)) // parts) * parts
    batches = feeder.evaluation_batches(images.images, images.labels, batch_size, parts)
    counts = evaluate.evaluate(program.eval_step, state.params, state.batch_stats, batches, splits.stats.num_classes)
    report = evaluate.summary(counts, splits.stats, config.eval.rank_bounds)
    if workdir is not None:
        evaluate.write(workdir / "eval", int(state.step), split, report, counts)
    return report


def training_batches(config: ConfigDict, splits: Splits, start: int, stop: int) -> Iterator[Batch]:
    """Yield the batches of steps `start` to `stop` - 1 from the pipeline that the config names."""
    order = Order(
        seed=config.seed,
        labels_N=splits.train.labels,
        batch_size=config.batch_size,
        num_devices=devices.num_devices(),
        crop_padding=config.data.crop_padding,
        flip=config.data.flip,
        class_share_C=splits.stats.sampling_C(config.data.sampling, config.loss.effective_beta),
    )
    pipeline = config.data.pipeline
    if pipeline == "tfdata" or (pipeline == "auto" and importlib.util.find_spec("tensorflow")):
        from saddle_jax.data import pipeline as tf_pipeline

        return tf_pipeline.training_batches(splits.train.images, order, start, stop)
    return feeder.training_batches(splits.train.images, order, start, stop)
