"""Report section on which rows differ, how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from saddle_jax.report import statistics, tables
from saddle_jax.report.comparisons import TOO_SMALL, Comparison, Difference
from saddle_jax.report.exports import p_text
from saddle_jax.report.page import Block, Heading, Items, Strong, Table, Text
from saddle_jax.report.rows import ImageSet, pairs
from saddle_jax.report.statistics import Interval

_MOST_SENTENCES = 8
_MOST_LINES = 30  # if there are more, the table shows only links against plain SGD


def section(images: ImageSet, compared: Sequence[Comparison], columns: Sequence[str], which: str) -> Iterator[Block]:
    """Yield sentences on the differences, a table of all of them, and what its numbers are.

    Args:
      images: the rows.
      compared: the comparisons of every pair of rows.
      columns: of the table.
      which: "last" or "best" epoch.
    """
    if not compared:
        return
    yield Heading(f"Which methods differ, at the {which} epoch", 3)
    yield Items(sentences(compared, columns))
    lines = compared
    if len(compared) > _MOST_LINES:
        links = [(first.name, second.name) for first, second in pairs(images.rows)]
        lines = [one for one in compared if (one.first.name, one.second.name) in links] or compared[:_MOST_LINES]
    cells = []
    for one in lines:
        n = _pairs(one) if one.pairs else f"{one.n[1]} vs. {one.n[0]}"
        cells.append([f"{one.second.name}\nvs. {one.first.name}", *(_cell(one, column) for column in columns), n])
    yield Table(["second vs. first", *columns, "n"], cells, (0,))
    if len(lines) < len(compared):
        yield Text(f"{len(lines)} of {len(compared)} pairs of methods are shown. differences.csv has all of them.")
    yield Text(" ".join(_legend(compared)))


def headline(lines: Sequence[tables.Line], compared: Sequence[Comparison], which: str) -> str:
    """Return a sentence on what was found and how sure it is: the clearest difference, in the tail if there is one.

    Args:
      lines: lines of the table of accuracies; at least one.
      compared: the comparisons of every pair of methods.
      which: "last" or "best" epoch.
    """
    if not compared:
        line = next(line for line in lines if line.which == which)
        overall, tail = (
            tables.spread([tables.accuracy(report, column) for report in line.reports])
            for column in ("overall", "tail")
        )
        n = len(line.reports)
        seeds = "one seed" if n == 1 else f"mean ± standard deviation, n = {n}"
        return f"{line.method} classifies {overall} % of the test images correctly, and {tail} % in the tail ({seeds})"
    columns = [c for c in ("tail", "overall") if any(c in one.differences for one in compared)]
    for column in columns:
        if any(column in one.differences and one.differences[column].differs for one in compared):
            text = sentences(compared, [column])[0].removeprefix(f"{column}: ")
            return f"In the tail, {text}" if column == "tail" else f"Overall, {text}"
    return sentences(compared, columns or list(compared[0].differences))[0]


def sentences(compared: Sequence[Comparison], columns: Sequence[str]) -> list[str]:
    """Return what the comparisons say: the clearest differences first, or one sentence if there are none."""
    every = [(one, c, one.differences[c]) for one in compared for c in columns if c in one.differences]
    found = [(its.adjusted, columns.index(c), _sentence(one, c, its)) for one, c, its in every if its.differs]
    if found:
        more = len(found) - _MOST_SENTENCES
        rest = [f"and {more} more, in bold in the table of differences"] if more > 0 else []
        return [*(text for *_, text in sorted(found)[:_MOST_SENTENCES]), *rest]
    if any(its.p is not None for *_, its in every):
        unsure = f", or {TOO_SMALL}" if any(its.p is None for *_, its in every) else ""
        return [f"No two methods can be told apart: p > 0.05{unsure}."]
    return [
        f"No difference can be told from chance yet: {TOO_SMALL}. With {statistics.pairs_needed(len(compared))} seeds "
        "of each method, a test could."
    ]


def _sentence(one: Comparison, column: str, its: Difference) -> str:
    more = "higher" if its.mean > 0 else "lower"
    interval = its.t or its.bootstrap
    sure = [] if interval is None else [f"95 % interval {_interval(interval)}"]
    sure.append(p_text(its.adjusted or 0.0))
    if one.n == (1, 1):
        sure.append("one seed: these two networks differ, not yet the methods")
    else:
        sure.append(f"n = {one.n[0]}" if one.pairs else f"n = {one.n[1]} and {one.n[0]}")
    return f"{column}: {one.second.name} is {abs(its.mean):.1f} points {more} than {one.first.name} ({', '.join(sure)})"


def _cell(one: Comparison, column: str) -> str:
    its = one.differences.get(column)
    if its is None:
        return "n/a"
    difference = f"{its.mean:+.1f}".replace("-", "−")
    lines = [difference if its.adjusted is None else f"{difference}, {p_text(its.adjusted)}"]
    lines += [f"({_interval(its.t)})"] if its.t else []
    lines += [f"[{_interval(its.bootstrap)}]"] if its.bootstrap else []
    lines += [f"{its.up}↑ {its.down}↓"] if len(one.pairs) > 1 else []
    lines += [TOO_SMALL] if its.adjusted is None else []
    text = "\n".join(lines)
    return Strong(text) if its.differs else text


def _pairs(one: Comparison) -> str:
    return "1 (one seed)" if one.n == (1, 1) else str(one.n[0])


def _interval(interval: Interval) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}".replace("-", "−")


def _legend(compared: Sequence[Comparison]) -> Iterator[str]:
    """Yield sentences that explain the table, only those that it needs."""
    every = [its for one in compared for its in one.differences.values()]
    tests = {test for its in every for test in its.tests}
    yield "Differences in percentage points, second − first; bold: p ≤ 0.05."
    if any(one.pairs for one in compared):
        yield "n counts pairs of runs with the same seeds and images; the arrows count pairs that go up and down."
    if any(not one.pairs for one in compared):
        yield "“n vs. n” counts runs of methods that share no seed."
    if any(its.t for its in every):
        yield "Parentheses: 95 % t interval over seeds, for these test images; without pairs, Welch's."
    if any(its.bootstrap for its in every):
        yield "Brackets: 95 % bootstrap interval over seeds and test images; for one seed, over test images alone."
    if "Wilcoxon" in tests:
        yield "p of pairs: Wilcoxon's signed-rank test."
    if "Welch" in tests:
        yield "p without pairs: Welch's test."
    if "McNemar" in tests:
        yield (
            "p of one seed: McNemar's exact test on the test images of the column, each with equal weight. It is about "
            "these two networks; another seed may turn out otherwise."
        )
    tested = [one for one in compared if any(its.p is not None for its in one.differences.values())]
    if len(tested) > 1:
        yield f"Every p is corrected for the {len(tested)} pairs of methods that are tested in its column (Holm)."
    if any(its.p is None for its in every):
        yield (
            f"“{TOO_SMALL}”: no exact test of so few runs can reach p = 0.05, however large the difference; "
            f"{statistics.pairs_needed()} pairs of runs can."
        )
    if any(len(tested) * statistics.smallest_p(one.n[0]) > statistics.ALPHA for one in tested if len(one.pairs) > 1):
        yield (
            f"With {len(tested)} pairs of methods, the corrected p can reach 0.05 from "
            f"{statistics.pairs_needed(len(tested))} seeds on."
        )
    yield "A group's accuracy is about its classes, not about classes of that size in general."
