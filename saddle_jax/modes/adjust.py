"""Adjust the classifier of a stored run, for `--mode eval --adjust`: draw the curve, choose tau, and record it."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import numpy as np

from saddle_jax import longtail, posthoc
from saddle_jax.experiment import adjustment
from saddle_jax.experiment.adjustment import Adjustment
from saddle_jax.host import console
from saddle_jax.host.files import write_atomically, writing
from saddle_jax.report import plots, score_tables, style
from saddle_jax.training import evaluate
from saddle_jax.training.evaluate import Evaluation


class Classifier(NamedTuple):
    """A trained classifier, and what its adjustment depends on."""

    params: Any  # of the whole method, on the host
    stats: longtail.ClassStats
    rank_bounds: tuple[int, ...]
    linear: str | None  # see `methods.base.Method`

    def adjusted(self, chosen: Adjustment, evaluation: Evaluation) -> Evaluation:
        """Return what the adjusted classifier predicts for the evaluated images."""
        logits_NC = posthoc.adjusted_logits(chosen, evaluation.logits_NC, self.stats, self.params, self.linear)
        return evaluate.from_logits(evaluation.labels_N, logits_NC)


def choose(
    asked: Adjustment,
    classifier: Classifier,
    step: int,
    validation: Evaluation | None,
    test: Evaluation,
    workdir: pathlib.Path | None,
) -> Adjustment | None:
    """Return the adjustment with its tau, and print how it was chosen; None if there is nothing to choose it by.

    Args:
      asked: if it has a tau, that is used. Otherwise, the tau with the best balanced accuracy on the validation images
        is used; among ties, the one nearest to 1, which theory gives for logit adjustment. Without validation images,
        the curve is shown on the test images, and an earlier choice for this step is used.
      step: step of the classifier's checkpoint.
      workdir: where the choice and the figure are written; None writes nothing.
    """
    kind = asked.kind
    if asked.tau is not None:
        _record(workdir, step, asked, {"chosen_on": "command line"})
        return asked
    if validation is None:
        split, seen = "test", test
        tau = None if workdir is None else adjustment.recorded(workdir, kind).get(step)
        points = curve(kind, classifier, seen, also=tau)
    else:
        split, seen = "validation", validation
        points = curve(kind, classifier, seen)
        tau = max(points, key=lambda point: (_goodness(point), -abs(point["tau"] - 1)))["tau"]
    mark = "" if tau is None else " (* chosen)"
    console.table(
        score_tables.curve(points, tau, f"{kind} at step {step:,}, {split} images, accuracy in percent{mark}")
    )
    _draw(workdir, f"adjustment-{kind}-{step}.png", points, tau, f"{kind} at step {step:,}, {split} images")
    if validation is None:
        console.say(
            "note",
            "this run has no validation images, so no tau is chosen here: the test images must not choose it. "
            f"Fix: --adjust {kind}:TAU, or a run with --config.data.validation_fraction",
        )
        return None if tau is None else Adjustment(kind, tau)
    chosen = Adjustment(kind, tau)
    _tell_doubts(chosen, points, validation, classifier.stats)
    _record(workdir, step, chosen, {"chosen_on": split, "curve": points})
    return chosen


def curve(kind: str, classifier: Classifier, evaluation: Evaluation, also: float | None = None) -> list[dict[str, Any]]:
    """Return the accuracies in percent at each of `posthoc.TAUS`, and at `also`; None for a group without images."""
    points = []
    for tau in sorted({*posthoc.TAUS, *(() if also is None else (also,))}):
        adjusted = classifier.adjusted(Adjustment(kind, tau), evaluation)
        report = evaluate.summary(adjusted, classifier.stats, classifier.rank_bounds)
        groups = {name: report["groups"][name]["accuracy"] for name in longtail.RANK_GROUPS}
        points.append({"tau": tau, **{name: report[name] for name in ("accuracy", "balanced_accuracy")}, **groups})
    return points


def _tell_doubts(
    chosen: Adjustment, points: list[dict[str, Any]], validation: Evaluation, stats: longtail.ClassStats
) -> None:
    best = max(map(_goodness, points))
    if (equal := [_goodness(point) for point in points].count(best)) > 1:
        console.say("note", f"{equal} of {len(points)} taus are equally good there. The one nearest to 1 is used")
    images_C = np.bincount(validation.labels_N, minlength=stats.num_classes)
    if absent := int((images_C == 0).sum()):
        console.say(
            "note",
            f"classes without a validation image: {absent} of {stats.num_classes}. Only the others choose tau. A run "
            "with a lower --config.data.validation_floor holds out images of more classes",
        )
    if chosen.tau == posthoc.TAUS[-1]:
        console.say(
            "note",
            f"tau {chosen.tau:g} is the end of the curve. A larger one may be better: --adjust {chosen.kind}:TAU",
        )


def _goodness(point: dict[str, Any]) -> float:
    return round(point["balanced_accuracy"], 9)  # without the rounding errors of the mean


def _draw(workdir: pathlib.Path | None, name: str, points: list[dict[str, Any]], tau: float | None, title: str) -> None:
    if workdir is None:
        return
    if any(point[group] is None for point in points for group in ("head", "tail")):
        console.say("note", "no figure: head or tail has no image in this split")
        return
    path = workdir / "plots" / name
    with writing(path):
        path.parent.mkdir(exist_ok=True)
    write_atomically(path, style.png(plots.head_against_tail(points, tau, title)))
    console.say("plot", str(path))


def _record(workdir: pathlib.Path | None, step: int, chosen: Adjustment, details: dict[str, Any]) -> None:
    if workdir is not None:
        console.say("tau", f"{chosen.tau:g}, recorded in {adjustment.record(workdir, step, chosen, details)}")
