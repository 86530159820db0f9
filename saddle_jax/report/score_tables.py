"""An evaluation as tables for a terminal. Does not need JAX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from saddle_jax.host.console import Table

_SCORES = {
    "accuracy": ("accuracy", "correct predictions"),
    "balanced_accuracy": ("balanced accuracy", "mean recall of the classes"),
    "macro_f1": ("macro F1", "mean F1 of the classes"),
    "g_mean": ("G-mean", "geometric mean of the recalls"),
    "nll": ("NLL", "-log p(label), in nats"),
    "ece": ("ECE", "accuracy vs confidence, {} bins"),
}


def scores(report: Mapping[str, Any]) -> Table:
    """Return the scores of a full report (`training.evaluate.full_report`), with their intervals."""
    rows = []
    for name, (shown, meaning) in _SCORES.items():
        its = report["scores"][name]
        interval = f"{its['low']:.2f}-{its['high']:.2f}"
        rows.append([shown, f"{its['value']:.2f}", interval, meaning.format(report["ece_bins"])])
    return Table(["score", "value", _interval(report), "meaning"], rows, "lrrl", "In percent, except NLL")


def classes(report: Mapping[str, Any], names: Sequence[str], counts_C: Sequence[int]) -> Table:
    """Return the recall and precision of each class, with their intervals.

    Args:
      report: what `training.evaluate.full_report` returns.
      names: of the classes.
      counts_C: training images per class.
    """
    found = report["classes"]
    rows = []
    for label, (name, count, images) in enumerate(zip(names, counts_C, found["test_images"], strict=True)):
        recall, precision = (_with_interval(found[which], label) for which in ("recall", "precision"))
        rows.append([name, f"{count:,}", recall, precision, f"{images:6,}"])
    title = f"Recall and precision in percent, each with its {_interval(report)}; images for training and test"
    return Table(["class", "train", "recall", "precision", "  test"], rows, "wrlll", title)


def notes(report: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """Yield a sentence on each thing that biases the scores."""
    images_C = report["classes"]["test_images"]
    present = [images for images in images_C if images]
    if max(present) > 1.5 * min(present):
        yield (
            f"test classes have {min(present):,} to {max(present):,} images: accuracy, NLL, ECE, precision, and macro "
            "F1 lean toward the large ones; recall, balanced accuracy, and G-mean do not"
        )
    if absent := len(images_C) - len(present):
        first = next(name for name, images in zip(names, images_C, strict=True) if not images)
        yield f"classes without a test image: {absent} of {len(names)}, e.g. {first}"


def curve(points: Sequence[Mapping[str, Any]], tau: float | None, title: str) -> Table:
    """Return the accuracies along a curve: at 0, 0.2, 0.4, ..., and at the chosen tau, with a *.

    Args:
      points: {"tau", "accuracy", "balanced_accuracy", "head", "mid", "tail"} for each tau, with None for no images.
      tau: the chosen one.
      title: of the table.
    """
    columns = ("balanced_accuracy", "head", "mid", "tail", "accuracy")
    shown = [point for point in points if round(5 * point["tau"], 9) % 1 == 0 or point["tau"] == tau]
    rows = [
        [f"{point['tau']:.2f}{'*' if point['tau'] == tau else ' '}"]
        + [f"{'n/a' if point[name] is None else format(point[name], '.1f'):>5s}" for name in columns]
        for point in shown
    ]
    return Table(["tau", "balanced", *columns[1:]], rows, "lrrrrl", title)


def _interval(report: Mapping[str, Any]) -> str:
    return f"{100 * report['intervals']['level']:.0f} % interval"


def _with_interval(figure: Mapping[str, Sequence[float | None]], label: int) -> str:
    value, low, high = (figure[part][label] for part in ("value", "low", "high"))
    if value is None:
        return f"{'n/a':>5s}"
    return f"{value:5.1f} ({low:.0f}-{high:.0f})" if low is not None else f"{value:5.1f}"
