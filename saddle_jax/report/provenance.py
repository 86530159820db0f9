"""Report sections on where the numbers come from: config differences, states of runs, versions, devices, commands."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from saddle_jax.experiment.catalogue import ENTRIES
from saddle_jax.report.page import Block, Code, Heading, Items, Table, Text
from saddle_jax.report.rows import ImageSet, all_runs, differing_fields, shown
from saddle_jax.report.runs import Run

_SIZES = {f"{name}.{link.size}" for name, link in ENTRIES["optim.name"].items()}  # sizes of the links' perturbations


def config_differences(images: ImageSet) -> Iterator[Block]:
    """Yield a table of the config fields that differ between the rows of a set."""
    fields = [field for field in differing_fields([row.config for row in images.rows]) if _tells(field, images)]
    if not fields:
        return
    yield Heading("Config differences", 3)
    cells = [[row.name, *(shown(row.config.get(field)) for field in fields)] for row in images.rows]
    yield Table(["method", *fields], cells, range(1 + len(fields)))


def _tells(field: str, images: ImageSet) -> bool:
    """Return whether a differing field says more than which rows have the field's link."""
    values = {row.config[field] for row in images.rows if field in row.config}
    return len(values) > 1 or field in _SIZES


def together(folders: Iterable[pathlib.Path]) -> str:
    """Return folders grouped by parent, such as "runs/a: seed-0, seed-1; runs/b/seed-0"."""
    parents: dict[str, list[str]] = {}
    for folder in dict.fromkeys(folders):
        parents.setdefault(str(folder.parent), []).append(folder.name)
    return "; ".join(
        f"{parent}: {', '.join(names)}" if len(names) > 1 else str(pathlib.Path(parent, names[0]))
        for parent, names in parents.items()
    )


def runs(images: Sequence[ImageSet], lost: Sequence[Run]) -> Iterator[Block]:
    """Yield every run with its state, then versions and devices, then the command of each run."""
    yield Heading("Runs")
    cells = []
    for one in images:
        for row in one.rows:
            for run in all_runs(row):
                repeated = any(run is other for other in row.repeated)
                cells.append([str(run.folder), row.name, *map(str, run.seeds), *_steps(run), _state(run, repeated)])
    cells += [[str(run.folder), "", "", "", "", "", _state(run, False)] for run in lost]
    yield Table(["run", "method", "seed", "subset seed", "last step", "best step", "state"], cells, (0, 1, 6))
    everything = [run for one in images for row in one.rows for run in all_runs(row)] + list(lost)
    yield from _machines(everything)
    yield from _commands(everything)


def _steps(run: Run) -> list[str]:
    return [f"{run.results[which]['step']:,}" if run.results else "" for which in ("last", "best")]


def _state(run: Run, repeated: bool) -> str:
    missing = "; ".join(run.problems)
    if not run.finished:
        damaged = not run.known or "no results.json" not in run.problems
        return f"{'damaged' if damaged else 'unfinished'}: {missing}"
    if repeated:
        return "not counted: this method already has a run with these seeds"
    return f"finished, but {missing}" if missing else "finished"


def notes(images: Sequence[ImageSet], lost: Sequence[Run]) -> Iterator[Block]:
    """Yield a list of the runs that are not in the table: unfinished, damaged, or repeated."""
    rows = [row for one in images for row in one.rows]
    found = [f"{run.folder}: {_state(run, False)}" for row in rows for run in row.unfinished]
    found += [f"{run.folder}: {_state(run, True)}" for row in rows for run in row.repeated]
    found += [f"{run.folder}: {_state(run, False)}" for run in lost]
    if found:
        yield Text(f"Runs that are not in the table: {len(found)}.", warning=True)
        yield Items(found)


def _machines(everything: Sequence[Run]) -> Iterator[Block]:
    groups: dict[str, list[pathlib.Path]] = {}
    for run in everything:
        for start in run.starts:
            groups.setdefault(_machine(start), []).append(run.folder)
    yield Heading("Versions and devices")
    if len(groups) > 1:
        yield Text("The runs did not all use the same software and hardware: versions or devices differ.")
    lines = [[together(folders), machine] for machine, folders in groups.items()]
    if len(lines) == 1 and all(run.starts for run in everything):
        lines[0][0] = "all runs"
    yield Table(["runs", "made with"], lines, (0, 1))


def _machine(start: Mapping[str, Any]) -> str:
    devices = start.get("devices")
    devices = [str(device) for device in devices] if isinstance(devices, list) else []
    counted = ", ".join(f"{devices.count(device)} x {device}" for device in dict.fromkeys(devices)) or "unknown devices"
    packages = ", ".join(f"{name} {version}" for name, version in (start.get("packages") or {}).items())
    return (
        f"{counted}; saddle_jax {start.get('saddle_jax', '?')}, commit {_short(start.get('git'))}; "
        f"Python {start.get('python', '?')}; {packages}"
    )


def _short(commit: Any) -> str:
    name, dash, dirty = str(commit or "unknown").partition("-")
    return f"{name[:12]}{dash}{dirty}"


def _commands(everything: Sequence[Run]) -> Iterator[Block]:
    yield Heading("Commands")
    groups: dict[str, list[pathlib.Path]] = {}
    for run in everything:
        for start in run.starts[-1:]:
            groups.setdefault(_command(start["command"]), []).append(run.folder)
    for command, folders in groups.items():
        yield Text(f"{together(folders)}:")
        yield Code(command)
    silent = [run.folder for run in everything if not run.starts]
    if silent:
        yield Text(f"No command was recorded for: {together(silent)}.")


def _command(words: Sequence[Any]) -> str:
    command = shlex.join(map(str, words))
    return f"python {command}" if words and str(words[0]).endswith(".py") else command
