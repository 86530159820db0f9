"""Report on one set of images: accuracies, effects of links, class sizes, curves, confusion. Does not need JAX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from saddle_jax.longtail import RANK_GROUPS
from saddle_jax.report import (
    calibration,
    classes,
    comparisons,
    confusion,
    cost,
    curves,
    differences,
    plots,
    style,
    tables,
)
from saddle_jax.report.comparisons import Comparison
from saddle_jax.report.page import Block, Heading, Picture, Pictures, Strong, Table, Text
from saddle_jax.report.rows import ImageSet, Row, all_runs, families
from saddle_jax.report.runs import chosen_by

_MOST_METHODS = 6  # per figure
_CURVES = (  # field, name, label, whether its axis is logarithmic
    ("train/loss", "training loss", "training loss", True),
    ("eval/test/accuracy", "test accuracy", "test accuracy (%)", False),
    ("eval/test/tail", "tail accuracy", "test accuracy of the tail classes (%)", False),
)


def lines_of(images: ImageSet, compared: Sequence[Comparison], columns: Sequence[str], epoch: str) -> list[tables.Line]:
    """Return two table lines for each row with a finished run: its last epoch and its best epoch.

    Args:
      images: the rows.
      compared: the comparisons of every pair of rows.
      columns: of the table.
      epoch: "last" or "best", at which the rows are compared.
    """
    leading = {column: comparisons.leading(images, compared, column, epoch) for column in columns}
    lines = []
    for row in images.rows:
        if not row.runs:
            continue
        ahead = frozenset(column for column, names in leading.items() if row.name in names)
        for which in ("last", "best"):
            reports = [run.results[which] for run in row.runs]
            splits = " or ".join(sorted({chosen_by(report) for report in reports}))
            title = "last" if which == "last" else f"best on {splits}"
            gradients = [cost.gradient_evaluations(run, run.results[which]["step"]) for run in row.runs]
            told = ahead if which == epoch else frozenset()
            lines.append(tables.Line(images.title, row.name, which, title, reports, gradients, told))
    return lines


def section(
    images: ImageSet, lines: Sequence[tables.Line], compared: Sequence[Comparison], columns: Sequence[str], epoch: str
) -> Iterator[Block]:
    """Yield everything about a set of images except its spectra and configs.

    Args:
      images: the rows.
      lines: what `lines_of` returns.
      compared: the comparisons of every pair of rows.
      columns: of the tables.
      epoch: "last" or "best", at which the rows are compared.
    """
    yield from _accuracy(images, lines, columns)
    if not any(row.runs for row in images.rows):
        yield Text("No run on these images has finished, so there is no accuracy to report yet.", warning=True)
    yield from differences.section(images, compared, columns, epoch)
    yield from _by_class_size(images)
    yield from _curves(images)
    yield from cost.section(images)
    yield from confusion.section(images)
    yield from calibration.section(images)


def _accuracy(images: ImageSet, lines: Sequence[tables.Line], columns: Sequence[str]) -> Iterator[Block]:
    if not lines:
        return
    lines = list(_once(lines))
    costs = [np.mean(line.gradients) for line in lines]
    tells_cost = not np.isnan(costs).all()
    header = ["method", "epoch"]
    for column in columns:
        header.append(f"{column} ({images.group_sizes[column]})" if column in images.group_sizes else column)
    if tells_cost:
        header.append("gradients")
    header.append("n")
    cells = []
    for line, gradients in zip(lines, costs, strict=True):
        row = [line.method, line.epoch]
        for column in columns:
            text = tables.spread([tables.accuracy(report, column) for report in line.reports])
            row.append(Strong(text) if column in line.leading else text)
        if tells_cost:
            row.append("" if np.isnan(gradients) else f"{gradients:,.0f}")
        row.append(tables.seeds(len(line.reports)))
        cells.append(row)
    yield Heading("Test accuracy", 3)
    yield Table(header, cells, (0, 1))
    yield Text(
        "Test accuracy in percent, mean ± sample standard deviation over n seeds. A single seed has no spread. A "
        "group's accuracy is the mean over its classes; the number of classes is in parentheses. head, mid, and tail "
        "are the first, middle, and last classes in the order of their sizes. many, medium, and few are the classes "
        "with more than 100, 20 to 100, and fewer than 20 training images."
    )
    if any(line.leading for line in lines):
        yield Text(
            "Bold: not distinguishable from the best method of the column (p > 0.05 below, or n too small to say)."
        )
    if tells_cost:
        yield Text("gradients: number of gradients up to that epoch, each of one training batch; mean over seeds.")
    if any(line.epoch.endswith("test") for line in lines):
        yield Text(
            "“best on test” is the epoch with the highest accuracy on the test images themselves, so it is optimistic. "
            "Set config.data.validation_fraction to choose the best epoch on held-out training images."
        )


def _once(lines: Sequence[tables.Line]) -> Iterator[tables.Line]:
    """Yield the lines, with a method's last and best epoch in one if they are the same."""
    for last, best in zip(lines[::2], lines[1::2], strict=True):
        if [report["step"] for report in last.reports] == [report["step"] for report in best.reports]:
            yield last._replace(epoch=f"last, {best.epoch}", leading=last.leading | best.leading)
        else:
            yield from (last, best)


def _by_class_size(images: ImageSet) -> Iterator[Block]:
    ranks = [images.group_sizes[name] for name in RANK_GROUPS]
    pictures = []
    for family in _pictured([row for row in images.rows if row.runs]):
        methods = {row.name: [run.results["last"]["class_accuracy"] for run in row.runs] for row in family}
        caption = (
            f"{', '.join(methods)}: test accuracy by class size at the last epoch. Markers are means over seeds. "
            "Lines reach one standard deviation up and down, and end at 0 and 100 %."
        )
        figure = plots.by_class_size(methods, images.names, images.counts_C, ranks)
        pictures.append(Picture("accuracy by class size", style.render(figure), caption))
    if pictures:
        yield Heading("Accuracy by class size", 3)
        yield Pictures(pictures)
        yield from classes.accuracies(images)


def _pictured(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield every family in parts that fit into one figure, each part with plain SGD; then rows without a family."""
    alone = [family[0] for family in families(rows) if len(family) == 1]
    for family in families(rows):
        if len(family) == 1:
            continue
        if len(family) <= _MOST_METHODS:
            yield family
            continue
        plain = [row for row in family if row.link == "sgd"]
        others = [row for row in family if row.link != "sgd"]
        size = max(1, _MOST_METHODS - len(plain))
        for start in range(0, len(others), size):
            yield [*plain, *others[start : start + size]]
    for start in range(0, len(alone), _MOST_METHODS):
        yield alone[start : start + _MOST_METHODS]


def _curves(images: ImageSet) -> Iterator[Block]:
    groups = [images.rows] if len(images.rows) <= _MOST_METHODS else _pictured(images.rows)
    pictures = []
    for rows in groups:
        for field, name, label, log in _CURVES:
            methods = {row.name: _curves_of(row, field) for row in rows}
            figure = plots.curves(methods, label, log=log)
            if figure:
                caption = f"{_capital(label)} over epochs: {', '.join(methods)}."
                pictures.append(Picture(name, style.render(figure), caption))
    if pictures:
        yield Heading("Training curves", 3)
        yield Pictures(pictures)
        yield Text(
            "Thin lines are single seeds. Bold lines are the mean over finished runs. Dotted lines are runs that have "
            "not finished. Training losses include their class weights, so different losses can't be compared."
        )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _curves_of(row: Row, field: str) -> tuple[list[curves.Curve], list[curves.Curve]]:
    finished = [curves.read(run, field) for run in row.runs]
    unfinished = [curves.read(run, field) for run in row.unfinished]
    return [curve for curve in finished if curve], [curve for curve in unfinished if curve]


def not_comparable(images: Sequence[ImageSet]) -> Iterator[Block]:
    """Yield a warning if the runs are not all on the same images."""
    if len(images) > 1:
        yield Text(
            f"The runs are on {len(images)} different sets of images or classes. Each set has its own section below. "
            "Accuracies from different sections can't be compared.",
            warning=True,
        )


def count(images: Sequence[ImageSet]) -> int:
    """Return the number of finished runs."""
    return sum(run.finished for one in images for row in one.rows for run in all_runs(row))
