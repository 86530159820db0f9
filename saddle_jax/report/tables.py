"""Accuracies over several seeds as text: mean ± standard deviation, n, and paired differences.

Does not need JAX.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from saddle_jax.longtail import RANK_GROUPS

COLUMNS = ("overall", *RANK_GROUPS)
BOTH_GROUPINGS = (*COLUMNS, "many", "medium", "few")


class Line(NamedTuple):
    """A line of the table: a method at its last or its best epoch."""

    images: str  # title of the set of images; lines with different sets can't be compared
    method: str
    which: str  # "last" or "best"
    epoch: str  # "last", or "best on" the split that chose it
    reports: Sequence[Mapping[str, Any]]  # one per seed
    gradients: Sequence[float]  # training-batch gradients up to that epoch, one per seed; NaN if the run did not count
    leading: frozenset[str] = frozenset()  # columns where the method is not distinguishable from the best


def read_results(workdir: pathlib.Path, which: str = "last") -> dict[str, Any]:
    """Return the test report of a finished run at its last or its best step."""
    return json.loads((workdir / "results.json").read_text())[which]


def accuracy(report: Mapping[str, Any], column: str) -> float:
    """Return one column of a report in percent; NaN if the report has no value for it."""
    if column in ("overall", "balanced"):
        value = report["accuracy" if column == "overall" else "balanced_accuracy"]
    else:
        value = report["groups"][column]["accuracy"]
    return float("nan") if value is None else value


def spread(values: Sequence[float] | np.ndarray, digits: int = 1) -> str:
    """Return mean and standard deviation as "75.0 ± 4.3", "75.0" for one value, and "n/a" if a value is missing."""
    if np.isnan(values).any() or not len(values):
        return "n/a"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def seeds(number: int) -> str:
    """Return the number of seeds for a cell; a single seed is marked, because its numbers have no spread."""
    return "1 (one seed)" if number == 1 else str(number)


def comparison(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], columns: Sequence[str] = COLUMNS, width: int = 80
) -> str:
    """Return a text table with a line for each name, or, where that is too wide, with a column for each name.

    Args:
      rows: maps a name to its reports, one per seed.
      columns: of the table.
      width: characters in a line.
    """
    lines = [["", *columns, "n"]]
    for name, reports in rows.items():
        cells = [spread([accuracy(report, column) for report in reports]) for column in columns]
        lines.append([name, *cells, str(len(reports))])
    text = aligned(lines)
    return text if text.index("\n") <= width else aligned(list(zip(*lines, strict=True)))


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as text; the first column is aligned left, the others right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
