"""Cost of runs, in gradients and in time, beside their accuracy; from metrics.jsonl. Does not need JAX."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from saddle_jax.report import style, tables
from saddle_jax.report.page import Block, Heading, Picture, Pictures, Text
from saddle_jax.report.rows import ImageSet, Row
from saddle_jax.report.runs import Run, is_number

FIELD = "train/gradient_evaluations"  # mean per step since the previous record


def gradient_evaluations(run: Run, step: int) -> float:
    """Return the number of training-batch gradients that the run took up to `step`; NaN if its records do not tell."""
    total, before = 0.0, 0
    for record in run.metrics:
        if "train/loss" not in record or before >= step:
            continue
        if not is_number(record.get(FIELD)):
            return math.nan
        total += record[FIELD] * (min(record["step"], step) - before)
        before = record["step"]
    return total if before >= step else math.nan


def seconds(run: Run) -> float:
    """Return the seconds on the clock that training took, with evaluations and saves; NaN if its records do not tell.

    Compilation is not part of it. Steps without a speed, such as the first ones, count as the others do on average.
    """
    steps = spent = before = 0
    for record in run.metrics:
        if "train/loss" not in record:
            continue
        taken, before = record["step"] - before, record["step"]
        speed = record.get("images_per_second") or 0.0
        if is_number(speed) and speed > 0:
            steps += taken
            spent += taken * run.config["batch_size"] / speed
    return spent * before / steps if steps else math.nan


_UNITS = {"hours": 3600, "minutes": 60, "seconds": 1}


class Point(NamedTuple):
    """A method's cost, and its accuracies, one for each seed."""

    cost: float
    overall: Sequence[float]
    tail: Sequence[float]


def section(images: ImageSet) -> Iterator[Block]:
    """Yield pictures of accuracy over gradients and over time, if they tell the costs of two methods or more."""
    pictures = []
    for of_run in (_gradients, seconds):
        found = {row.name: _point(row, of_run) for row in images.rows if row.runs}
        points = {name: point for name, point in found.items() if not math.isnan(point.cost)}
        if len(points) > 1:
            label, size = "gradients of a training batch", 1
            if of_run is seconds:
                longest = max(point.cost for point in points.values())
                unit, size = next((unit, size) for unit, size in _UNITS.items() if longest >= 2 * size or size == 1)
                label = f"{unit} of training"
            points = {name: point._replace(cost=point.cost / size) for name, point in points.items()}
            caption = (
                f"Test accuracy over {label}, at the last epoch: {', '.join(points)}. Filled: overall. Open: tail."
            )
            pictures.append(Picture(f"accuracy over {label}", style.render(figure(points, label)), caption))
    if pictures:
        yield Heading("Cost and accuracy", 3)
        yield Pictures(pictures)
        yield Text(
            "Means over the seeds; lines reach one standard deviation up and down. The time includes evaluations and "
            "leaves out compilation. It depends on the machine and on what else it did."
        )


@style.styled
def figure(points: Mapping[str, Point], label: str) -> style.Figure:
    """Draw overall accuracy and that of the tail over the cost of each method; return the figure."""
    drawn, axes = style.new_figure(5, 3.6)
    for (name, point), (color, marker) in zip(points.items(), style.series(), strict=False):
        for title, values, fill in (("overall", point.overall, "full"), ("tail", point.tail, "none")):
            if np.isnan(values).any():
                continue
            look = {"color": color, "marker": marker, "fillstyle": fill, "linestyle": "", "elinewidth": 1}
            mean = np.array([np.mean(values)])
            error = style.interval(mean, np.std(values, ddof=1)) if len(values) > 1 else None
            named = f"{name} (n = {len(values)})" if fill == "full" else None
            line = axes.errorbar([point.cost], mean, error, label=named, **look)[0]
            style.name_points(line, [f"{name}, {title}: {tables.spread(values)} % for {point.cost:,.4g} {label}"])
    axes.set(xlabel=label, ylabel="test accuracy (%)", xlim=(0, 1.08 * max(point.cost for point in points.values())))
    axes.grid(axis="y")
    style.legend(drawn)
    return drawn


def _point(row: Row, of_run: Callable[[Run], float]) -> Point:
    reports = [run.results["last"] for run in row.runs]
    overall, tail = ([tables.accuracy(report, column) for report in reports] for column in ("overall", "tail"))
    return Point(float(np.mean([of_run(run) for run in row.runs])), overall, tail)


def _gradients(run: Run) -> float:
    return gradient_evaluations(run, run.results["last"]["step"])
