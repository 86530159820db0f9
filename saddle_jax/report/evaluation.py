"""An evaluation as text for a terminal, at most 80 columns wide. Does not need JAX."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NAME = 26  # columns of a class's name
_SCORES = {
    "accuracy": ("accuracy", "right predictions"),
    "balanced_accuracy": ("balanced accuracy", "mean recall of the classes"),
    "macro_f1": ("macro F1", "mean F1 of the classes"),
    "g_mean": ("G-mean", "geometric mean of the recalls"),
    "nll": ("NLL", "-log p(label), in nats"),
    "ece": ("ECE", "accuracy vs confidence, {} bins"),
}


def lines(report: Mapping[str, Any], names: Sequence[str], counts_C: Sequence[int]) -> Iterator[str]:
    """Yield the lines of a full report: the scores, what bends them, and each class by name.

    Args:
      report: what `train.evaluate.full_report` returns.
      names: of the classes.
      counts_C: training images per class.
    """
    percent = f"{100 * report['intervals']['level']:.0f} %"
    yield f"  {'':18s} {'value':>7s}  {f'{percent} interval':>17s}  in percent, except NLL"
    for name, (shown, meaning) in _SCORES.items():
        its = report["scores"][name]
        interval = f"{its['low']:.2f} to {its['high']:.2f}"
        yield f"  {shown:18s} {its['value']:7.2f}  {interval:>17s}  {meaning.format(report['ece_bins'])}"
    yield from _notes(report["classes"]["test_images"], names)
    yield f"  {'class':{_NAME}s} {'training':>9s} {'test':>6s}  {f'recall ({percent})':15s}  precision ({percent})"
    classes = report["classes"]
    for label, (name, count, images) in enumerate(zip(names, counts_C, classes["test_images"], strict=True)):
        cells = [_with_interval(classes[which], label) for which in ("recall", "precision")]
        yield f"  {fitted(name, _NAME)} {count:>9,d} {images:>6,d}  {cells[0]:15s}  {cells[1]}".rstrip()


def _notes(images_C: Sequence[int], names: Sequence[str]) -> Iterator[str]:
    present = [images for images in images_C if images]
    if max(present) > 1.5 * min(present):
        yield f"  note  test classes have {min(present):,} to {max(present):,} images: accuracy, NLL, ECE, precision,"
        yield "        and macro F1 lean toward the large ones; recall, balanced accuracy, and"
        yield "        G-mean do not"
    if absent := len(images_C) - len(present):
        first = next(name for name, images in zip(names, images_C, strict=True) if not images)
        yield f"  note  classes without a test image: {absent} of {len(names)}, e.g. {fitted(first, _NAME).rstrip()}"


def _with_interval(figure: Mapping[str, Sequence[float | None]], label: int) -> str:
    value, low, high = (figure[part][label] for part in ("value", "low", "high"))
    if value is None:
        return f"{'n/a':>5s}"
    return f"{value:5.1f} ({low:.0f}-{high:.0f})" if low is not None else f"{value:5.1f}"


def fitted(text: str, width: int) -> str:
    """Return the text cut or padded to columns of a terminal, where a wide character takes two."""
    shown, used = "", 0
    for character in text:
        columns = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if used + columns > width:
            break
        shown, used = shown + character, used + columns
    return shown + " " * (width - used)


def curve_lines(points: Sequence[Mapping[str, Any]], tau: float | None) -> Iterator[str]:
    """Yield a table of the accuracies along a curve: at 0, 0.2, 0.4, ..., and at the chosen tau, with a mark.

    Args:
      points: {"tau", "accuracy", "balanced_accuracy", "head", "mid", "tail"} for each tau, with None for no images.
      tau: the chosen one.
    """
    columns = ("balanced_accuracy", "head", "mid", "tail", "accuracy")
    yield "     tau  " + "".join(f"{name.partition('_')[0]:>10s}" for name in columns)
    for point in points:
        if round(5 * point["tau"], 9) % 1 == 0 or point["tau"] == tau:
            cells = ("n/a" if point[name] is None else f"{point[name]:.2f}" for name in columns)
            mark = "  <- chosen" if point["tau"] == tau else ""
            yield f"  {point['tau']:6.2f}  " + "".join(f"{cell:>10s}" for cell in cells) + mark
