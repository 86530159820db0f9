"""Evaluation of a network: its prediction for every image, and its accuracy overall, per class, and per group."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from saddle_jax import longtail, scores
from saddle_jax.data.feeds import evaluation, resident
from saddle_jax.data.order import Slots, evaluation_slots
from saddle_jax.data.sources import Images
from saddle_jax.errors import NonFiniteError
from saddle_jax.host import console, devices, processes, watchdog
from saddle_jax.host.faults import fault_point
from saddle_jax.host.files import write_atomically, writing
from saddle_jax.training.program import Program
from saddle_jax.training.state import TrainState
from saddle_jax.training.steps import TOP, EvalOutput

_SHORT = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "top5": "top 5"}
_GROUPS = {"many": "over 100 training images", "medium": "20 to 100 training images", "few": "under 20 training images"}
_NAMES = 30  # letters of a group's class names in a table


class Evaluation(NamedTuple):
    """The predictions for all images, in the order of the images."""

    labels_N: np.ndarray  # int32
    predictions_N: np.ndarray  # int32
    in_top_N: np.ndarray  # bool: the label is among the five largest logits
    logits_NC: np.ndarray | None = None  # float32, whose softmax is the probabilities; None unless asked for

    @property
    def accuracy(self) -> float:
        """The accuracy over all images, in percent."""
        return 100 * float(np.mean(self.labels_N == self.predictions_N))

    def class_accuracy_C(self, num_classes: int) -> np.ndarray:
        """Return the accuracy of each class in percent; NaN for a class without images."""
        totals_C = np.bincount(self.labels_N, minlength=num_classes)
        correct_C = np.bincount(self.labels_N[self.labels_N == self.predictions_N], minlength=num_classes)
        return 100 * np.divide(correct_C, totals_C, out=np.full(num_classes, np.nan), where=totals_C > 0)


class Evaluator:
    """Evaluates states on one set of images, which stays on the devices if the pipeline is resident."""

    def __init__(self, config: ConfigDict, program: Program, images: Images, stats: longtail.ClassStats, pipeline: str):
        self._images, self._stats, self._rank_bounds = images, stats, config.eval.rank_bounds
        self._resident = pipeline == "resident"
        self._data = resident.put(*images) if self._resident else ()
        self._program = program
        parts = devices.num_devices()
        self._batch_size = -(-min(config.eval.batch_size, len(images.labels)) // parts) * parts

    @property
    def fair_accuracy(self) -> str:
        """Which accuracy of a report gives every class the same weight: the plain one only if all are equally large."""
        counts_C = np.bincount(self._images.labels, minlength=self._stats.num_classes)
        return "accuracy" if len(set(counts_C.tolist())) == 1 else "balanced_accuracy"

    def evaluate(self, params: Any, model_state: Any, *, with_logits: bool = False) -> Evaluation:
        """Run the network over all images.

        Args:
          with_logits: keep every image's logits, which are a gigabyte for some sets.

        Raises:
          NonFiniteError: a logit is NaN or infinite.
        """
        total = len(self._images.labels)
        # Each process fills in the images that its devices saw; the others stay 0.
        seen = EvalOutput(np.zeros(total, np.int32), np.zeros(total, bool), np.zeros(total, bool))
        if with_logits:
            seen = seen._replace(logits=np.zeros((total, self._stats.num_classes), np.float32))
        step = self._program.eval_step(self._resident, with_logits)
        for slots, output in self._outputs(step, devices.replicate(params), devices.replicate(model_state)):
            ids = slots.ids_B[slots.mask_B]
            for all_N, part in zip(jax.tree.leaves(seen), jax.tree.leaves(devices.own_parts(output)), strict=True):
                all_N[ids] = part.reshape(-1, *all_N.shape[1:])[slots.mask_B]
            fault_point("eval")
            watchdog.alive()
        predictions_N, in_top_N, finite_N, logits_NC = processes.sum_over(seen)
        if broken := int((~finite_N).sum()):
            raise NonFiniteError(f"evaluation: the logits of {broken} images are not finite")
        return Evaluation(self._images.labels, predictions_N, in_top_N, logits_NC)

    def _outputs(self, step: Callable[..., EvalOutput], *variables: Any) -> Iterator[tuple[Slots, EvalOutput]]:
        """Yield each batch's output once the next batch is queued, so that the device does not wait for the host."""
        before: tuple[Slots, EvalOutput] | None = None
        for slots, inputs in self._inputs():
            output = devices.settle(step(*variables, self._data, devices.deal(inputs)))
            if before is not None:
                yield before
            before = slots, output
        if before is not None:
            yield before

    def _inputs(self) -> Iterator[tuple[Slots, Any]]:
        """Yield this process's rows of every batch's slots, and the step's inputs."""
        everyones = evaluation_slots(len(self._images.labels), self._batch_size, devices.num_devices())
        slots = [devices.own_rows(one) for one in everyones]
        return zip(
            slots, slots if self._resident else evaluation.plain_batches(*self._images, slots=slots), strict=True
        )

    def report(self, state: TrainState, workdir: pathlib.Path | None, split: str) -> dict[str, Any]:
        """Return the report on a state, and write it into the run's directory if one is given."""
        weights = state.evaluated()
        evaluation = self.evaluate(weights.params, weights.model_state)
        report = summary(evaluation, self._stats, self._rank_bounds)
        if workdir is not None:
            write(workdir / "eval", int(state.step), split, report, evaluation)
        return report


def from_logits(labels_N: np.ndarray, logits_NC: np.ndarray) -> Evaluation:
    """Return the evaluation of logits on the host. Among equal logits, that of the first class counts as largest."""
    in_top = []
    for rows in scores.blocks(logits_NC):
        block, labels_N1 = logits_NC[rows], labels_N[rows, None]
        own_N1 = np.take_along_axis(block, labels_N1, axis=1)
        before = (block == own_N1) & (np.arange(block.shape[1]) < labels_N1)
        in_top.append(((block > own_N1) | before).sum(1) < TOP)
    return Evaluation(labels_N, logits_NC.argmax(1).astype(np.int32), np.concatenate(in_top), logits_NC)


def full_report(evaluation: Evaluation, stats: longtail.ClassStats, rank_bounds: tuple[int, ...]) -> dict[str, Any]:
    """Return the summary of an evaluation with logits, and the figures of `scores.measure`."""
    assert evaluation.logits_NC is not None
    figures = scores.measure(evaluation.labels_N, evaluation.predictions_N, evaluation.logits_NC)
    return {**summary(evaluation, stats, rank_bounds), **figures}


def summary(evaluation: Evaluation, stats: longtail.ClassStats, rank_bounds: tuple[int, ...]) -> dict[str, Any]:
    """Return the report on an evaluation, in percent; None for a class or a group without a test image."""
    class_accuracy_C = evaluation.class_accuracy_C(stats.num_classes)
    present_C = ~np.isnan(class_accuracy_C)

    def mean(classes: np.ndarray) -> float | None:
        chosen = class_accuracy_C[classes][present_C[classes]]
        return float(chosen.mean()) if chosen.size else None

    groups = (*longtail.rank_groups(stats.num_classes, rank_bounds), *longtail.count_groups(stats.counts_C))
    return {
        "images": len(evaluation.labels_N),
        "accuracy": evaluation.accuracy,
        "top5": 100 * float(evaluation.in_top_N.mean()) if stats.num_classes > 5 else None,
        "balanced_accuracy": mean(np.arange(stats.num_classes)),
        "groups": {group.name: {"accuracy": mean(group.classes), "classes": len(group.classes)} for group in groups},
        "class_accuracy": [None if np.isnan(a) else float(a) for a in class_accuracy_C],
    }


def write(folder: pathlib.Path, step: int, split: str, report: dict[str, Any], evaluation: Evaluation) -> None:
    """Write eval/<step>-<split>.json, with every image's label, prediction, and, if known, logits beside it."""
    images = {"labels": evaluation.labels_N, "predictions": evaluation.predictions_N}
    with writing(folder):
        folder.mkdir(exist_ok=True)
        temporary = folder / f".{step}-{split}.tmp.npz"
        if evaluation.logits_NC is None:
            np.savez_compressed(temporary, **images)
        else:  # compression would take long and save little
            np.savez(temporary, **images, logits=evaluation.logits_NC)
        temporary.replace(folder / f"{step}-{split}-predictions.npz")
    write_atomically(folder / f"{step}-{split}.json", json.dumps({"step": step, "split": split, **report}, indent=1))


def one_line(report: Mapping[str, Any], fair: str = "balanced_accuracy") -> str:
    """Return "accuracy 71.23  head 90.1  mid 70.3  tail 50.0"; `fair` is the accuracy that comes first."""
    groups = "  ".join(f"{name} {_percent(report['groups'][name]['accuracy'])}" for name in longtail.RANK_GROUPS)
    return f"{fair.partition('_')[0]} {_percent(report[fair], 2)}  {groups}"


def table(
    reports: Mapping[str, Mapping[str, Any]], stats: longtail.ClassStats, rank_bounds: tuple[int, ...]
) -> console.Table:
    """Return the test accuracies of reports as a table, with the names of the classes in each group.

    Args:
      reports: by name, each with its step.
    """
    found = list(reports.values())
    rows = [["step", *(f"{one['step']:,}" for one in found), ""]]
    for name in ("accuracy", "balanced_accuracy", "top5"):
        if found[0][name] is not None:
            meaning = {"accuracy": f"{found[0]['images']:,} images", "balanced_accuracy": "mean over the classes"}
            rows.append([_SHORT[name], *(_percent(one[name], 2) for one in found), meaning.get(name, "")])
    groups = (*longtail.rank_groups(stats.num_classes, rank_bounds), *longtail.count_groups(stats.counts_C))
    for group in groups:
        meaning = _GROUPS.get(group.name) or _listed([stats.names[label] for label in group.classes])
        cells = (_percent(one["groups"][group.name]["accuracy"]) for one in found)
        rows.append([group.name, *cells, f"{len(group.classes)}: {meaning}"])
    align = "l" + "r" * len(found) + "l"
    return console.Table(["", *reports, "classes"], rows, align, "Test accuracy in percent")


def _percent(value: float | None, digits: int = 1) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _listed(names: Sequence[str]) -> str:
    """Return as many names as fit."""
    for number in range(len(names), 0, -1):
        text = ", ".join([*names[:number], *(["..."] if number < len(names) else [])])
        if len(text) <= _NAMES:
            return text
    return "..." if names else ""
