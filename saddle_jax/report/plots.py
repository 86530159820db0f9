"""Pictures that are read without their text. Needs no JAX. Colours are told apart by the colour-blind too."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

_STYLES = (("#D55E00", "o"), ("#0072B2", "s"), ("#009E73", "^"), ("#CC79A7", "D"))  # Okabe and Ito, 2008


def class_accuracy(
    path: pathlib.Path,
    runs: Mapping[str, Sequence[Sequence[float | None]]],
    counts_C: Sequence[int],
    title: str,
    rank_bounds: Sequence[int] = (),
) -> None:
    """Draw accuracy a class, from the largest class to the smallest: a line for each name, its spread over seeds.

    Args:
      runs: name -> one list of percents a seed.
      counts_C: training images a class.
      rank_bounds: where head ends and where mid ends, to be marked.
    """
    order = np.argsort(-np.asarray(counts_C), kind="stable")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    places = np.arange(len(order))
    offsets = np.linspace(-0.1, 0.1, len(runs)) if len(runs) > 1 else [0.0]
    for (name, seeds), (colour, marker), offset in zip(runs.items(), _STYLES, offsets, strict=False):
        values = np.array(seeds, float)[:, order]  # None becomes NaN
        deviation = values.std(0, ddof=1) if len(values) > 1 else None
        label = f"{name} (mean ± sd, n = {len(values)})"
        axes.errorbar(
            places + offset, values.mean(0), yerr=deviation, color=colour, marker=marker, capsize=3, label=label
        )
    for bound, name in zip((0, *rank_bounds), ("head", "mid", "tail"), strict=False):
        if bound:
            axes.axvline(bound - 0.5, color="0.7", linewidth=1, linestyle=":")
        if rank_bounds:
            axes.text(bound - 0.4, 1.01, name, transform=axes.get_xaxis_transform(), color="0.4")
    if len(order) <= 20:
        axes.set_xticks(places, [f"{c}\n{counts_C[c]}" for c in order])
        axes.set_xlabel("class, and its training images below")
    else:
        axes.set_xlabel("classes, from the most training images to the fewest")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(title, loc="left", pad=20)
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=150)
    plt.close(figure)
