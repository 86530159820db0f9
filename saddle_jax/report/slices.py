"""Figures of a class's loss around the measured weights: along a direction, and on a plane. Does not need JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saddle_jax.report import style
from saddle_jax.report.style import INK, LINE, MARKERS, PAPER, SERIES, SOFT, plain

_ALIKE = 1.5  # a measured ratio within this factor of the theorem's counts as close
# Levels of the loss on a plane, as multiples of the loss at w. Below 1 they are green, above 1 gray. Both begin with
# nothing, so that a plane lies on the page's own color, light or dark.
_BELOW = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_ABOVE = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
_NAMED = (0.1, 0.5, 0.8, 0.9, 1.5, 3.0, 10.0, 100.0)
_LOWER, _HIGHER = (0.0, 0.62, 0.45), (0.45, 0.5, 0.56)


@style.styled
def along_v(stored: Mapping[str, Any]) -> Figure:
    """Draw the loss along the direction of most negative curvature, and the parabola from its slope and curvature."""
    summary, along = stored["summary"], stored["summary"]["escape"]
    figure, axes = style.new_figure(6.5, 4.4)
    places, losses, parabola = (stored[f"escape_{name}"] for name in ("places", "losses", "quadratic"))
    if along["batches"]:
        axes.axvspan(-along["rho"], along["rho"], color=LINE, alpha=0.5, linewidth=0)
        axes.annotate("radius ρ", (along["rho"], 1), xycoords=("data", "axes fraction"), xytext=(-3, -3),
                      textcoords="offset points", ha="right", va="top", color=SOFT, fontsize="small")  # fmt: skip
    axes.plot(places, losses, color=INK)
    axes.plot(places, parabola, color=SERIES[0], linestyle="--")
    middle = len(losses) // 2
    axes.plot(0, losses[middle], "o", color=INK)
    spread = float(losses.max() - losses.min()) or 1.0
    low, high = losses.min() - 0.1 * spread, losses.max() + 0.1 * spread
    axes.set_ylim(low, high)
    axes.set_xlim(places[0], places[-1])
    inside = [float(min(max(line[-1], low), high)) for line in (losses, parabola)]
    ends = zip(inside, ("loss at w + tv", "parabola"), (INK, SERIES[0]), strict=True)
    style.label_ends(axes, [(places[-1], end, name, color) for end, name, color in ends])
    axes.set(xlabel="t, position along the unit vector v", ylabel="loss")
    axes.set_title(f"{plain(summary['title'])}: loss along v, the eigenvector of λmin = {summary['lambda_min']:.3g}")
    style.note(figure, f"The parabola has the loss's slope and curvature at w. {explanation(summary)}")
    return figure


def explanation(summary: Mapping[str, Any]) -> str:
    """Return sentences that compare what SAM did along v with what the theorem predicts, and say why they differ.

    Args:
      summary: a target's summary; its "escape" is the summary of `Escape`.
    """
    along = summary["escape"]
    if not along["batches"]:
        return "SAM's effect along v was not measured."
    measured, predicted = along["ratio"], along["ratio_predicted"]
    if measured is None or predicted is None:
        return "No minibatch has a gradient along v at w, so SAM's effect on E⟨g,v⟩² has no ratio."
    said = (
        f"SAM's step of ρ = {along['rho']:g} multiplies E⟨g,v⟩² by {measured:.3g}. The theorem's (1 + ρλ/|g|)² is "
        f"{predicted:.3g}"
    )
    if predicted / _ALIKE <= measured <= predicted * _ALIKE:
        return f"{said}, close to that: over the step the Hessian hardly changes."
    factor = 1 + along["rho"] * summary["lambda_min"] / summary["gradient_norm"]
    return (
        f"{said}. It is first-order theory, which takes the Hessian at w for that of the whole step, and it does not "
        f"hold over a step this long. For all images at once, SAM's step along the gradient G changes ⟨G,v⟩ from "
        f"{along['drift']:.1e} to {along['drift_sam']:.1e}, where first order gives {factor * along['drift']:.1e}. The "
        "step hardly moves along v, but the Hessian changes on the way, and this outweighs the small ⟨G,v⟩ at w."
    )


@style.styled
def landscape(stored: Mapping[str, Any], *, noted: bool = True) -> Figure:
    """Draw the loss on the plane of the most negative and the most positive direction, and the runs' paths on it.

    Args:
      stored: a target's summary and arrays.
      noted: write `about_plane` below.
    """
    figure, axes = style.new_figure(5, 4.6)
    on_plane(axes, stored)
    if noted:
        style.note(figure, about_plane(stored))
    return figure


@style.styled
def landscapes(stored: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw the planes of several runs side by side.

    Args:
      stored: maps the name of a run to a target's summary and arrays.
    """
    figure = Figure(figsize=(6 * len(stored), 5.4), layout="constrained")
    for axes, (name, one) in zip(figure.subplots(1, len(stored), squeeze=False)[0], stored.items(), strict=True):
        on_plane(axes, one)
        axes.set_title(plain(f"{one['summary']['title']} at the end of {name}"), weight="bold")
    style.note(figure, "\n".join(f"{name}: {about_plane(one)}" for name, one in stored.items()))
    return figure


def on_plane(axes: Axes, stored: Mapping[str, Any]) -> None:
    """Draw contours of the loss and the runs' paths on axes."""
    summary, a_T, b_T = stored["summary"], stored["landscape_a"], stored["landscape_b"]
    ratios_TT = stored["landscape_losses"] / max(summary["loss"], np.finfo(np.float32).tiny)
    levels = np.array([*_BELOW, 1.0, *_ABOVE])
    greens = [(*_LOWER, 0.75 * (1 - place / (len(_BELOW) + 1))) for place in range(len(_BELOW) + 1)]
    grays = [(*_HIGHER, 0.6 * place / len(_ABOVE)) for place in range(1, len(_ABOVE) + 1)]
    axes.contourf(a_T, b_T, ratios_TT, levels, colors=[*greens[1:], *grays], extend="both")
    low, high = float(ratios_TT.min()), float(ratios_TT.max())
    if crossed := [level for level in levels if low < level < high]:
        widths = [1.2 if level == 1 else 0.4 for level in crossed]
        colors = [INK if level == 1 else SOFT for level in crossed]
        lines = axes.contour(a_T, b_T, ratios_TT, crossed, colors=colors, linewidths=widths)
        named = [level for level in crossed if level in _NAMED]
        axes.clabel(lines, named, fmt=lambda ratio: f"×{ratio:g}", fontsize=7, colors=INK, inline_spacing=2)
    axes.plot(0, 0, "+", color=INK)
    for place, (name, path_K6) in enumerate(sorted(paths(stored).items())):  # a run looks alike on every plane
        color = SERIES[(1, 0)[place % 2]]
        outside_K = (np.abs(path_K6[:, 1:3]) > (a_T[-1], b_T[-1])).any(1)
        entered = np.flatnonzero(outside_K)[-1] + 1 if outside_K.any() else 0  # the end point is inside
        a_K, b_K = path_K6[entered:, 1:3].T
        axes.plot(a_K, b_K, color=color, marker=MARKERS[place], markersize=4, linewidth=1.2)
        axes.plot(a_K[-1], b_K[-1], color=color, marker=MARKERS[place], markersize=11, markeredgecolor=PAPER)
        side = 1 if place % 2 == 0 else -1  # apart from each other, and not toward a near edge
        side = -side if side * a_K[-1] > 0.4 * a_T[-1] else side
        axes.annotate(
            plain(name), (a_K[-1], b_K[-1]), (side * 22, 26 if place % 2 == 0 else -26), textcoords="offset points",
            ha="left" if side > 0 else "right", va="center", weight="bold", color=style.words(color),
            arrowprops={"arrowstyle": "-", "color": color},
            bbox={"facecolor": PAPER, "edgecolor": "none", "boxstyle": "round,pad=0.15"},
        )  # fmt: skip
    axes.set_title(f"{plain(summary['title'])}, {summary['images']:,} images: loss around its weights")
    axes.set(xlabel=f"along the eigenvector of λmin = {summary['lambda_min']:.3g}", xlim=(a_T[0], a_T[-1]))
    axes.set(ylabel=f"along the eigenvector of λmax = {summary['lambda_max']:.3g}", ylim=(b_T[0], b_T[-1]))


def about_plane(stored: Mapping[str, Any]) -> str:
    """Return sentences on what the plane shows, and how much of the runs' paths lies outside of it."""
    origin = stored["summary"]["loss"]
    said = (
        f"Loss as a multiple of that at the origin ({origin:.2g}): green is lower, gray higher. Axes are distances in "
        "the space of all parameters."
    )
    for name, path_K6 in paths(stored).items():
        step, _, _, distance, share, loss = path_K6[-1]
        if distance == 0:
            said += f" {name} ends at the origin (large mark, step {step:,.0f})."
        else:
            said += (
                f" {name} ends (large mark, step {step:,.0f}) at a distance of {distance:.2g}, of which "
                f"{share:.1%} lies in the plane; the loss there is {loss:.2g}, not that of the projection."
            )
    return (
        f"{said} Small marks are the checkpoints before, from where a path enters the figure."
        if paths(stored)
        else said
    )


def paths(stored: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return {run: (step, a, b, distance, share in the plane, loss) of its checkpoints}."""
    found = {key.removeprefix("path_"): value for key, value in stored.items() if key.startswith("path_")}
    return {name: path for name, path in found.items() if len(path)}
