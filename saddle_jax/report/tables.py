"""Tables over several seeds as text, CSV, and LaTeX: mean ± standard deviation, n, and paired differences.

Does not need JAX.
"""

from __future__ import annotations

import csv
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

COLUMNS = ("overall", "head", "mid", "tail")
BOTH_GROUPINGS = (*COLUMNS, "many", "medium", "few")
_LATEX = {c: rf"\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
_LATEX |= {"^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "\n": " "}


class Line(NamedTuple):
    """A line of the table: a method at its last or its best epoch."""

    images: str  # title of the set of images; lines with different sets can't be compared
    method: str
    epoch: str  # "last", or "best on" the split that chose it
    reports: Sequence[Mapping[str, Any]]  # one per seed
    gradients: Sequence[float]  # training-batch gradients up to that epoch, one per seed; NaN if the run did not count


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


def comparison(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return a text table with one line per name.

    Args:
      rows: maps a name to its reports, one per seed.
    """
    lines = [["", *COLUMNS, "n"]]
    for name, reports in rows.items():
        cells = [spread([accuracy(report, column) for report in reports]) for column in COLUMNS]
        lines.append([name, *cells, str(len(reports))])
    return aligned(lines)


def paired_difference(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], column: str
) -> tuple[np.ndarray, str]:
    """Return second - first per seed, and a summary of the differences as text.

    The text reads "+5.0 ± 4.3 points (standard error 1.2); up in 10, down in 2 of 12 seeds".
    """
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
    """Return rows of cells as text; the first column is aligned left, the others right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def as_csv(lines: Sequence[Line]) -> str:
    """Return the table as CSV; mean and sample standard deviation (ddof = 1) have separate columns.

    A cell is empty if its value does not exist.
    """
    columns = ("overall", "balanced", *BOTH_GROUPINGS[1:])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = [f"{column}_{what}" for column in (*columns, "gradients") for what in ("mean", "sd")]
    writer.writerow(["images", "method", "epoch", "n", *numbers])
    for line in lines:
        cells: list[Any] = []
        for column in columns:
            cells += _mean_and_deviation([accuracy(report, column) for report in line.reports], 4)
        cells += _mean_and_deviation(line.gradients, 1)
        writer.writerow([line.images, line.method, line.epoch, len(line.reports), *cells])
    return text.getvalue()


def _mean_and_deviation(values: Sequence[float], digits: int) -> list[str]:
    known = len(values) and not np.isnan(values).any()
    mean = f"{np.mean(values):.{digits}f}" if known else ""
    return [mean, f"{np.std(values, ddof=1):.{digits}f}" if known and len(values) > 1 else ""]


def as_latex(lines: Sequence[Line]) -> str:
    """Return the table as a LaTeX tabular for booktabs, with one section per set of images."""
    width = len(BOTH_GROUPINGS) + 3
    rows = [
        "% requires \\usepackage{booktabs}; test accuracy in percent, mean and sample standard deviation over n seeds"
    ]
    rows += [rf"\begin{{tabular}}{{ll{'r' * (width - 2)}}}", r"\toprule"]
    rows += [" & ".join(["method", "epoch", *BOTH_GROUPINGS, "$n$"]) + r" \\"]
    images = None
    for line in lines:
        if line.images != images:
            images = line.images
            rows += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{{latex_text(images)}}} \\"]
        values = [spread([accuracy(report, column) for report in line.reports]) for column in BOTH_GROUPINGS]
        number = f"{len(line.reports)}" if len(line.reports) != 1 else r"1\textsuperscript{a}"
        cells = [latex_text(line.method), latex_text(line.epoch), *(v.replace("±", r"$\pm$") for v in values), number]
        rows.append(" & ".join(cells) + r" \\")
    rows.append(r"\bottomrule")
    if any(len(line.reports) == 1 for line in lines):
        rows.append(rf"\multicolumn{{{width}}}{{l}}{{\textsuperscript{{a}} a single seed: no spread}} \\")
    rows.append(r"\end{tabular}")
    return "\n".join(rows) + "\n"


def latex_text(text: str) -> str:
    """Return the text escaped for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text).replace("ρ", r"$\rho$")
