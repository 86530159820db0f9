"""Figures of a class's loss around the measured weights: along one direction. Does not need JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from saddle_jax.report import style
from saddle_jax.report.style import INK, LINE, SERIES, SOFT, plain

_ALIKE = 1.5  # a measured ratio within this factor of the theorem's


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
    style.label_ends(axes, [(places[-1], end, name, colour) for end, name, colour in ends])
    axes.set(xlabel="t, position along the unit vector v", ylabel="loss")
    axes.set_title(f"{plain(summary['title'])}: loss along v, the eigenvector of λmin = {summary['lambda_min']:.3g}")
    style.note(figure, f"The parabola has the loss's slope and curvature at w. {explanation(summary)}")
    return figure


def explanation(summary: Mapping[str, Any]) -> str:
    """Return sentences on what SAM did along v beside what the theorem predicts, and why they differ.

    Args:
      summary: of a target; its "escape" is that of `Escape`.
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
