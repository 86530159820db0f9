"""How good a network is: exact counts over every test image, once; overall, a class and a group."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from saddle_jax import devices, longtail
from saddle_jax.data import feeder, resident
from saddle_jax.data.order import Slots, evaluation_slots
from saddle_jax.data.sources import Images
from saddle_jax.errors import NonFiniteError
from saddle_jax.files import write_atomically
from saddle_jax.train.program import Program
from saddle_jax.train.state import TrainState
from saddle_jax.train.steps import EvalOutput


class Evaluation(NamedTuple):
    """Counts of one evaluation."""

    confusion_CC: np.ndarray  # int64; row: true class, column: predicted class
    in_top: int  # images whose label is among the five largest logits

    @property
    def images(self) -> int:
        return int(self.confusion_CC.sum())

    @property
    def accuracy(self) -> float:
        """Percent of all images."""
        return 100 * float(np.trace(self.confusion_CC)) / self.images

    def class_accuracy_C(self) -> np.ndarray:
        """Return percent of each class's images; NaN for a class without any."""
        totals_C = self.confusion_CC.sum(1)
        correct_C = np.diag(self.confusion_CC).astype(float)
        return 100 * np.divide(correct_C, totals_C, out=np.full(len(totals_C), np.nan), where=totals_C > 0)


class Evaluator:
    """Evaluates states on one set of images, which stays on the devices where the pipeline is resident."""

    def __init__(self, config: ConfigDict, program: Program, images: Images, stats: longtail.ClassStats, pipeline: str):
        self._images, self._stats, self._rank_bounds = images, stats, config.eval.rank_bounds
        self._resident = pipeline == "resident"
        self._data = resident.put(*images) if self._resident else ()
        self._step = program.eval_step(self._resident)
        parts = devices.num_devices()
        self._batch_size = -(-min(config.eval.batch_size, len(images.labels)) // parts) * parts

    def evaluate(self, params: Any, batch_stats: Any) -> Evaluation:
        """Run the network over all images and count.

        Raises:
          NonFiniteError: a logit is NaN or infinite.
        """
        confusion_CC = np.zeros((self._stats.num_classes,) * 2, np.int64)
        in_top, broken = 0, 0
        for slots, output in self._outputs(devices.replicate(params), devices.replicate(batch_stats)):
            mask_B, labels_B = slots.mask_B, self._images.labels[slots.ids_B]
            predictions_B, in_top_B, finite_B = (x.reshape(-1) for x in jax.device_get(output))
            np.add.at(confusion_CC, (labels_B[mask_B], predictions_B[mask_B]), 1)
            in_top += int(in_top_B[mask_B].sum())
            broken += int((~finite_B[mask_B]).sum())
        if broken:
            raise NonFiniteError(f"evaluation: the logits of {broken} images are not finite")
        return Evaluation(confusion_CC, in_top)

    def _outputs(self, params: Any, batch_stats: Any) -> Iterator[tuple[Slots, EvalOutput]]:
        """Yield each batch's output when the next batch is queued, so that the device does not wait for the host."""
        before: tuple[Slots, EvalOutput] | None = None
        for slots, inputs in self._inputs():
            inputs = devices.put(devices.split(inputs))
            output = devices.settle(self._step(params, batch_stats, self._data, inputs))
            if before is not None:
                yield before
            before = slots, output
        if before is not None:
            yield before

    def _inputs(self) -> Iterator[tuple[Slots, Any]]:
        """Yield every batch's slots, with what the step takes of them."""
        all_slots = list(evaluation_slots(len(self._images.labels), self._batch_size, devices.num_devices()))
        yield from zip(
            all_slots,
            all_slots if self._resident else feeder.plain_batches(*self._images, slots=all_slots),
            strict=True,
        )

    def report(self, state: TrainState, workdir: pathlib.Path | None, split: str) -> dict[str, Any]:
        """Return what is reported of a state; write it into the run's directory if one is given."""
        evaluation = self.evaluate(state.params, state.batch_stats)
        report = summary(evaluation, self._stats, self._rank_bounds)
        if workdir is not None:
            write(workdir / "eval", int(state.step), split, report, evaluation)
        return report


def summary(evaluation: Evaluation, stats: longtail.ClassStats, rank_bounds: tuple[int, ...]) -> dict[str, Any]:
    """Return what is reported, in percent; None where a class or a group has no test image."""
    class_accuracy_C = evaluation.class_accuracy_C()
    present_C = ~np.isnan(class_accuracy_C)

    def mean(classes: np.ndarray) -> float | None:
        chosen = class_accuracy_C[classes][present_C[classes]]
        return float(chosen.mean()) if chosen.size else None

    groups = (*longtail.rank_groups(stats.num_classes, rank_bounds), *longtail.count_groups(stats.counts_C))
    return {
        "images": evaluation.images,
        "accuracy": evaluation.accuracy,
        "top5": 100 * evaluation.in_top / evaluation.images if stats.num_classes > 5 else None,
        "balanced_accuracy": mean(np.arange(stats.num_classes)),
        "groups": {group.name: {"accuracy": mean(group.classes), "classes": len(group.classes)} for group in groups},
        "class_accuracy": [None if np.isnan(a) else float(a) for a in class_accuracy_C],
    }


def write(folder: pathlib.Path, step: int, split: str, report: dict[str, Any], evaluation: Evaluation) -> None:
    """Write eval/<step>-<split>.json, with the confusion matrix beside it."""
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / f"{step}-{split}-confusion.npz", confusion=evaluation.confusion_CC)
    write_atomically(folder / f"{step}-{split}.json", json.dumps({"step": step, "split": split, **report}, indent=1))


def one_line(report: dict[str, Any]) -> str:
    """Return "accuracy 71.2  head 90.1  mid 70.3  tail 50.0  | many 80.2 (6)  medium ..." for a terminal."""

    def shown(name: str) -> str:
        group = report["groups"][name]
        value = "n/a" if group["accuracy"] is None else f"{group['accuracy']:.1f}"
        return f"{name} {value} ({group['classes']})"

    ranks, counts = (("head", "mid", "tail"), ("many", "medium", "few"))
    return (
        f"accuracy {report['accuracy']:.2f}  balanced {report['balanced_accuracy']:.2f}  "
        + "  ".join(map(shown, ranks))
        + "  |  "
        + "  ".join(map(shown, counts))
    )
