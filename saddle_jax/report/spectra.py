"""Figures of measured spectra, drawn from the files in spectra/<step>/. Does not need JAX."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saddle_jax.errors import DataError
from saddle_jax.report import slices, style
from saddle_jax.report.style import INK, LINE, MARKERS, SERIES, plain
from saddle_jax.spectra import results

SMALLEST, LARGEST = SERIES[:2]
_FLOOR = 1e-7  # lowest density drawn, as in the reference
_FEWEST_FRAMES, _MOST_ROWS, _SECONDS = 3, 4, 0.6  # of an animation: steps, targets, and how long a step is shown


class _Limits(NamedTuple):
    """Limits of a density's axes: the ends of the eigenvalues, where they turn from linear to logarithmic, the top."""

    low: float
    high: float
    threshold: float
    top: float


def draw_folder(folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw every target's density and slice, and all densities in one figure; return the paths of the PNGs.

    Every figure is saved as PNG, PDF, and SVG.
    """
    stored_folder = results.read_summary(folder)
    targets, conditions = stored_folder["targets"], results.conditions(stored_folder["settings"])
    drawn = []
    for name in targets:
        stored = load(folder, name)
        figure, axes = style.new_figure(6.5, 4)
        _density(axes, stored, _limits([stored]))
        style.note(figure, f"Step {stored_folder['step']:,}; {conditions}.")
        drawn.append(style.save(figure, folder / name))
        if "escape_places" in stored:
            drawn.append(style.save(slices.along_v(stored), folder / f"{name}-slice"))
        if "landscape_losses" in stored:
            drawn.append(style.save(slices.landscape(stored), folder / f"{name}-landscape"))
    if len(targets) > 1:
        columns = math.ceil(math.sqrt(len(targets)))
        rows = [list(targets)[i : i + columns] for i in range(0, len(targets), columns)]
        cells = [[load(folder, name) for name in row] for row in rows]
        figure = _grid(cells)
        style.note(figure, f"Step {stored_folder['step']:,}; {conditions}.")
        drawn.append(style.save(figure, folder / "all"))
    return drawn


def draw_comparison(folders: Mapping[str, pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Save the figure of `comparison` at a path without its extension; return the PNG's path."""
    figure = comparison(folders)
    out.parent.mkdir(parents=True, exist_ok=True)
    return style.save(figure, out)


def comparison(folders: Mapping[str, pathlib.Path]) -> Figure:
    """Draw the densities of several runs side by side, one row per target that all runs have; return the figure.

    Args:
      folders: maps the name of a run to the folder of its spectra.

    Raises:
      DataError: the runs have no target in common, or a file can't be read.
    """
    summaries = {name: results.read_summary(folder) for name, folder in folders.items()}
    targets = [summary["targets"] for summary in summaries.values()]
    common = [target for target in targets[0] if all(target in other for other in targets[1:])]
    if not common:
        found = "; ".join(f"{name}: {', '.join(t) or 'none'}" for name, t in zip(folders, targets, strict=True))
        raise DataError(f"--compare: the runs have no class in common ({found}). Fix: measure the same classes")
    cells = [[load(folder, target) for folder in folders.values()] for target in common]
    figure = _grid(cells, [plain(f"{name}, step {summary['step']:,}") for name, summary in summaries.items()])
    conditions = {name: results.conditions(summary["settings"]) for name, summary in summaries.items()}
    if len(set(conditions.values())) == 1:
        style.note(figure, f"{next(iter(conditions.values()))}.")
    else:  # the user may compare different losses, but the caption says so
        style.note(figure, "\n".join(f"{name}: {what}" for name, what in conditions.items()))
    return figure


def densities(folders: Mapping[str, pathlib.Path], target: str) -> dict[str, Figure]:
    """Draw one target's density in each run, all with the same eigenvalue axis; return {name: figure}.

    Raises:
      DataError: a file can't be read.
    """
    stored = {name: load(folder, target) for name, folder in folders.items()}
    limits, pictures = _limits(list(stored.values())), {}
    for name, spectrum in stored.items():
        figure, axes = style.new_figure(5, 3.6)
        _density(axes, spectrum, limits)
        pictures[name] = figure
    return pictures


def draw_ratio(workdir: pathlib.Path) -> pathlib.Path | None:
    """Draw |λmin/λmax| of every target over epochs; return the PNG's path, or None for fewer than two steps."""
    figure = ratios({"How far each loss is from convex": workdir})
    if figure is None:
        return None
    style.note(figure, f"{results.conditions(alike_summaries(workdir)[-1]['settings'])}.")
    return style.save(figure, workdir / "spectra" / "ratio")


@style.styled
def ratios(
    runs: Mapping[str, pathlib.Path], size: tuple[float, float] = (7, 4), top: float | None = None
) -> Figure | None:
    """Draw |λmin/λmax| of every target over epochs, with the runs side by side; return the figure.

    Steps that were measured with another loss, logit scale, BatchNorm mode, or dtype than a run's last step are left
    out. So are runs with fewer than two steps left. It returns None if no run is left.

    Args:
      runs: maps the title of a run to its directory.
      size: of a run's part of the figure, in inches. Many targets make it higher.
      top: where the vertical axis ends; None is above the largest ratio.

    Raises:
      DataError: a file can't be read.
    """
    found = {name: alike_summaries(run) for name, run in runs.items()}
    found = {name: summaries for name, summaries in found.items() if len(summaries) > 1}
    if not found:
        return None
    targets = list(dict.fromkeys(t for summaries in found.values() for s in summaries for t in s["targets"]))
    height = max(size[1], 0.2 * len(targets) + 1)
    figure = Figure(figsize=(size[0] * len(found), height), layout="constrained")
    grid = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    ends = []
    for axes, (name, summaries) in zip(grid, found.items(), strict=True):
        ends.append(_ratio_lines(axes, summaries, targets))
        axes.set(xlabel="epoch", title=plain(name))
    grid[0].set_ylabel("|λmin / λmax|")
    grid[0].set_ylim(bottom=0, top=top)
    for axes, ends_of_run in zip(grid, ends, strict=True):  # when the axes have their limits
        style.label_ends(axes, ends_of_run)
    return figure


def _ratio_lines(
    axes: Axes, summaries: Sequence[Mapping[str, Any]], targets: Sequence[str]
) -> list[tuple[float, float, str, str]]:
    """Draw a line for each target, colored by its place in `targets`; return each line's end, name, and color."""
    ends = []
    for place, name in enumerate(targets):
        points = [(s["epoch"], s["targets"][name]) for s in summaries if name in s["targets"]]
        if not points:
            continue
        color = SERIES[place % len(SERIES)]
        epochs, values = [epoch for epoch, _ in points], np.array([t["ratio"] for _, t in points], float)
        (line,) = axes.plot(epochs, values, color=color, marker=MARKERS[place % len(MARKERS)], clip_on=False)
        label = f"{points[-1][1]['title']}, {points[-1][1]['images']:,} images"
        known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if np.isfinite(value)]
        style.name_points(line, [f"{label}: {value:.2g} at epoch {epoch:g}" for epoch, value in known])
        ends.append((epochs[-1], values[-1] if np.isfinite(values[-1]) else 0.0, label, color))
    axes.set_xlim(right=max(x for x, *_ in ends))
    axes.grid()
    return ends


def draw_animation(runs: Mapping[str, pathlib.Path], out: pathlib.Path) -> pathlib.Path | None:
    """Animate the densities along training; return the GIF's path, or None if there are fewer than three steps.

    Each run is a column and each target a row; of more than four targets, four from the largest to the rarest are
    shown. Only steps and targets that all runs have are shown, on axes that stay the same.

    Args:
      runs: maps the name of a run to its directory.
      out: path of the GIF without its extension.

    Raises:
      DataError: a file can't be read.
    """
    summaries = [{one["step"]: one for one in alike_summaries(run)} for run in runs.values()]
    steps = sorted(set.intersection(*map(set, summaries)))
    found = [[summary[step]["targets"] for summary in summaries] for step in steps]
    names = [name for name in (found[-1][0] if found else ()) if all(name in one for row in found for one in row)]
    if len(steps) < _FEWEST_FRAMES or not names:
        return None
    names.sort(key=lambda name: -found[-1][0][name]["images"])
    shown = [names[place] for place in np.unique(np.linspace(0, len(names) - 1, _MOST_ROWS).round().astype(int))]
    cells = [
        [[load(run / "spectra" / str(step), name) for run in runs.values()] for name in shown] for step in steps
    ]  # [step][target][run]
    limits = [_limits([one for row in rows for one in row]) for rows in zip(*cells, strict=True)]
    frames = []
    for step, rows in zip(steps, cells, strict=True):
        epoch = summaries[0][step]["epoch"]
        frames.append(
            style.png(_grid(rows, [plain(f"{name}, epoch {epoch:g}".lstrip(", ")) for name in runs], limits), 100)
        )
    return style.animate(frames, out.with_name(f"{out.name}.gif"), _SECONDS)


def alike_summaries(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Return the summaries of all measured steps whose conditions are those of the last one, in ascending order."""
    everything = [results.read_summary(folder) for folder in results.folders(workdir).values()]
    conditions = results.conditions(everything[-1]["settings"]) if everything else ""
    return [summary for summary in everything if results.conditions(summary["settings"]) == conditions]


@style.styled
def _grid(
    cells: Sequence[Sequence[Mapping[str, Any]]], heads: Sequence[str] = (), limits: Sequence[_Limits] = ()
) -> Figure:
    columns = max(len(row) for row in cells)
    size = (4.2 * columns, 3.1 * len(cells) + 0.3 * bool(heads))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(cells), columns, squeeze=False)
    everything = _limits([stored for row in cells for stored in row])
    # A comparison of runs shares the axis within a row. The classes of one run all share the same axis.
    limits = limits or [_limits(row) if heads else everything for row in cells]
    for row, axes_row, shared in zip(cells, grid, limits, strict=True):
        for axes in axes_row[len(row) :]:
            axes.set_visible(False)
        for stored, axes in zip(row, axes_row, strict=False):
            _density(axes, stored, shared, small=True)
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    for axes, head in zip(grid[0], heads, strict=False):
        axes.annotate(head, (0, 1), (0, 50), "axes fraction", textcoords="offset points", weight="bold")
    return figure


@style.styled
def _density(axes: Axes, stored: Mapping[str, Any], limits: _Limits, *, small: bool = False) -> None:
    """Draw the density on a log axis over eigenvalues on a symlog axis: the mean over probes and its spread."""
    summary, grid, mean, spread = stored["summary"], stored["grid"], stored["density"], stored["density_sd"]
    axes.set_xscale("symlog", linthresh=limits.threshold)
    axes.set_yscale("log")
    drawn = np.maximum(mean, _FLOOR)
    axes.fill_between(grid, np.maximum(mean - spread, _FLOOR), np.maximum(mean + spread, _FLOOR), color=LINE, lw=0)
    axes.plot(grid, drawn, color=INK, lw=0.9)
    for name, color, marker in (("min", SMALLEST, "<"), ("max", LARGEST, ">")):
        value = summary[f"lambda_{name}"]
        axes.axvline(value, color=color, lw=1, linestyle="--")
        axes.plot(value, _FLOOR * 3, color=color, marker=marker, clip_on=False)
        text = f"λ{name} {value:.3g} (residual {summary[f'residual_{name}']:.0e})"
        place = {"x": 0.0 if name == "min" else 1.0, "ha": "left" if name == "min" else "right"}
        look = {"va": "bottom", "color": style.words(color), "fontsize": "small"}
        axes.text(y=1.01, s=text, transform=axes.transAxes, **look, **place)
    axes.set_xlim(limits.low, limits.high)
    axes.set_ylim(_FLOOR, limits.top)
    _thin_ticks(axes, limits)
    axes.set(xlabel=f"eigenvalue (symlog axis: linear within ±{limits.threshold:g})", ylabel="spectral density")
    basis = ", basis not stored" if summary["basis"] == "none" else ""
    details = f"{summary['images']:,} images, {summary['probes']} probes x {summary['steps']} steps{basis}"
    title = plain(summary["title"])
    axes.set_title(f"{title}\n{details}" if small else f"{title}: {details}", pad=18)


def _thin_ticks(axes: Axes, limits: _Limits) -> None:
    low, high, threshold, _ = limits
    decades = [threshold * 10**k for k in range(12) if threshold * 10**k <= max(-low, high)]
    decades = decades[:: max(1, math.ceil(len(decades) / 4))]
    ticks = [-d for d in reversed(decades) if -d >= low] + [0.0] + [d for d in decades if d <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize="small")
    axes.minorticks_off()


def _limits(stored: Sequence[Mapping[str, Any]]) -> _Limits:
    low = min(s["grid"][0] for s in stored)  # the grid reaches a few sigmas beyond the smallest eigenvalue
    high = max(s["grid"][-1] for s in stored)
    widest = max(max(abs(s["summary"][key]) for key in ("lambda_min", "lambda_max", "sigma")) for s in stored)
    sigma = max(s["summary"]["sigma"] for s in stored)
    # A hundredth of the largest value, but wide enough that the Gaussian at 0 lies on the linear part.
    threshold = 10.0 ** max(math.floor(math.log10(widest)) - 2, math.ceil(math.log10(2 * sigma)))
    top = max(1e3, 20 * max(float(s["density"].max()) for s in stored))
    return _Limits(min(1.6 * low, -2 * threshold), max(1.6 * high, 2 * threshold), threshold, top)


def load(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """Return a target's summary and arrays.

    Raises:
      DataError: the file can't be read.
    """
    summary = results.stored_summary(folder, name)
    if summary is None:
        raise DataError(f"{folder / name}.npz can't be read. Fix: measure it again with --mode spectra")
    with np.load(folder / f"{name}.npz") as stored:
        return {"summary": summary, **{key: stored[key] for key in stored if key != "summary"}}
