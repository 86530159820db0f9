"""One run in its directory: where it starts, and how it is logged, evaluated, saved, and observed."""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.sources import Splits
from saddle_jax.errors import DataError, NonFiniteError, Preempted
from saddle_jax.host import console, processes, watchdog
from saddle_jax.host.console import duration
from saddle_jax.host.faults import fault_point
from saddle_jax.host.files import write_atomically
from saddle_jax.host.lock import exclusive
from saddle_jax.host.memory import peak_memory_mib
from saddle_jax.host.progress import Progress
from saddle_jax.host.signals import StopRequest
from saddle_jax.tracking import start as tracking
from saddle_jax.training import checkpoint, directory, evaluate, origin
from saddle_jax.training.feed import Feed
from saddle_jax.training.masking import Masking
from saddle_jax.training.metrics import MetricWriter, RunningMean
from saddle_jax.training.program import Program
from saddle_jax.training.state import Observer, TrainState
from saddle_jax.training.steps import StepMetrics
from saddle_jax.training.timetable import make_timetable


class Member(NamedTuple):
    """One of the runs that are trained together; they differ in nothing but seeds and images."""

    config: ConfigDict
    workdir: pathlib.Path
    splits: Splits
    observer: Observer | None = None
    label: str = ""  # prefix of every line about this run


@contextlib.contextmanager
def open_runs(members: Sequence[Member], program: Program, command: list[str], *, quiet: bool) -> Iterator[list[Run]]:
    """Lock the runs' directories, watch for stalls, and yield the runs, ready to start or to resume.

    Raises:
      ConfigError, DataError, WorkdirInUse: see `loop.train`.
    """
    with contextlib.ExitStack() as stack:
        notes: list[list[str]] = []
        for member in members:
            lock = exclusive(member.workdir)
            notes.append(processes.on_first(functools.partial(stack.enter_context, lock)))
        stack.enter_context(watchdog.watch(members[0].config.watchdog_secs))
        for config, workdir, splits, *_ in members:
            processes.on_first(functools.partial(directory.require_same_run, workdir, config, splits))
        runs = [Run(member, program, command, quiet=quiet or not processes.is_first()) for member in members]
        for run, notes_of_run in zip(runs, notes, strict=True):
            run.say_notes(notes_of_run)
            run.writer = stack.enter_context(run.make_writer())
        going_on = [run for run in runs if run.start < run.timetable.total] if processes.is_first() else []
        followed = [tracking.Followed(run.config, run.workdir, run.progress.say) for run in going_on]
        stack.enter_context(tracking.following(followed))
        yield runs


class Run:
    """A run: its state at the start, its best evaluation, and everything that it writes along the way."""

    def __init__(self, member: Member, program: Program, command: list[str], *, quiet: bool):
        self.config, self.workdir, self.splits = member.config, member.workdir, member.splits
        self._observer, self._label, self._quiet = member.observer, member.label, quiet
        self._steps_per_epoch = program.schedules.steps_per_epoch
        self.timetable = make_timetable(self.config, program.schedules, self._observer)
        self._best: checkpoint.Best | None = None
        self._mean = RunningMean()
        self._masking = Masking(self.splits.train.images, self.workdir)
        self._origin: origin.Origin | None = None
        self._state = program.init(self.config.seed)
        self.start = 0
        notes = self._resume()
        notes += processes.on_first(functools.partial(self._open, command))
        self._saved_step = self.start
        self.error: NonFiniteError | None = None  # the error that ended the run early
        self.evaluators: dict[str, evaluate.Evaluator] = {}  # by split
        self.writer: MetricWriter
        self.progress = Progress(
            self.timetable.total, self.config.batch_size, self.start,
            label=self._label, quiet=quiet, steps_per_epoch=self._steps_per_epoch,
        )  # fmt: skip
        self.say_notes(notes)
        self.progress.say("start", f"resuming at step {self.start:,}" if self.start else "from the first step")

    def _resume(self) -> list[str]:
        """Take the state of the newest sound checkpoint, or another run's weights if the config names one.

        Returns:
          Notes for the user.
        """
        found, notes = processes.on_first(self._read)
        self._state = processes.of_first(self._state)  # also random weights: another processor may draw other bits
        if found is not None:
            self.start, self._mean = found["step"], RunningMean(**found["running_mean"])
            self._best = checkpoint.Best(**found["best"]) if found["best"] else None
        return notes

    def _read(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Read the state in the first process; return the rest of the checkpoint, as JSON values, and notes."""
        found, notes = checkpoint.resume(self.checkpoints)
        if found is not None:
            self._state = checkpoint.restore(found, self._state)
            best = found.best._asdict() if found.best else None
            return {"step": found.step, "best": best, "running_mean": found.running_mean}, notes
        directory.require_never_saved(self.workdir)
        self._origin = origin.find(self.config, self.workdir)
        if self._origin is not None:
            state, line = self._origin.adopt(self._state, self.splits)
            self._state = state.averaged_from_here()
            notes.append(line)
        return None, notes

    def _open(self, command: list[str]) -> list[str]:
        weights_from = self._origin.record() if self._origin else None
        return directory.open_run(self.workdir, self.config, self.splits, command, weights_from)

    def make_writer(self) -> MetricWriter:
        """Return the writer of this run's metrics, which drops records later than the start."""
        return MetricWriter(self.workdir if processes.is_first() else None, resumed_step=self.start)

    def say_notes(self, notes: list[str]) -> None:
        """Print notes for the user."""
        for note in notes:
            self.progress.say("note", note)

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.workdir / "checkpoints"

    def prepare(self, program: Program) -> Feed:
        """Return the run's feed, and make its evaluators."""
        self.progress.doing("compiling the step")
        feed = Feed([self.config], [self.splits], program)
        self.evaluators = self.make_evaluators(program, feed.pipeline)
        return feed

    def make_evaluators(self, program: Program, pipeline: str) -> dict[str, evaluate.Evaluator]:
        """Return an evaluator for each split that has images."""
        images = {"validation": self.splits.validation, "test": self.splits.test}
        return {
            split: evaluate.Evaluator(self.config, program, part, self.splits.stats, pipeline)
            for split, part in images.items()
            if part is not None
        }

    def take_state(self) -> TrainState:
        """Return the state at the start, on the host; the run does not keep it, since the steps need the memory."""
        state = self._state
        del self._state
        return state

    def begin(self, step: int, seconds: float) -> None:
        """Measure speed from `step` on, and report that the first steps took `seconds`, including compilation."""
        self.progress.begin(step)
        self.progress.say("ready", f"first steps after {duration(seconds)}")

    def reached(self, step: int) -> None:
        """Show that the devices have taken at least `step` steps."""
        self.progress.at(step)

    def observe(self, state: TrainState, stop: StopRequest) -> bool:
        """Let the observer look; return whether it finished, and was not cut short by a signal."""
        if self._observer is None:
            return True
        try:
            state = jax.device_get(state.evaluated())
            self.progress.say(*self._observer.look(state, self.workdir, stop, self._quiet))
        except Preempted:
            return False
        return True

    def log(self, step: int, metrics: StepMetrics, done: int) -> None:
        """Add a step's metrics, on the host, to the mean, and write a record if it is time.

        Args:
          done: steps that have been taken by now.

        Raises:
          NonFiniteError: the step was not finite.
          DataError: there are more bad images than are allowed.
        """
        if not metrics.finite:
            quantities = {"loss": metrics.loss, "loss at w + e": metrics.perturbed_loss, "update": metrics.update_norm}
            broken = ", ".join(f"{name} is {value}" for name, value in quantities.items() if not np.isfinite(value))
            raise self._not_finite(step, f"{broken}. The weights before it were kept")
        scalars = {"loss": metrics.loss, "perturbed_loss": metrics.perturbed_loss, "ascent_norm": metrics.ascent_norm}
        scalars |= {"update_norm": metrics.update_norm, "gradient_evaluations": metrics.gradient_evaluations}
        if metrics.skipped:
            self._mean.skip()
            self._masking.skipped += 1
        else:
            self._mean.add({**scalars, **metrics.method})
        fault_point("step")
        if self.timetable.logs(step):
            means = self._mean.take()
            schedules = {name: float(value) for name, value in metrics.schedules.items()}
            record = {f"train/{name}": value for name, value in means.items()}
            cost = {"images_per_second": self.progress.lap(done), "peak_mib": peak_memory_mib()}
            self.writer.write(step, {"epoch": step / self._steps_per_epoch, **record, **schedules, **cost})
            loss = f"loss {means['loss']:.4f}" if "loss" in means else "all steps skipped"
            self.progress.update(
                done, loss, *(f"{name.rpartition('.')[2]} {value:.3g}" for name, value in schedules.items())
            )
        ends = step % self._steps_per_epoch == 0 or step == self.timetable.total
        if ends and (line := self._masking.take_line(-(-step // self._steps_per_epoch))):
            self.progress.say("note", line)

    def evaluate(self, state: TrainState, step: int) -> bool:
        """Evaluate on every split; return whether this is the best so far.

        Raises:
          NonFiniteError: a logit is NaN or infinite.
        """
        chooser = "test" if self.splits.validation is None else "validation"
        improved = False
        for split, evaluator in self.evaluators.items():
            watchdog.alive("evaluation")
            self.progress.doing(f"evaluating the {split} images")
            try:
                report = evaluator.report(state, self.workdir if processes.is_first() else None, split)
            except NonFiniteError as error:
                raise self._not_finite(step, str(error)) from error
            groups = {f"eval/{split}/{name}": group["accuracy"] for name, group in report["groups"].items()}
            overall = {f"eval/{split}/{name}": report[name] for name in ("accuracy", "balanced_accuracy", "top5")}
            self.writer.write(step, {**overall, **groups})
            line = f"{split} step {step:,}: {evaluate.one_line(report, evaluator.fair_accuracy)}"
            self.progress.say("eval", line)
            self.progress.evaluated(line)
            accuracy = report[evaluator.fair_accuracy]
            if split == chooser and (self._best is None or accuracy >= self._best.accuracy):
                self._best = checkpoint.Best(step, accuracy, split)
                improved = True
        return improved

    def save(self, state: TrainState, step: int) -> None:
        """Save the state after `step` steps, and the names of bad images so far."""
        self._masking.record()
        self.progress.doing("saving")
        processes.on_first(functools.partial(self._write, state, step))  # no other process may end in the meantime
        self._saved_step = step
        watchdog.alive()

    def _write(self, state: TrainState, step: int) -> None:
        checkpoint.save(
            self.checkpoints, jax.device_get(state), self._best, self._mean.state(), keep=self.timetable.keeps(step)
        )
        if self._saved_step == self.start:
            directory.record_first_save(self.workdir, step)

    def _not_finite(self, step: int, problem: str) -> NonFiniteError:
        """Return the error that ends this run, and keep it."""
        saved = self.checkpoints / str(self._saved_step) if self._saved_step else "none saved yet"
        whose = f"{self._label}: " if self._label else ""
        self.error = NonFiniteError(
            f"{whose}step {step:,}: {problem}. Last good checkpoint: {saved}. "
            "Fix: lower the learning rate or rho in a new --workdir; precision=highest rules out rounding"
        )
        return self.error

    def finish(self) -> dict[str, Any]:
        """Write, print, and return the test reports of the last and the best step, and what chose the best."""
        results = processes.on_first(self._write_results)
        last, best = results["last"], results["best"]
        name = f"best{best['chosen_by'].removeprefix(', best')}"
        shown = {f"last and {name}": last} if last["step"] == best["step"] else {"last": last, name: best}
        console.hide()
        self.progress.show_table(evaluate.table(shown, self.splits.stats, self.config.eval.rank_bounds))
        return results

    def _write_results(self) -> dict[str, Any]:
        best = self._best or checkpoint.Best(self.timetable.total, 0.0, "test")
        last = self._read_report(self.timetable.total)
        results = {
            "last": {**last, "chosen_by": ""},
            "best": {**self._read_report(best.step), "chosen_by": f", best on {best.split}"},
        }
        write_atomically(self.workdir / "results.json", json.dumps(results, indent=1))
        return results

    def _read_report(self, step: int) -> dict[str, Any]:
        path = self.workdir / "eval" / f"{step}-test.json"
        try:
            return dict(json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} can't be read ({error}). Fix: --mode eval writes it again") from error
