"""docs/results.md: measured rows of CIFAR-LT beside published ones, the links on digits, and what is not run yet."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import cifar_rows
import saddle_rows
from published import CIFAR_LT, PUBLISHED, QUARTER, WAYS_OUT, Cell

from benchmarks import links_page
from saddle_jax.host.files import write_atomically
from saddle_jax.report import tables

PAGE = pathlib.Path(__file__).parent.parent / "docs/results.md"
CELLS = list(dict.fromkeys([*CIFAR_LT, *QUARTER, *WAYS_OUT]))
_START = """# Results

This page has two measurements: the paper's CIFAR tables, as far as they have been run, and every way out of the saddle
[on digits](#ways-out-of-the-saddle-digits). What has not been run is [at the end](#not-run-yet).
[recipes.md](recipes.md) has all published figures, also those of the large sets and of pretrained networks.
"""
_NOTES = """
Figures are test accuracy in percent, overall and for the paper's groups of classes.

- **published**: with ResNet-32 at ratio 100, figures come from the slides of Rangwani et al. (NeurIPS 2022), which do
  not state the number of seeds. At ratios 10 and 200 and for PaCo+SAM, they come from a leaderboard. For GLMC and
  GLMC+SAM, they come from the repository of GLMC+SAM. Those of PaCo are unverified. All are those of the best test
  epoch.
- **ours** is mean ± standard deviation over the seeds, at the best test epoch and after the last one.
- **difference** is ours minus theirs, at the best epoch. In parentheses is their standard deviation.
- Nobody has published SAM's radius rho for VS+SAM or PaCo+SAM. Ours are our own choices (`configs/`).
"""


def write(page: pathlib.Path = PAGE, results: pathlib.Path = cifar_rows.FOLDER) -> None:
    """Write the page from the files with results."""
    rows = {cell: row for cell in CELLS if (row := cifar_rows.read(results, cell))}
    lines = [*_START.splitlines(), *_measured(rows), *_saddle(results), "", *links_page.section(), "", *_not_run(rows)]
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, "\n".join(lines) + "\n")


def _measured(rows: Mapping[Cell, cifar_rows.Row]) -> Iterator[str]:
    """Yield the tables of the cells that have been run."""
    if not rows:
        return
    yield from ("", "## The paper's tables", *_NOTES.splitlines())
    if any("smoke" in record["command"] for row in rows.values() for record in row.values()):
        yield from ("", "**These are smoke tests: shrunken runs on another data set.**")
    for title, cells in _by_table(rows).items():
        yield from ("", f"### {title}", "", "| method | | overall | head | mid | tail | seeds |", "|" + "---|" * 7)
        for cell in cells:
            yield from _lines(cell, list(rows[cell].values()))
    yield from ("", "### How these were run", "")
    yield "Hours are those on the clock, with evaluations and without compilation, perhaps beside other work."
    yield from ("", "| row | seed | epochs | best | hours | device | date | command, and versions |", "|" + "---|" * 8)
    for cell, row in rows.items():
        for seed, record in row.items():
            best = record["epochs"] * record["best"]["step"] / record["last"]["step"]
            versions = ", ".join(f"{name} {record['packages'][name]}" for name in ("jax", "flax", "optax"))
            cells = [cell.title, seed, f"{record['epochs']:g}", f"{best:g}", f"{record['hours']:.1f}", record["device"]]
            yield _row(*cells, record["date"], f"`{record['command']}` ({versions})")


def _saddle(results: pathlib.Path) -> Iterator[str]:
    """Yield the figure and the table of the spectra along training, if they have been measured."""
    if not saddle_rows.measured(results):
        return
    yield from ("", "### The saddle of the rare classes", "")
    yield "|λmin/λmax| of the Hessian of each class's training loss, along the training of CE+DRW on CIFAR-10-LT,"
    yield "ratio 100, seed 0. At a minimum it is 0. Re-weighting begins after epoch 160. In the paper, class 8 ends at"
    yield "λmin −22.95 and λmax 23.11 with SGD, and at −2.28 and 14.58 with SAM. In the tables, λmin, λmax, and the"
    yield "larger error of the two are those of the last epoch; the columns behind them are |λmin/λmax| by epoch."
    yield "`python benchmarks/saddle_rows.py` measures this."
    yield from ("", "![|λmin/λmax| of six classes along training, SGD and SAM side by side](saddle.png)", "")
    yield from saddle_rows.table(results)


def _lines(cell: Cell, records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a cell's lines: published, ours at the best epoch, the difference, ours at the last epoch."""
    published = PUBLISHED.get(cell, {})
    ours = {
        which: {name: [tables.accuracy(record[which], name) for record in records] for name in tables.COLUMNS}
        for which in ("best", "last")
    }
    shown = {which: [tables.spread(values[name]) for name in tables.COLUMNS] for which, values in ours.items()}
    if published:
        yield _row(
            cell.title, "published", *(published.get(name, "").replace("±", " ± ") for name in tables.COLUMNS), ""
        )
        cells = []
        for name in tables.COLUMNS:
            theirs, _, deviation = published.get(name, "").partition("±")
            gain = sum(ours["best"][name]) / len(records) - float(theirs or 0)
            cells.append(f"{gain:+.1f}{f' ({deviation})' if deviation else ''}" if theirs else "")
        yield _row("", "ours, best epoch", *shown["best"], str(len(records)))
        yield _row("", "difference", *cells, "")
    else:
        yield _row(cell.title, "ours, best epoch", *shown["best"], str(len(records)))
    yield _row("", "ours, last epoch", *shown["last"], str(len(records)))


def _not_run(rows: Mapping[Cell, cifar_rows.Row]) -> Iterator[str]:
    """Yield one command for each table of which cells are missing."""
    missing = [cell for cell in CELLS if cell not in rows and (cell in PUBLISHED or cell in QUARTER)]
    yield from ("## Not run yet", "")
    yield "`python benchmarks/reproduce.py --cell CELL --seed 0` trains a cell on this machine and enters it here."
    yield "On a GPU machine, `python benchmarks/reproduce.py --seeds 3` trains them all, one after the other; add"
    yield "`--table ways_out` for every link on CIFAR."
    yield from ("", "| table | CELL | METHOD |", "|---|---|---|")
    for title, cells in _by_table(missing).items():
        cell = cells[0].config().replace(cells[0].method, "METHOD", 1)
        yield _row(title, f"`{cell}`", ", ".join(f"`{cell.method}`" for cell in cells))


def _by_table(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Return the cells by the title of their table."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        data = cell.data.upper().replace("CIFAR", "CIFAR-")
        epochs = f", {cell.epochs} epochs in place of 200" if cell.epochs else ""
        found.setdefault(f"{data}-LT, ratio {cell.ratio}, {cell.recipe}{epochs}", []).append(cell)
    return found


def _row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"
