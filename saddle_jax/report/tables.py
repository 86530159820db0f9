"""Tables over several seeds: mean ± standard deviation and n, and paired differences. Reads files, needs no JAX."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COLUMNS = ("overall", "head", "mid", "tail")


def read_results(workdir: pathlib.Path, which: str = "last") -> dict[str, Any]:
    """Return the test report of a finished run at its last or its best step."""
    return json.loads((workdir / "results.json").read_text())[which]


def accuracy(report: Mapping[str, Any], column: str) -> float:
    """Return one column of a report in percent; NaN where the group has no class."""
    value = report["accuracy"] if column == "overall" else report["groups"][column]["accuracy"]
    return float("nan") if value is None else value


def spread(values: Sequence[float] | np.ndarray, digits: int = 1) -> str:
    """Return "75.0 ± 4.3", "75.0" for a single value and "n/a" for none."""
    if np.isnan(values).any() or not len(values):
        return "n/a"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def comparison(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return a table with one line for each named list of reports (one report a seed)."""
    lines = [["", *COLUMNS, "n"]]
    for name, reports in rows.items():
        cells = [spread([accuracy(report, column) for report in reports]) for column in COLUMNS]
        lines.append([name, *cells, str(len(reports))])
    return aligned(lines)


def paired_difference(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], column: str
) -> tuple[np.ndarray, str]:
    """Return second - first by seed, and "+5.0 ± 4.3 points (standard error 1.2); up in 10 of 12 seeds"."""
    differences = np.array([accuracy(b, column) - accuracy(a, column) for a, b in zip(first, second, strict=True)])
    number = len(differences)
    if number == 1:
        return differences, f"{differences[0]:+.1f} points (one seed: no spread)"
    deviation = differences.std(ddof=1)
    return differences, (
        f"{differences.mean():+.1f} ± {deviation:.1f} points (standard error {deviation / number**0.5:.1f}); "
        f"up in {(differences > 0).sum()}, down in {(differences < 0).sum()} of {number} seeds"
    )


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as text, the first column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
