"""Figures of accuracies, training curves, and confusion matrices. The colors suit color-blind readers.

Does not need JAX. Nothing here uses pyplot, whose state belongs to the user of a notebook.
"""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from PIL import Image  # comes with matplotlib, which requires it

from saddle_jax.report import curves as curves_lib

_STYLES = (("#D55E00", "o"), ("#0072B2", "s"), ("#009E73", "^"), ("#CC79A7", "D"))  # Okabe and Ito, 2008
_STYLES += (("#E69F00", "v"), ("#56B4E9", "P"), ("#000000", "X"), ("#999999", "*"))
_LINES = ("-", "--", ":")
_HATCHES = ("", "//", "..", "xx")  # keep bars distinct in grayscale
_MOST_BARS = 20  # groups of bars on an axis
_LINE, _SHORT = 64, 26  # letters in a line over the figure; labels of at most `_SHORT` letters stand two in a row
_LINE_HEIGHT = 0.18  # inches
_MOST_LINES = 30  # classes up to which each is a marker on a line
_MOST_NAMES = 110  # along an axis
_LONGEST_NAME = 24  # characters


class Picture(Figure):
    """A figure that a notebook shows, also if pyplot has not been imported there."""

    def _repr_png_(self) -> bytes:
        return png(self)


def classes_figure(
    accuracy: Mapping[str, Sequence[Sequence[float | None]]],
    names: Sequence[str],
    counts_C: Sequence[int] | np.ndarray,
    *,
    title: str = "",
    rank_sizes: Sequence[int] = (),
) -> Figure:
    """Draw the accuracy of every class, from the largest to the rarest, above their sizes; return the figure.

    Up to 30 classes are markers on a line, with the spread over seeds. Of more classes, each is a small dot, and the
    line is the mean of neighboring classes.

    Args:
      accuracy: maps a name to one list of class accuracies in percent per seed; None for a class without test images.
      names: of the classes, from the largest to the rarest.
      counts_C: training images per class, likewise.
      title: title of the figure.
      rank_sizes: number of classes in head, mid, and tail, to mark them.
    """
    number, few = len(names), len(names) <= _MOST_LINES
    every = -(-number // _MOST_NAMES)
    shown = [n if len(n) <= _LONGEST_NAME else f"{n[: _LONGEST_NAME - 1]}…" for n in names[::every]]
    width = float(np.clip((0.3 if few else 0.12) * number, 7, 13))
    letter = 0.085 if few else 0.055  # inches
    upright = max(map(len, shown)) * letter < 0.9 * width / len(shown)
    height = 4.6 + (0 if upright else max(map(len, shown)) * letter)
    figure = Picture(figsize=(width, height), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    offsets = np.linspace(-0.1, 0.1, len(accuracy)) if len(accuracy) > 1 else [0.0]
    places = np.array_split(np.arange(number), min(_MOST_BARS, number))
    for (name, seeds), (colour, marker), offset in zip(accuracy.items(), itertools.cycle(_STYLES), offsets):
        values_SC = np.array(seeds, float)  # None becomes NaN
        mean_C = values_SC.mean(0)
        deviation_C = values_SC.std(0, ddof=1) if len(values_SC) > 1 else None
        spread = "" if deviation_C is None else f" (mean ± sd, n = {len(seeds)})" if few else f" (n = {len(seeds)})"
        style = {"color": colour, "marker": marker, "label": plain(f"{name}{spread}")}
        if few:
            top.errorbar(np.arange(number) + offset, mean_C, yerr=deviation_C, capsize=3, **style)
            continue
        top.plot(mean_C, color=colour, marker=".", markersize=3 if number > 200 else 5, linestyle="", alpha=0.4)
        means = [_mean(mean_C[place][~np.isnan(mean_C[place])]) for place in places]
        top.plot([place.mean() for place in places], means, **style)
    if rank_sizes:
        _mark_groups(top, rank_sizes)
    top.set(ylabel="test accuracy (%)", ylim=(-3, 104))
    top.set_title(plain(title), loc="left", pad=20 if rank_sizes else None)
    top.legend(frameon=False, loc="lower left")
    bars = bottom.bar(np.arange(number), counts_C, 0.6 if few else 1.0, color="0.7")
    if few:
        bottom.bar_label(bars, [f"{count:,}" for count in counts_C], fontsize=8 if number <= 20 else 6)
    bottom.set_yscale("log")
    bottom.set(ylabel="training\nimages", ylim=(0.7, 5 * max(counts_C)), xlim=(-0.6, number - 0.4))
    bottom.set_xticks(range(0, number, every), list(map(plain, shown)), rotation=0 if upright else 90)
    bottom.tick_params(axis="x", labelsize="medium" if few else 6.5)
    notes = [] if few else [f"lines: means of {round(number / len(places))} classes"]
    notes += [f"one in {every} is named"] if every > 1 else []
    bottom.set_xlabel("classes, from the largest to the rarest" + (f" ({'; '.join(notes)})" if notes else ""))
    for axes in (top, bottom):
        _finish(axes, grid="y")
    return figure


def class_bars(
    methods: Mapping[str, Sequence[Sequence[float | None]]], counts_C: Sequence[int], rank_sizes: Sequence[int]
) -> bytes:
    """Draw accuracy by class size as bars with mean and standard deviation over seeds; return the PNG.

    More than twenty classes are combined into twenty groups of similar size.

    Args:
      methods: maps a name to one list of class accuracies in percent per seed.
      counts_C: training images per class.
      rank_sizes: number of classes in head, mid, and tail.
    """
    counts = np.asarray(counts_C)
    order = np.argsort(-counts, kind="stable")
    places = np.array_split(order, min(_MOST_BARS, len(order)))
    figure, axes = new_figure(5.8, 3.8)
    width = 0.84 / len(methods)
    for number, ((name, seeds), (colour, _)) in enumerate(zip(methods.items(), itertools.cycle(_STYLES))):
        values_SP = np.array([[_mean(seed[c] for c in place) for place in places] for seed in seeds])
        deviation = values_SP.std(0, ddof=1) if len(values_SP) > 1 else None
        x = np.arange(len(places)) + (number - (len(methods) - 1) / 2) * width
        style = {"color": colour, "hatch": _HATCHES[number % 4], "edgecolor": "white", "linewidth": 0}
        axes.bar(x, values_SP.mean(0), width, label=f"{name} (n = {len(seeds)})", **style)
        if deviation is not None:
            axes.errorbar(x, values_SP.mean(0), deviation, fmt="none", ecolor="0.25", elinewidth=1, capsize=2)
    axes.set_xticks(range(len(places)), [_size(counts[place]) for place in places])
    if len(places) < len(order):
        axes.tick_params(axis="x", rotation=60)
    what = (
        "training images per class"
        if len(places) == len(order)
        else "training images per class (classes of similar size combined)"
    )
    axes.set(xlabel=what, ylabel="test accuracy (%)")
    axes.set_ylim(0, 105)
    if len(places) == len(order) and (order == np.arange(len(order))).all():  # the groups follow class indices
        _mark_groups(axes, rank_sizes)
    _finish(axes, grid="y")
    _legend(figure)
    return png(figure)


def _mark_groups(axes: Axes, rank_sizes: Sequence[int]) -> None:
    start = 0
    for name, size in zip(("head", "mid", "tail"), rank_sizes, strict=True):
        if start and size:
            axes.axvline(start - 0.5, color="0.7", linewidth=1, linestyle=":")
        if size:
            axes.text(start - 0.45, 1.0, name, transform=axes.get_xaxis_transform(), color="0.4", va="bottom")
        start += size


def curves(
    methods: Mapping[str, tuple[Sequence[curves_lib.Curve], Sequence[curves_lib.Curve]]], ylabel: str, *, log: bool
) -> bytes | None:
    """Draw thin lines for seeds and a bold mean per method; return the PNG, or None if no curve has two points.

    Args:
      methods: maps a name to the curves of finished runs, which enter the mean, and those of unfinished runs, which are
        dotted.
      ylabel: label of the vertical axis.
      log: use a logarithmic axis if all values are above 0.
    """
    values = [value for pair in methods.values() for part in pair for curve in part for value in curve.values()]
    if max((len(curve) for pair in methods.values() for part in pair for curve in part), default=0) < 2:
        return None
    figure, axes = new_figure(5, 3.7)
    styles = zip(itertools.cycle(_STYLES), itertools.cycle(np.repeat(_LINES, len(_STYLES))))
    for (name, (finished, unfinished)), ((colour, marker), line) in zip(methods.items(), styles, strict=False):
        average = curves_lib.mean(finished)
        marker = marker if max(map(len, (*finished, *unfinished)), default=0) <= 20 else ""
        for curve in finished:
            axes.plot(curve.keys(), curve.values(), color=colour, linewidth=0.8, alpha=0.35)
        for curve in unfinished:
            axes.plot(curve.keys(), curve.values(), color=colour, linewidth=1, linestyle=":")
        label = f"{name} ({len(finished)} finished)" if unfinished else f"{name} (n = {len(finished)})"
        axes.plot(
            average.keys(), average.values(), color=colour, linestyle=line, marker=marker, markersize=4, label=label
        )
    if log and min(values) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.set_xlim(left=0)
    _finish(axes, grid="both")
    _legend(figure)
    return png(figure)


def head_against_tail(points: Sequence[Mapping[str, float]], chosen: float | None, title: str) -> bytes:
    """Draw the accuracy of the tail over that of the head as an adjustment grows stronger; return the PNG.

    Args:
      points: {"tau", "head", "tail"} with accuracies in percent, in the order of tau.
      chosen: the tau to mark.
      title: title of the figure.
    """
    figure, axes = new_figure(4.8, 4.2)
    colour, marker = _STYLES[1]
    axes.plot([p["head"] for p in points], [p["tail"] for p in points], color=colour, marker=marker, markersize=4)
    labels: dict[tuple[float, float], list[str]] = {}
    for point in points:
        if point["tau"] % 0.5 == 0:  # every fifth, so that labels stay apart
            labels.setdefault((point["head"], point["tail"]), []).append(f"{point['tau']:g}")
        if point["tau"] == chosen:
            style = {"color": _STYLES[0][0], "marker": "o", "markersize": 10, "fillstyle": "none", "linestyle": ""}
            axes.plot(point["head"], point["tail"], label=f"chosen: tau = {chosen:g}", **style)
    for place, taus in labels.items():
        axes.annotate(", ".join(taus), place, (5, 5), textcoords="offset points", fontsize="small")
    axes.set(xlabel="accuracy of the head (%)", ylabel="accuracy of the tail (%)")
    axes.set_title(plain(f"{title} (numbers: tau)"), fontsize="medium", loc="left")
    if chosen is not None:
        axes.legend(frameon=False)
    _finish(axes, grid="both")
    return png(figure)


def confusion(percents: np.ndarray, counts_C: Sequence[int], title: str) -> bytes:
    """Draw a confusion matrix; return the PNG.

    Args:
      percents: percentages for each true class (row). Classes are sorted from most to fewest training images and may
        be combined.
      counts_C: training images per class, in any order.
      title: title of the figure.
    """
    title = textwrap.fill(title, 54)
    figure, axes = new_figure(4.8, 4.2 + _LINE_HEIGHT * title.count("\n"))
    end = len(counts_C)
    norm = PowerNorm(0.5, 0, 100)  # makes rare mistakes visible next to the diagonal
    image = axes.imshow(percents, cmap="Blues", norm=norm, interpolation="nearest", extent=(0, end, end, 0))
    if end <= 12:
        for (row, column), value in np.ndenumerate(percents):
            if value >= 0.5:
                colour = "white" if value > 35 else "black"
                axes.text(column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        sizes = [f"{count:,}" for count in sorted(counts_C, reverse=True)]
        axes.set_xticks(np.arange(end) + 0.5, sizes, fontsize="small")
        axes.set_yticks(np.arange(end) + 0.5, sizes, fontsize="small")
        axes.set(xlabel="predicted class (its training images)", ylabel="true class (its training images)")
    else:
        axes.set(xlabel="predicted class, sorted from largest", ylabel="true class, sorted from largest")
    axes.set_title(plain(title), fontsize="medium", loc="left")
    figure.colorbar(image, shrink=0.8, label="% of the true class's images")
    return png(figure)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of a size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def _size(counts: np.ndarray) -> str:
    low, high = counts.min(), counts.max()
    return f"{high:,}" if low == high else f"{high:,}-{low:,}"


def _legend(figure: Figure) -> None:
    """Add a legend above the axes. The figure grows with it, so that the axes keep their size."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns, size = (2, "medium") if max(map(len, labels)) <= _SHORT else (1, "small")
    lines = [textwrap.fill(label, _LINE) for label in labels]
    height = _LINE_HEIGHT * sum(1 + label.count("\n") for label in lines) / columns
    figure.set_figheight(figure.get_figheight() + max(0.0, height - 3 * _LINE_HEIGHT))  # three lines fit as it is
    figure.legend(handles, map(plain, lines), frameon=False, loc="outside upper left", ncols=columns, fontsize=size)


def _finish(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain(text: str) -> str:
    """Return the text escaped so that matplotlib does not render it as math."""
    return text.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG with few colors, since a page may hold hundreds of figures."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=130, facecolor="white")
    Image.open(drawn).convert("RGB").quantize(64).save(small, format="png", optimize=True)
    return small.getvalue()
