"""The report on one set of images: accuracies, differences between links, classes, curves, confusion. Needs no JAX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from saddle_jax.report import confusion, cost, curves, plots, tables
from saddle_jax.report.page import Block, Heading, Pictures, Table, Text
from saddle_jax.report.provenance import together
from saddle_jax.report.rows import ImageSet, Row, all_runs, families, pairs, same_seeds
from saddle_jax.report.runs import chosen_by

_MOST_METHODS = 6  # in one picture
_CURVES = (
    ("train/loss", "training loss", True),
    ("eval/test/accuracy", "test accuracy (%)", False),
    ("eval/test/tail", "test accuracy of the tail (%)", False),
)


def lines_of(images: ImageSet) -> list[tables.Line]:
    """Return the table's lines: each row with a finished run, at its last and at its best epoch."""
    lines = []
    for row in images.rows:
        if not row.runs:
            continue
        for which in ("last", "best"):
            reports = [run.results[which] for run in row.runs]
            splits = " or ".join(sorted({chosen_by(report) for report in reports}))
            epoch = "last" if which == "last" else f"best on {splits}"
            gradients = [cost.gradient_evaluations(run, run.results[which]["step"]) for run in row.runs]
            lines.append(tables.Line(images.title, row.name, epoch, reports, gradients))
    return lines


def section(images: ImageSet) -> Iterator[Block]:
    """Yield everything about a set of images but its spectra and configs."""
    yield from _accuracy(images)
    if not any(row.runs for row in images.rows):
        yield Text("No run on these images has finished: there is no accuracy to report yet.", warning=True)
    yield from _what_links_changed(images)
    yield from _class_bars(images)
    yield from _curves(images)
    yield from _confusion(images)


def _accuracy(images: ImageSet) -> Iterator[Block]:
    lines = lines_of(images)
    if not lines:
        return
    columns = tables.BOTH_GROUPINGS
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
            row.append(tables.spread([tables.accuracy(report, column) for report in line.reports]))
        if tells_cost:
            row.append("" if np.isnan(gradients) else f"{gradients:,.0f}")
        row.append(tables.seeds(len(line.reports)))
        cells.append(row)
    yield Heading("Test accuracy", 3)
    yield Table(header, cells, (0, 1))
    yield Text(
        "Percent; mean ± sample standard deviation over n seeds; where n is 1 there is no spread to give. A group's "
        "accuracy is the mean over its classes, whose number is in parentheses. head, mid, tail go by the rank of the "
        "class; many, medium, few by its training images: more than 100, 20 to 100, fewer than 20."
    )
    if tells_cost:
        yield Text(
            "gradients: evaluations of a whole batch's gradient that a run had made by that epoch; mean over seeds."
        )
    if any(line.epoch.endswith("test") for line in lines if line.epoch != "last"):
        yield Text(
            "“best on test” is the epoch with the highest accuracy on the test images themselves: it flatters. "
            "config.data.validation_fraction chooses it on held-out training images."
        )


def _what_links_changed(images: ImageSet) -> Iterator[Block]:
    cells, links = [], set()
    for first, second in pairs(images.rows):
        both = same_seeds(first, second)
        if not both:
            continue
        name = f"{second.name} − {first.name}"
        for which in ("last", "best"):
            reports = [[run.results[which] for run in runs] for runs in zip(*both, strict=True)]
            values = [_difference(reports[0], reports[1], column) for column in tables.BOTH_GROUPINGS]
            cells.append([name, which, *values, tables.seeds(len(both))])
            links.add(second.link)
    if not cells:
        return
    only_sam = links == {"sam"}
    yield Heading(f"What {'SAM' if only_sam else 'each link'} changed, seed by seed", 3)
    yield Table(["SAM − SGD" if only_sam else "link − SGD", "epoch", *tables.BOTH_GROUPINGS, "n"], cells, (0, 1))
    link = "SAM" if only_sam else "the link (optim.name), which gradients pass before weight decay and momentum"
    yield Text(
        "Points of accuracy; mean ± sample standard deviation of the differences over n pairs of runs that have the "
        f"same seeds and configs but for {link}; below them in how many it went up and down. The mean's standard "
        "error is the deviation over √n. SGD takes one gradient a step, SAM two."
    )


def _difference(first: Sequence[Mapping], second: Sequence[Mapping], column: str) -> str:
    differences = tables.paired_difference(first, second, column)[0]
    if np.isnan(differences).any():
        return "n/a"
    spread = f" ± {differences.std(ddof=1):.1f}" if len(differences) > 1 else ""
    return f"{differences.mean():+.1f}{spread}\n{(differences > 0).sum()}↑ {(differences < 0).sum()}↓"


def _class_bars(images: ImageSet) -> Iterator[Block]:
    ranks = [images.group_sizes[name] for name in confusion.GROUPS]
    pictures = []
    for family in _pictured([row for row in images.rows if row.runs]):
        methods = {row.name: [run.results["last"]["class_accuracy"] for run in row.runs] for row in family}
        caption = f"{' beside '.join(methods)}: accuracy by class size at the last epoch, mean and sd over seeds"
        pictures.append((plots.class_bars(methods, images.counts_C, ranks), caption))
    if pictures:
        yield Heading("Accuracy by class size", 3)
        yield Pictures(pictures)


def _pictured(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield every family in parts that fit into a picture, with plain SGD in each."""
    for family in families(rows):
        if len(family) <= _MOST_METHODS:
            yield family
            continue
        plain = [row for row in family if row.link == "sgd"]
        others = [row for row in family if row.link != "sgd"]
        size = _MOST_METHODS - len(plain)
        for start in range(0, len(others), size):
            yield [*plain, *others[start : start + size]]


def _curves(images: ImageSet) -> Iterator[Block]:
    groups = [images.rows] if len(images.rows) <= _MOST_METHODS else _pictured(images.rows)
    pictures = []
    for rows in groups:
        for field, label, log in _CURVES:
            methods = {row.name: _curves_of(row, field) for row in rows}
            picture = plots.curves(methods, label, log=log)
            if picture:
                pictures.append((picture, f"{label} over epochs: {', '.join(methods)}"))
    if pictures:
        yield Heading("Along training", 3)
        yield Pictures(pictures)
        yield Text(
            "Thin: a seed; bold: the mean of the finished ones; dotted: a run that has not finished. Losses are as "
            "they were minimised, with their class weights: those of different names can't be compared."
        )


def _curves_of(row: Row, field: str) -> tuple[list[curves.Curve], list[curves.Curve]]:
    finished = [curves.read(run, field) for run in row.runs]
    unfinished = [curves.read(run, field) for run in row.unfinished]
    return [curve for curve in finished if curve], [curve for curve in unfinished if curve]


def _confusion(images: ImageSet) -> Iterator[Block]:
    cells, pictures, missing = [], [], []
    for row in images.rows:
        shares, total = [], 0.0
        for run in row.runs:
            parts_CC = confusion.read(run)  # gigabytes for thousands of classes: one at a time
            if parts_CC is None:
                missing.append(run.folder)
                continue
            shares.append(confusion.by_group(parts_CC, images.group_sizes))
            total = total + parts_CC
        if not shares:
            continue
        for number, group in enumerate(confusion.GROUPS):
            values = [tables.spread([share[number, column] for share in shares]) for column in range(4)]
            cells.append([row.name, group, *values, tables.seeds(len(shares))])
        percents = confusion.by_size(total / len(shares), images.counts_C)
        caption = f"{row.name}: confusion at the last epoch, n = {tables.seeds(len(shares))}"
        pictures.append((plots.confusion(percents, images.counts_C, row.name), caption))
    if not cells:
        return
    yield Heading("Confusion of head and tail", 3)
    wrong = [f"wrong: a {group} class" for group in confusion.GROUPS]
    yield Table(["method", "true class", "right", *wrong, "n"], cells, (0, 1))
    yield Text("Percent of the images of head, mid and tail, each class weighing alike; mean ± sd over n seeds.")
    yield Pictures(pictures)
    if missing:
        yield Text(f"Without a readable confusion matrix of the last step: {together(missing)}.", warning=True)


def not_comparable(images: Sequence[ImageSet]) -> Iterator[Block]:
    """Yield a warning if the runs are not all on the same images."""
    if len(images) > 1:
        yield Text(
            f"The runs are on {len(images)} different sets of images or classes. Each has a part of its own below; "
            "accuracies can't be compared from one to another.",
            warning=True,
        )


def count(images: Sequence[ImageSet]) -> int:
    """Return the number of finished runs."""
    return sum(run.finished for one in images for row in one.rows for run in all_runs(row))
