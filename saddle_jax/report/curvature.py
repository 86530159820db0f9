"""Report section on measured spectra: extreme eigenvalues over seeds, and the densities of one seed."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from saddle_jax.errors import DataError
from saddle_jax.report import slices, spectra, style, tables
from saddle_jax.report.page import Block, Heading, Links, Picture, Pictures, Table, Text
from saddle_jax.report.rows import ImageSet, families
from saddle_jax.report.runs import Run
from saddle_jax.spectra import results

_NUMBERS = ("images", "lambda_min", "lambda_max", "error_min", "error_max")


class Measured(NamedTuple):
    """Last measured spectra of a run."""

    run: Run
    folder: pathlib.Path
    summary: dict[str, Any]

    @property
    def conditions(self) -> str:
        return f"step {self.summary['step']:,}; {results.conditions(self.summary['settings'])}"


def section(images: ImageSet, out: pathlib.Path) -> Iterator[Block]:
    """Yield a table of eigenvalues, and the densities of the rarest and the largest class with methods side by side.

    Args:
      images: a set of rows.
      out: folder of the report; links are relative to it.
    """
    problems: list[str] = []
    measured: dict[str, list[Measured]] = {}
    for row in images.rows:
        found = [_read(run, problems) for run in row.runs or row.unfinished]
        measured[row.name] = [one for one in found if one is not None]
    cells = [line for name, one_row in measured.items() for line in _lines(name, one_row)]
    if not cells and not problems:
        return
    yield Heading("Hessian spectra", 3)
    if cells:
        header = ["method", "loss on", "images", "λmin", "λmax", "|λmin/λmax|", "largest error", "n", "measured at"]
        conditions = {line[-1] for line in cells}
        if len(conditions) == 1:  # state them once, in the text below
            header, cells = header[:-1], [line[:-1] for line in cells]
        yield Table(header, cells, (0, 1, 8))
        alike = f"All measured at {conditions.pop()}. " if len(conditions) == 1 else ""
        yield Text(
            f"{alike}λmin and λmax are the smallest and the largest Hessian eigenvalue of the training loss on these "
            "images, mean ± sample standard deviation over n seeds. At a minimum, no eigenvalue is negative. "
            "The error is the residual |Hv − λv| plus the rounding of a product; a true eigenvalue lies within it."
        )
    for family in families(images.rows):
        yield from _densities({row.name: measured[row.name] for row in family if measured[row.name]}, problems)
    yield from _ratios(measured, problems)
    yield from _landscapes(measured, problems)
    for problem in problems:
        yield Text(problem, warning=True)
    everything = [one for one_row in measured.values() for one in one_row if (one.folder / "all.png").is_file()]
    if everything:
        links = [(str(one.run.folder), os.path.relpath(one.folder / "all.png", out)) for one in everything]
        yield Links("Spectra of all measured classes, by run:", links)


def _read(run: Run, problems: list[str]) -> Measured | None:
    try:
        folders = results.folders(run.folder)
        if not folders:
            return None
        folder = folders[max(folders)]
        summary = results.read_summary(folder)
        for target in summary["targets"].values():
            _ = str(target["title"]), [float(target[key]) for key in _NUMBERS]
        measured = Measured(run, folder, summary)
        return measured if measured.conditions and summary["targets"] else None
    except (DataError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        problems.append(f"{run.folder}: spectra can't be read ({error})")
        return None


def _lines(name: str, measured: Sequence[Measured]) -> Iterator[list[str]]:
    """Yield one table line per target and measurement. Different losses or steps get separate lines."""
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in measured:
        for target, summary in one.summary["targets"].items():
            alike.setdefault((target, one.conditions), []).append(summary)
    for (_, conditions), found in sorted(alike.items(), key=lambda item: -item[1][0]["images"]):
        ratios = [float("nan") if one.get("ratio") is None else one["ratio"] for one in found]
        yield [
            name,
            str(found[0]["title"]),
            f"{found[0]['images']:,}",
            tables.spread([one["lambda_min"] for one in found], digits=3),
            tables.spread([one["lambda_max"] for one in found], digits=3),
            tables.spread(ratios, digits=3),
            f"{max(max(one['error_min'], one['error_max']) for one in found):.0e}",
            tables.seeds(len(found)),
            conditions,
        ]


def _densities(measured: Mapping[str, Sequence[Measured]], problems: list[str]) -> Iterator[Block]:
    """Draw the rarest and the largest class that all methods measured for the same seed.

    If there are several such seeds, choose the one with the most shared classes.
    """
    best: tuple[dict[str, Measured], set[str]] = {}, set()
    first, *others = measured.values() if measured else [[]]
    for one in first:
        beside = [next((m for m in row if m.run.seeds == one.run.seeds), None) for row in others]
        chosen = [one, *(m for m in beside if m is not None)]
        targets = set.intersection(*(set(m.summary["targets"]) for m in chosen))
        if len(chosen) == len(measured) and len(targets) > len(best[1]):
            best = dict(zip(measured, chosen, strict=True)), targets
    runs, targets = best
    if not runs:  # no seed in common, so draw each method on its own
        for name, row in measured.items() if len(measured) > 1 else ():
            yield from _densities({name: row}, problems)
        return
    sizes = next(iter(runs.values())).summary["targets"]
    by_size = sorted(targets, key=lambda target: (sizes[target]["images"], target))
    for target in dict.fromkeys((by_size[0], by_size[-1])):
        captions = {name: f"{name}, seed {one.run.seeds[0]}; {one.conditions}" for name, one in runs.items()}
        folders = {captions[name]: one.folder for name, one in runs.items()}
        try:
            drawn = spectra.densities(folders, target)
        except (DataError, OSError, ValueError, TypeError, KeyError) as error:
            problems.append(f"the spectra of {target} can't be drawn ({error})")
            continue
        title = f"{sizes[target]['title']} ({sizes[target]['images']:,} images)"
        yield Pictures(
            [
                Picture(f"spectrum {target} {name}", style.render(drawn[text]), f"Hessian spectrum of {title}: {text}.")
                for name, text in captions.items()
            ]
        )


def _ratios(measured: Mapping[str, Sequence[Measured]], problems: list[str]) -> Iterator[Block]:
    """Draw |λmin/λmax| over epochs of each method's first run that was measured at two steps or more."""
    along: dict[str, tuple[Run, float]] = {}
    for name, one_row in measured.items():
        for one in one_row:
            try:
                found = spectra.alike_summaries(one.run.folder)
                values = [target["ratio"] or 0.0 for summary in found for target in summary["targets"].values()]
                if len(found) > 1:
                    along.setdefault(name, (one.run, max(values)))
            except (DataError, OSError, ValueError, TypeError, KeyError) as error:
                problems.append(f"{one.run.folder}: |λmin/λmax| can't be drawn ({error})")
    drawn = []
    for name, (run, _) in along.items():
        figure = spectra.ratios({name: run.folder}, (5, 3.6), top=1.05 * max(top for _, top in along.values()) or 1.0)
        caption = f"{name}, seed {run.seeds[0]}: |λmin/λmax| over epochs. 0 means that no direction curves down."
        drawn.append(Picture(f"ratio {name}", style.render(figure), caption))
    if drawn:
        yield Pictures(drawn)


def _landscapes(measured: Mapping[str, Sequence[Measured]], problems: list[str]) -> Iterator[Block]:
    """Draw the landscape of the rarest class of each method's first run that has one."""
    drawn = []
    for name, one_row in measured.items():
        for one in one_row:
            if not one.summary["settings"].get("landscape"):
                continue
            target = min(one.summary["targets"], key=lambda target: one.summary["targets"][target]["images"])
            try:
                stored = spectra.load(one.folder, target)
                caption = f"{name}, seed {one.run.seeds[0]}. {slices.about_plane(stored)}"
                figure = slices.landscape(stored, noted=False)
                drawn.append(Picture(f"landscape {target} {name}", style.render(figure), caption))
            except (DataError, OSError, ValueError, TypeError, KeyError) as error:
                problems.append(f"the landscape of {target} can't be drawn ({error})")
            break
    if drawn:
        yield Pictures(drawn)
