"""Figures of accuracies, training curves, and confusion matrices. Does not need JAX."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure

from saddle_jax.longtail import RANK_GROUPS
from saddle_jax.report import curves as curves_lib
from saddle_jax.report import style, tables
from saddle_jax.report.style import INK, LINE, SERIES, SOFT, plain

_MOST_PLACES = 20  # groups of classes on an axis
_MOST_MARKERS = 30  # up to this many classes, each has a marker and an interval
_MOST_NAMES = 110  # along an axis
_LONGEST_NAME = 24  # characters
_MOST_CELLS = 12  # up to this many classes, a confusion matrix has numbers and names
_DARK_CELL = 75  # percent from which a cell is so blue that white is easier to read on it than ink
_SHORT_NAME = 14  # names of up to this many letters are written under an axis and at the ends of lines
# From nothing to blue, so that a matrix lies on the page's own color, light or dark.
_BLUES = LinearSegmentedColormap.from_list("blues", [(0, 0.447, 0.698, 0), (0, 0.447, 0.698, 1)])


class Picture(Figure):
    """A figure that a notebook shows even if pyplot has not been imported there."""

    def _repr_png_(self) -> bytes:
        return style.png(self)


@style.styled
def classes_figure(
    accuracy: Mapping[str, Sequence[Sequence[float | None]]],
    names: Sequence[str],
    counts_C: Sequence[int] | np.ndarray,
    *,
    title: str = "",
    rank_sizes: Sequence[int] = (),
) -> Figure:
    """Draw the accuracy of every class, from the largest to the rarest, above their sizes; return the figure.

    Up to 30 classes are markers with the spread over seeds. Of more classes, each is a small dot, and a dash is the
    mean of neighboring classes.

    Args:
      accuracy: maps a name to one list of class accuracies in percent per seed; None for a class without test images.
      names: of the classes, from the largest to the rarest.
      counts_C: training images per class, likewise.
      title: title of the figure.
      rank_sizes: number of classes in head, mid, and tail, to mark them.
    """
    number, few = len(names), len(names) <= _MOST_MARKERS
    every = -(-number // _MOST_NAMES)
    shown = [_fitted(name) for name in names[::every]]
    width = float(np.clip((0.3 if few else 0.12) * number, 7, 13))
    letter = 0.085 if few else 0.055  # inches
    upright = max(map(len, shown)) * letter < 0.9 * width / len(shown)
    height = 4.6 + (0 if upright else max(map(len, shown)) * letter)
    figure = Picture(figsize=(width, height), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    offsets = np.linspace(-0.12, 0.12, len(accuracy)) if len(accuracy) > 1 else [0.0]
    places = np.array_split(np.arange(number), min(_MOST_PLACES, number))
    for (name, seeds), (color, marker), offset in zip(accuracy.items(), style.series(), offsets, strict=False):
        values_SC = np.array(seeds, float)  # None becomes NaN
        mean_C = values_SC.mean(0)
        spread = " (mean ± sd, n = {})" if few and len(seeds) > 1 else " (n = {})" if len(seeds) > 1 else ""
        look = {"color": color, "marker": marker, "label": plain(name + spread.format(len(seeds))), "linestyle": ""}
        if few:
            error = style.interval(mean_C, values_SC.std(0, ddof=1)) if len(seeds) > 1 else None
            top.errorbar(np.arange(number) + offset, mean_C, yerr=error, capsize=3, elinewidth=1.2, **look)
            continue
        top.plot(mean_C, color=color, marker=".", markersize=3 if number > 200 else 5, linestyle="", alpha=0.4)
        means = [_mean(mean_C[place][~np.isnan(mean_C[place])]) for place in places]
        middles = [place.mean() for place in places]
        top.errorbar(middles, means, xerr=0.45 * number / len(places), elinewidth=1.6, **look)
    if rank_sizes:
        _mark_groups(top, rank_sizes)
    top.set(ylabel="test accuracy (%)", ylim=(-3, 104))
    top.set_title(plain(title), pad=20 if rank_sizes else None)
    top.legend(loc="lower left")
    bars = bottom.bar(np.arange(number), counts_C, 0.6 if few else 1.0, color=LINE)
    if few:
        bottom.bar_label(bars, [f"{count:,}" for count in counts_C], fontsize=8 if number <= 20 else 6)
    bottom.set_yscale("log")
    bottom.set(ylabel="training\nimages", ylim=(0.7, 5 * max(counts_C)), xlim=(-0.6, number - 0.4))
    bottom.set_xticks(range(0, number, every), list(map(plain, shown)), rotation=0 if upright else 90)
    bottom.tick_params(axis="x", labelsize="medium" if few else 6.5)
    notes = [] if few else [f"dashes: means of {round(number / len(places))} classes"]
    notes += [f"one in {every} is named"] if every > 1 else []
    bottom.set_xlabel("classes, from the largest to the rarest" + (f" ({'; '.join(notes)})" if notes else ""))
    for axes in (top, bottom):
        axes.grid(axis="y")
    return figure


@style.styled
def by_class_size(
    methods: Mapping[str, Sequence[Sequence[float | None]]],
    names: Sequence[str],
    counts_C: Sequence[int],
    rank_sizes: Sequence[int],
) -> Figure:
    """Draw accuracy by class size as means with standard deviations over seeds; return the figure.

    More than twenty classes are combined into twenty groups of similar size.

    Args:
      methods: maps a name to one list of class accuracies in percent per seed.
      names: of the classes.
      counts_C: training images per class, from most to fewest.
      rank_sizes: number of classes in head, mid, and tail.
    """
    counts, number = np.asarray(counts_C), len(counts_C)
    places = np.array_split(np.arange(number), min(_MOST_PLACES, number))
    single = len(places) == number
    sizes = [_size(counts[place]) for place in places]
    named = [
        f"{names[place[0]] if single else f'{len(place)} classes'} ({size} training images)"
        for place, size in zip(places, sizes, strict=True)
    ]
    figure, axes = style.new_figure(5, 3.6)
    offsets = np.linspace(-0.3, 0.3, len(methods)) if len(methods) > 1 else [0.0]
    for (name, seeds), (color, marker), offset in zip(methods.items(), style.series(), offsets, strict=False):
        values_SP = np.array([[_mean(seed[c] for c in place) for place in places] for seed in seeds])
        means = values_SP.mean(0)
        error = style.interval(means, values_SP.std(0, ddof=1)) if len(seeds) > 1 else None
        look = {"color": color, "marker": marker, "label": f"{name} (n = {len(seeds)})", "linestyle": ""}
        line = axes.errorbar(np.arange(len(places)) + offset, means, error, elinewidth=1, markersize=4, **look)[0]
        known = [at for at in range(len(places)) if np.isfinite(means[at])]
        style.name_points(line, [f"{name}, {named[at]}: {tables.spread(values_SP[:, at])} %" for at in known])
    what = "training images per class" if single else "training images per class (classes of similar size combined)"
    if single and max(map(len, names)) <= _SHORT_NAME:
        sizes = [f"{plain(name)}\n{size}" for name, size in zip(names, sizes, strict=True)]
        what = "class, and its number of training images"
    axes.set_xticks(range(len(places)), sizes, fontsize="small")
    if not single or max(len(line) for size in sizes for line in size.split("\n")) * len(places) > style.LETTERS:
        axes.tick_params(axis="x", rotation=60)
    for place in range(1, len(places)):
        axes.axvline(place - 0.5, color=LINE, linewidth=0.5)
    axes.set(xlabel=what, ylabel="test accuracy (%)", ylim=(-2, 102), xlim=(-0.5, len(places) - 0.5))
    if single:
        _mark_groups(axes, rank_sizes)
    axes.grid(axis="y")
    style.legend(figure)
    return figure


def _mark_groups(axes: Axes, rank_sizes: Sequence[int]) -> None:
    start = 0
    for name, size in zip(RANK_GROUPS, rank_sizes, strict=True):
        if start and size:
            axes.axvline(start - 0.5, color=SOFT, linewidth=1, linestyle=":")
        if size:
            axes.text(start - 0.45, 1.0, name, transform=axes.get_xaxis_transform(), color=SOFT, va="bottom")
        start += size


@style.styled
def curves(
    methods: Mapping[str, tuple[Sequence[curves_lib.Curve], Sequence[curves_lib.Curve]]], ylabel: str, *, log: bool
) -> Figure | None:
    """Draw thin lines for seeds and a bold mean per method; return the figure, or None if no curve has two points.

    Short names stand beside the ends of the lines.

    Args:
      methods: maps a name to the curves of finished runs, which enter the mean, and those of unfinished runs, which are
        dotted.
      ylabel: label of the vertical axis.
      log: use a logarithmic axis if all values are above 0.
    """
    values = [value for pair in methods.values() for part in pair for curve in part for value in curve.values()]
    if max((len(curve) for pair in methods.values() for part in pair for curve in part), default=0) < 2:
        return None
    figure, axes = style.new_figure(5, 3.6)
    ends = []
    lines = itertools.cycle(np.repeat(style.LINES, len(SERIES)))
    for (name, (finished, unfinished)), (color, marker), line in zip(
        methods.items(), style.series(), lines, strict=False
    ):
        average = curves_lib.mean(finished)
        marker = marker if max(map(len, (*finished, *unfinished)), default=0) <= 20 else ""
        for curve in finished:
            axes.plot(curve.keys(), curve.values(), color=color, linewidth=0.7, alpha=0.35)
        for curve in unfinished:
            axes.plot(curve.keys(), curve.values(), color=color, linewidth=1, linestyle=":")
        label = f"{name} ({len(finished)} finished)" if unfinished else f"{name} (n = {len(finished)})"
        look = {"color": color, "linestyle": line, "marker": marker, "markersize": 4, "label": label}
        axes.plot(average.keys(), average.values(), **look)
        longest = average or max((*finished, *unfinished), key=len, default={})
        if longest:
            ends.append((*list(longest.items())[-1], name, color))
    if log and min(values) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.set_xlim(left=0, right=max(x for x, *_ in ends))
    axes.grid()
    if max(map(len, methods)) <= _SHORT_NAME:
        style.label_ends(axes, ends)
    else:
        style.legend(figure)
    return figure


@style.styled
def head_against_tail(points: Sequence[Mapping[str, float]], chosen: float | None, title: str) -> Figure:
    """Draw the accuracy of the tail over that of the head as an adjustment grows stronger; return the figure.

    Args:
      points: {"tau", "head", "tail"} with accuracies in percent, in the order of tau.
      chosen: the tau to mark.
      title: title of the figure.
    """
    figure, axes = style.new_figure(4.8, 4.2)
    axes.plot([p["head"] for p in points], [p["tail"] for p in points], color=SERIES[1], marker="s", markersize=4)
    labels: dict[tuple[float, float], list[str]] = {}
    for point in points:
        if point["tau"] % 0.5 == 0:  # every fifth, so that labels stay apart
            labels.setdefault((point["head"], point["tail"]), []).append(f"{point['tau']:g}")
        if point["tau"] == chosen:
            look = {"color": SERIES[0], "marker": "o", "markersize": 10, "fillstyle": "none", "linestyle": ""}
            axes.plot(point["head"], point["tail"], label=f"chosen: tau = {chosen:g}", **look)
    for place, taus in labels.items():
        axes.annotate(", ".join(taus), place, (5, 5), textcoords="offset points", fontsize="small")
    axes.set(xlabel="accuracy of the head (%)", ylabel="accuracy of the tail (%)")
    axes.set_title(plain(f"{title} (numbers: tau)"))
    if chosen is not None:
        axes.legend()
    axes.grid()
    return figure


@style.styled
def confusion(percents: np.ndarray, names: Sequence[str], counts_C: Sequence[int], title: str) -> Figure:
    """Draw a confusion matrix; return the figure.

    Args:
      percents: percentages for each true class (row). Classes are sorted from most to fewest training images and may
        be combined.
      names: of the classes, from most to fewest training images.
      counts_C: training images per class, likewise.
      title: title of the figure.
    """
    title = textwrap.fill(title, 54)
    figure, axes = style.new_figure(5, 4.4 + style.LINE_HEIGHT * title.count("\n"))
    end = len(counts_C)
    norm = PowerNorm(0.5, 0, 100)  # makes rare mistakes visible next to the diagonal
    image = axes.imshow(percents, cmap=_BLUES, norm=norm, interpolation="nearest", extent=(0, end, end, 0))
    if end <= _MOST_CELLS:
        for (row, column), value in np.ndenumerate(percents):
            if value >= 0.5:
                color = style.WHITE if value > _DARK_CELL else INK
                axes.text(column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=8, color=color)
        shown = [plain(_fitted(name)) for name in names]
        upright = max(map(len, shown)) <= 3
        axes.set_xticks(np.arange(end) + 0.5, shown, fontsize="small", rotation=0 if upright else 60)
        rows = [f"{name} ({count:,})" for name, count in zip(shown, counts_C, strict=True)]
        axes.set_yticks(np.arange(end) + 0.5, rows, fontsize="small")
        axes.set(xlabel="predicted class", ylabel="true class (its training images)")
    else:
        axes.set(xlabel="predicted class, sorted from largest", ylabel="true class, sorted from largest")
        bar = figure.colorbar(image, shrink=0.8, label="% of the true class's images")
        if bar.solids is not None:
            bar.solids.set_rasterized(True)
    axes.set_title(plain(title))
    return figure


def _fitted(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def _size(counts: np.ndarray) -> str:
    low, high = counts.min(), counts.max()
    return f"{high:,}" if low == high else f"{high:,}-{low:,}"
