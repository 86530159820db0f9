"""Tables of accuracies, of classes, and of differences as CSV and as LaTeX. Does not need JAX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from saddle_jax.experiment.flag_checks import REPORT_COLUMNS
from saddle_jax.report.comparisons import TOO_SMALL, Comparison, Difference
from saddle_jax.report.rows import ImageSet
from saddle_jax.report.statistics import Interval
from saddle_jax.report.tables import Line, accuracy, spread

_LATEX = {c: rf"\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
_LATEX |= {"^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "\n": " ", "−": "$-$"}
_LATEX |= {"ρ": r"$\rho$", "×": r"$\times$", "±": r"$\pm$"}
_PACKAGES = r"% requires \usepackage{booktabs}"
_A_SINGLE_SEED = r"\textsuperscript{a}"


def accuracies_csv(lines: Sequence[Line]) -> str:
    """Return all accuracies as CSV; mean and sample standard deviation (ddof = 1) have separate columns.

    A cell is empty if its value does not exist.
    """
    numbers = [f"{column}_{what}" for column in (*REPORT_COLUMNS, "gradients") for what in ("mean", "sd")]
    cells = [["images", "method", "epoch", "n", *numbers]]
    for line in lines:
        row: list[Any] = [line.images, line.method, line.epoch, len(line.reports)]
        for column in REPORT_COLUMNS:
            row += _mean_and_deviation([accuracy(report, column) for report in line.reports], 4)
        cells.append([*row, *_mean_and_deviation(line.gradients, 1)])
    return _csv(cells)


def classes_csv(sets: Sequence[tuple[ImageSet, Sequence[Line]]]) -> str:
    """Return the accuracy of every class as CSV, a line for each class of a line of the table.

    A cell is empty if its value does not exist.

    Args:
      sets: each set of images with its lines.
    """
    header = ["images", "class", "training_images", "rank_group", "count_group", "method", "epoch", "n"]
    cells: list[list[Any]] = [[*header, "accuracy_mean", "accuracy_sd"]]
    for images, lines in sets:
        groups_C = [[name for name, its in images.groups.items() if c in its] for c in range(len(images.names))]
        for line in lines:
            for c, (name, count) in enumerate(zip(images.names, images.counts_C, strict=True)):
                values = np.array([report["class_accuracy"][c] for report in line.reports], float)  # None becomes NaN
                row = [images.title, name, count, *groups_C[c], line.method, line.epoch, len(values)]
                cells.append([*row, *_mean_and_deviation(values, 4)])
    return _csv(cells)


def _csv(cells: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()


def _mean_and_deviation(values: Sequence[float] | np.ndarray, digits: int) -> list[str]:
    known = len(values) and not np.isnan(values).any()
    mean = f"{np.mean(values):.{digits}f}" if known else ""
    return [mean, f"{np.std(values, ddof=1):.{digits}f}" if known and len(values) > 1 else ""]


def differences_csv(compared: Sequence[tuple[str, Sequence[Comparison]]], which: str) -> str:
    """Return every difference with its intervals and tests as CSV, second - first in percentage points.

    Args:
      compared: the comparisons of each set of images, by the set's title.
      which: "last" or "best" epoch.
    """
    cells: list[list[Any]] = [
        ["images", "epoch", "first", "second", "column", "paired", "n_first", "n_second", "difference", "up", "down"]
        + ["t_low", "t_high", "bootstrap_low", "bootstrap_high", "wilcoxon_p", "sign_p", "welch_p", "mcnemar_p"]
        + ["p_holm", "verdict"]
    ]
    for title, comparisons in compared:
        for one in comparisons:
            for column, its in one.differences.items():
                counts = [its.up, its.down] if one.pairs else ["", ""]
                row = [title, which, one.first.name, one.second.name, column, "yes" if one.pairs else "no", *one.n]
                row += [f"{its.mean:.4f}", *counts, *_ends(its.t), *_ends(its.bootstrap)]
                p_values = [its.tests.get(test) for test in ("Wilcoxon", "sign", "Welch", "McNemar")]
                cells.append([*row, *("" if p is None else f"{p:.6g}" for p in (*p_values, its.adjusted)), its.verdict])
    return _csv(cells)


def _ends(interval: Interval | None) -> list[str]:
    return ["", ""] if interval is None else [f"{end:.4f}" for end in interval]


def accuracies_latex(lines: Sequence[Line], columns: Sequence[str], which: str) -> str:
    """Return the accuracies at one epoch as a tabular for booktabs, with one section per set of images."""
    width = len(columns) + 2
    rows = [
        f"{_PACKAGES}; test accuracy in percent, mean and sample standard deviation over n seeds",
        "% bold: not distinguishable from the best of its column (differences.tex)",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
        " & ".join(["method", *columns, "$n$"]) + r" \\",
    ]
    lines = [line for line in lines if line.which == which]
    for number, line in enumerate(lines):
        if number == 0 or line.images != lines[number - 1].images:
            rows += _section(f"{line.images}; {_epochs(lines, line.images)}", width)
        cells = [latex_text(line.method)]
        for column in columns:
            text = latex_text(spread([accuracy(report, column) for report in line.reports]))
            cells.append(rf"\textbf{{{text}}}" if column in line.leading else text)
        cells.append(f"{len(line.reports)}{_A_SINGLE_SEED * (len(line.reports) == 1)}")
        rows.append(" & ".join(cells) + r" \\")
    rows.append(r"\bottomrule")
    if any(len(line.reports) == 1 for line in lines):
        rows.append(rf"\multicolumn{{{width}}}{{l}}{{{_A_SINGLE_SEED} a single seed: no spread}} \\")
    rows.append(r"\end{tabular}")
    return "\n".join(rows) + "\n"


def _epochs(lines: Sequence[Line], images: str) -> str:
    return f"epoch: {', '.join(dict.fromkeys(line.epoch for line in lines if line.images == images))}"


def _section(title: str, width: int) -> list[str]:
    return [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{{latex_text(title)}}} \\"]


def differences_latex(compared: Sequence[tuple[str, Sequence[Comparison]]], columns: Sequence[str], which: str) -> str:
    """Return the differences between rows as a tabular for booktabs: difference, interval, and p-value in each cell.

    Args:
      compared: the comparisons of each set of images, by the set's title.
      columns: of the table.
      which: "last" or "best" epoch.
    """
    width = len(columns) + 2
    rows = [
        f"{_PACKAGES}; differences in test accuracy in percentage points, second minus first,",
        f"% at the {which} epoch, with 95 % t intervals over seeds and, below, p-values after Holm's correction over",
        "% the pairs of a column: exact signed-rank tests of pairs of runs with the same seeds; Welch's tests of runs",
        "% without pairs; McNemar's exact tests of single networks. bold: p is at most 0.05",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
        " & ".join(["second vs.\\ first", *columns, "$n$"]) + r" \\",
    ]
    for title, comparisons in compared:
        rows += _section(f"{title}; epoch: {which}", width) if comparisons else []
        for one in comparisons:
            cells = [one.differences.get(column) for column in columns]
            name = f"{latex_text(one.second.name)} vs.\\ {latex_text(one.first.name)}"
            upper = [_difference_latex(its) for its in cells]
            lower = [_p_latex(its) for its in cells]
            n = f"{one.n[0]}{_A_SINGLE_SEED * (one.n == (1, 1))}" if one.pairs else f"{one.n[1]} vs.\\ {one.n[0]}"
            rows += [" & ".join([name, *upper, n]) + r" \\", " & ".join(["", *lower, ""]) + r" \\"]
    rows.append(r"\bottomrule")
    if any(one.n == (1, 1) for _, comparisons in compared for one in comparisons):
        note = f"{_A_SINGLE_SEED} a single seed: about two networks, not about the methods"
        rows.append(rf"\multicolumn{{{width}}}{{l}}{{{note}}} \\")
    rows.append(r"\end{tabular}")
    return "\n".join(rows) + "\n"


def _difference_latex(its: Difference | None) -> str:
    if its is None:
        return "n/a"
    interval = "" if its.t is None else rf"\;[{its.t[0]:.1f}, {its.t[1]:.1f}]"
    text = f"${its.mean:+.1f}{interval}$"
    return rf"\boldmath{text}" if its.differs else text


def _p_latex(its: Difference | None) -> str:
    if its is None:
        return ""
    if its.adjusted is None:
        return rf"\footnotesize {TOO_SMALL}"
    return rf"\footnotesize ${p_text(its.adjusted)}$"


def p_text(p: float) -> str:
    """Return "p = 0.012", or "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def latex_text(text: str) -> str:
    """Return the text escaped for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)
