"""One run in its directory: what is looked at, evaluated and saved while it trains."""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.sources import Splits
from saddle_jax.errors import DataError, NonFiniteError, Preempted
from saddle_jax.experiment.durations import parse_duration
from saddle_jax.host import processes, watchdog
from saddle_jax.host.faults import fault_point
from saddle_jax.host.files import write_atomically
from saddle_jax.host.memory import peak_memory_mib
from saddle_jax.host.progress import Progress
from saddle_jax.host.signals import StopRequest
from saddle_jax.train import checkpoint, directory, evaluate, origin
from saddle_jax.train.metrics import MetricWriter, RunningMean
from saddle_jax.train.program import Program
from saddle_jax.train.state import Observer, TrainState
from saddle_jax.train.steps import StepMetrics


class Member(NamedTuple):
    """What makes one of several runs that are trained at once; they differ in nothing but seeds and images."""

    config: ConfigDict
    workdir: pathlib.Path
    splits: Splits
    observer: Observer | None = None
    label: str = ""  # before every line about this run


class Run:
    """A run's state at its start, its best evaluation, and what is written on the way."""

    def __init__(self, member: Member, program: Program, command: list[str], *, quiet: bool):
        self.config, self.workdir, self.splits, self.observer, self._label = member
        self._quiet = quiet
        schedules = program.schedules
        self.total, self._steps_per_epoch = schedules.total_steps, schedules.steps_per_epoch

        def every(duration: str) -> int:
            return max(1, parse_duration(duration).steps(schedules.steps_per_epoch, self.total))

        self._eval_every, self.log_every = every(self.config.eval.every), every(self.config.log_every)
        self._checkpoint_every = every(self.config.checkpoint_every)
        self.state = program.init(self.config.seed)
        self.best: checkpoint.Best | None = None
        self._mean = RunningMean()
        self.saved_step = 0
        self._origin: origin.Origin | None = None
        warnings = self._resume()
        warnings += processes.on_first(lambda: self._open(command))
        self.start = self.saved_step
        self.error: NonFiniteError | None = None  # what ended the run before its time
        self.evaluators: dict[str, evaluate.Evaluator] = {}
        self.writer: MetricWriter
        self.progress = Progress(self.total, self.config.batch_size, self.start, label=self._label, quiet=quiet)
        self.say_notes(warnings)
        self.progress.say(f"start  resuming at step {self.start:,}" if self.start else "start  from the first step")

    def _open(self, command: list[str]) -> list[str]:
        weights_from = self._origin and self._origin.record()
        return directory.open_run(self.workdir, self.config, self.splits, command, weights_from)

    def _resume(self) -> list[str]:
        """Go on from the newest sound checkpoint, or start from another run's weights, if there are such.

        Returns:
          What the user has to know.
        """

        def read() -> tuple[dict[str, Any] | None, list[str]]:
            found, notes = checkpoint.resume(self.checkpoints)
            if found is None:
                directory.require_never_saved(self.workdir)
                self._origin = origin.find(self.config, self.workdir)
                if self._origin is not None:
                    self.state = origin.adopt(self._origin, self.state)
                    notes.append(origin.describe(self._origin, self.splits))
                return None, notes
            self.state = checkpoint.restore(found, self.state)
            best = found.best and found.best._asdict()
            return {"step": found.step, "best": best, "running_mean": found.running_mean}, notes

        found, notes = processes.on_first(read)
        self.state = processes.of_first(self.state)  # also the first one: another processor may draw other bits
        if found is not None:
            self.best, self.saved_step = found["best"] and checkpoint.Best(**found["best"]), found["step"]
            self._mean = RunningMean(**found["running_mean"])
        return notes

    def say_notes(self, notes: list[str]) -> None:
        """Print what the user has to know."""
        for note in notes:
            self.progress.say(f"note   {note}")

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.workdir / "checkpoints"

    def observes(self, step: int) -> bool:
        """Return whether the observer looks at the state after `step` steps."""
        return self.observer is not None and step in self.observer.steps

    def evaluates(self, step: int) -> bool:
        """Return whether the state after `step` steps is evaluated."""
        return step % self._eval_every == 0 or step == self.total

    def is_event(self, step: int) -> bool:
        """Return whether the state after `step` steps is wanted on the host."""
        return self.observes(step) or self.evaluates(step) or self.saves(step)

    def observe(self, state: TrainState, step: int, stop: StopRequest) -> bool:
        """Let the observer look if this is a step of its; return whether it is done, and no signal cut it short."""
        if self.observer is None or not self.observes(step):
            return True
        try:
            self.progress.say(self.observer.look(jax.device_get(state), self.workdir, stop, self._quiet))
        except Preempted:
            return False
        return True

    def look(self, step: int, values: StepMetrics, done: int) -> None:
        """Take in a step's metrics, on the host: log when it is time; `done` steps have been taken by now.

        Raises:
          NonFiniteError: the step was not finite.
        """
        if not values.finite:
            quantities = {"loss": values.loss, "loss at w + e": values.perturbed_loss, "update": values.update_norm}
            broken = ", ".join(f"{name} is {value}" for name, value in quantities.items() if not np.isfinite(value))
            raise self._not_finite(step, f"{broken}. The weights before it were kept")
        scalars = {"loss": values.loss, "perturbed_loss": values.perturbed_loss, "ascent_norm": values.ascent_norm}
        scalars |= {"update_norm": values.update_norm, "gradient_evaluations": values.gradient_evaluations}
        self._mean.add({**scalars, **values.method})
        fault_point("step")
        if step % self.log_every == 0 or step == self.total:
            means = self._mean.take()
            schedules = {name: float(value) for name, value in values.schedules.items()}
            record = {f"train/{name}": value for name, value in means.items()}
            cost = {"images_per_second": self.progress.images_per_second(done), "peak_mib": peak_memory_mib()}
            self.writer.write(step, {"epoch": step / self._steps_per_epoch, **record, **schedules, **cost})
            shown = "  ".join(f"{name} {value:.3g}" for name, value in schedules.items())
            self.progress.update(done, f"loss {means['loss']:.4f}  {shown}")

    def _not_finite(self, step: int, what: str) -> NonFiniteError:
        saved = self.checkpoints / str(self.saved_step) if self.saved_step else "none saved yet"
        whose = self._label and f"{self._label}: "
        return NonFiniteError(
            f"{whose}step {step:,}: {what}. Last good checkpoint: {saved}. "
            "Fix: a lower learning rate or rho in a new --workdir; precision=highest rules out rounding"
        )

    def saves(self, step: int) -> bool:
        """Return whether the state after `step` steps is saved, however good it is."""
        return step % self._checkpoint_every == 0 or step == self.total

    def save(self, state: TrainState, step: int) -> None:
        """Save the state after `step` steps."""

        def write() -> None:
            checkpoint.save(self.checkpoints, jax.device_get(state), self.best, self._mean.state())
            if self.saved_step == self.start:
                directory.record_first_save(self.workdir, step)

        processes.on_first(write)  # all wait: none may end while this one writes
        self.saved_step = step
        watchdog.alive()

    def evaluate(self, state: TrainState, step: int) -> bool:
        """Evaluate on every split if it is time; return whether this is the best so far.

        Raises:
          NonFiniteError: a logit is NaN or infinite.
        """
        if not self.evaluates(step):
            return False
        chooser = "test" if self.splits.validation is None else "validation"
        improved = False
        for split, evaluator in self.evaluators.items():
            watchdog.alive("evaluation")
            try:
                report = evaluator.report(state, self.workdir if processes.is_first() else None, split)
            except NonFiniteError as error:
                raise self._not_finite(step, str(error)) from error
            groups = {f"eval/{split}/{name}": group["accuracy"] for name, group in report["groups"].items()}
            overall = {f"eval/{split}/{name}": report[name] for name in ("accuracy", "balanced_accuracy", "top5")}
            self.writer.write(step, {**overall, **groups})
            self.progress.say(f"eval {split} step {step:,}: {evaluate.one_line(report)}")
            if split == chooser and (self.best is None or report["accuracy"] > self.best.accuracy):
                self.best = checkpoint.Best(step, report["accuracy"], split)
                improved = True
        return improved

    def finish(self) -> dict[str, Any]:
        """Write and return the test reports of the last and of the best step, and which split chose the best."""
        results = processes.on_first(self._write_results)
        for name, one in results.items():
            self.progress.say(f"{name} (step {one['step']:,}{one['chosen_by']}): {evaluate.one_line(one)}")
        self.progress.say(f"done   this run has finished; its reports are in {self.workdir / 'results.json'}")
        return results

    def _write_results(self) -> dict[str, Any]:
        best = self.best or checkpoint.Best(self.total, 0.0, "test")

        def report(step: int, chosen_by: str) -> dict[str, Any]:
            path = self.workdir / "eval" / f"{step}-test.json"
            try:
                return {**json.loads(path.read_bytes()), "chosen_by": chosen_by}
            except (OSError, ValueError) as error:
                raise DataError(f"{path} can't be read ({error}). Fix: --mode eval writes it anew") from error

        results = {"last": report(self.total, ""), "best": report(best.step, f", best on {best.split}")}
        write_atomically(self.workdir / "results.json", json.dumps(results, indent=1))
        return results
