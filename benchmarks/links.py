"""Train long-tailed digits with every link of the optimizer, paired by seed, next to SGD of equal compute.

    python benchmarks/links.py                    # the table: 12 seeds, CE+DRW and LDAM+DRW; an hour on two idle cores
    python benchmarks/links.py --tune             # all sizes that were tried on other seeds, side by side
    python benchmarks/links.py --time             # only seconds, with links in turns, relative to SGD's

Everything runs in one process. A run's figures are saved as soon as it ends, in benchmarks/results/links-<mode>.json.
Another call continues where the last one stopped. Each seed has its own images (data.subset_seed). All links see them
in the same order and start from the same weights. Figures are those of the last epoch. Nothing is chosen on the table's
seeds. `python benchmarks/reproduce.py --page` shows the table in docs/results.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import links_page  # noqa: E402 (needs the path above)
from benchmarks.links_rows import CANDIDATES, LOSSES, ROWS, TAIL, Row, config_of, settings_of  # noqa: E402
from benchmarks.measure import RESULTS  # noqa: E402
from saddle_jax.data import sources  # noqa: E402
from saddle_jax.errors import OperatorError  # noqa: E402
from saddle_jax.host.files import write_atomically  # noqa: E402
from saddle_jax.report import tables  # noqa: E402
from saddle_jax.spectra import results as spectra_results  # noqa: E402
from saddle_jax.spectra.spectrometer import Spectrometer  # noqa: E402
from saddle_jax.training import checkpoint, loop, metrics  # noqa: E402
from saddle_jax.training.program import Program, make_program  # noqa: E402

PACKAGES = ("jax", "flax", "optax")


class Mode(NamedTuple):
    """The runs that a call trains."""

    rows: Mapping[str, Row]
    first_seed: int
    seeds: int
    losses: tuple[str, ...]
    in_turns: bool  # every row of a seed before the next seed, so that seconds can be compared
    curvature: bool


MODES = {
    "digits": Mode(ROWS, 0, 12, ("ce_drw", "ldam_drw"), in_turns=True, curvature=True),
    "tuning": Mode(CANDIDATES, 100, 3, ("ce_drw",), in_turns=False, curvature=False),
    "time": Mode(ROWS, 0, 3, ("ce_drw",), in_turns=True, curvature=False),
}


def main() -> None:
    """Train the missing runs, then show all that exist."""
    options = parse()
    Trainer(options).train()
    if options.mode == "tuning":
        show_tuning(read(options.output / "links-tuning.json"), options.seeds)
        return
    if options.mode == "digits":
        print("\n".join(links_page.section(options.output)))


def parse() -> argparse.Namespace:
    """Return the options, with the mode's own defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_mutually_exclusive_group()
    for mode, flag in (("tuning", "--tune"), ("time", "--time")):
        modes.add_argument(flag, dest="mode", action="store_const", const=mode, default="digits")
    parser.add_argument("--losses", nargs="+", choices=LOSSES)
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", help="train only these, e.g. sgd sam (with --tune, pgd le_sam)"
    )
    parser.add_argument("--seeds", type=int, help="number of seeds (from 0 for the table, from 100 for tuning)")
    parser.add_argument("--epochs", type=int, default=100, help="epochs per run; use fewer to try the script")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS, help="folder for the figures")
    options = parser.parse_args()
    mode = MODES[options.mode]
    known = {name: row for name, row in mode.rows.items() if not options.rows or {name, row.link} & {*options.rows}}
    names = {*mode.rows, *(row.link for row in mode.rows.values())}
    if unknown := [name for name in options.rows or () if name not in names]:
        parser.error(f"--rows: found {', '.join(unknown)}, expected any of {', '.join(mode.rows)}")
    options.rows = known
    options.losses = tuple(options.losses or mode.losses)
    options.seeds = mode.seeds if options.seeds is None else options.seeds
    for name in ("seeds", "epochs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: found {getattr(options, name)}, expected 1 or more")
    return options


class Trainer:
    """A trainer of the runs that the file of figures lacks, which enters each one."""

    def __init__(self, options: argparse.Namespace):
        self._options, self._mode = options, MODES[options.mode]
        self._path = options.output / f"links-{options.mode}.json"
        self._record = {**header(), "epochs": options.epochs, "settings": {}, "runs": {}} | read(self._path)
        self._require_same(header() | {"epochs": options.epochs})
        self._programs: dict[str, Program] = {}
        self._spectrometer: Spectrometer | None = None

    def _require_same(self, now: Mapping[str, Any]) -> None:
        """Exit if the figures in the file are from other versions, machines, or settings."""
        stored = [(name, self._record[name], now[name]) for name in ("versions", "device", "epochs")]
        for loss in self._options.losses:
            for name, row in self._options.rows.items():
                settings = settings_of(config_of(loss, row, 0, self._options.epochs))
                kept = self._record["settings"].setdefault(loss, {}).setdefault(name, settings)
                stored.append((f"{loss} {name}", kept, settings))
        if changed := [f"{name}: found {old}, now {new}" for name, old, new in stored if old != new]:
            fix = f"Fix: use another --output, or remove those runs from {self._path.name}"
            sys.exit("\n".join([f"{self._path.name} holds figures from other settings", *changed, fix]))

    def train(self) -> None:
        """Train one run after another."""
        for loss in self._options.losses:
            self._programs, self._spectrometer = {}, None
            for name, seed in self._order():
                runs = self._record["runs"].setdefault(loss, {}).setdefault(name, {})
                if str(seed) in runs:
                    continue
                found = self._run(loss, name, seed)
                runs[str(seed)] = found
                self._record |= header()
                self._options.output.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, as_json(self._record))
                print(f"{loss} {name} seed {seed}: {one_line(found)}", flush=True)

    def _order(self) -> Iterator[tuple[str, int]]:
        seeds = range(self._mode.first_seed, self._mode.first_seed + self._options.seeds)
        if self._mode.in_turns:
            return ((name, seed) for seed in seeds for name in self._options.rows)
        return ((name, seed) for name in self._options.rows for seed in seeds)

    def _run(self, loss: str, name: str, seed: int) -> dict[str, float]:
        """Return a run's figures. Train it in a temporary directory."""
        config = config_of(loss, self._options.rows[name], seed, self._options.epochs)
        splits = sources.load(config)
        if name not in self._programs:
            if not self._mode.in_turns:
                self._programs.clear()
            self._programs[name] = make_program(config, splits)
        program = self._programs[name]
        with tempfile.TemporaryDirectory() as folder:
            workdir = pathlib.Path(folder) / "run"
            reports = loop.train(config, workdir, splits, program, ["links"], quiet=True)
            (logged,) = [record for record in metrics.read(workdir) if "images_per_second" in record]
            steps = logged["step"]
            found = {column: round(tables.accuracy(reports["last"], column), 4) for column in tables.COLUMNS}
            found["evaluations"] = round(logged["train/gradient_evaluations"] * steps, 1)
            # From the end of the first step, with which all is compiled, to that of the last.
            found["seconds"] = round(steps * config.batch_size / logged["images_per_second"], 3)
            if self._mode.curvature:
                self._spectrometer = (self._spectrometer.another if self._spectrometer else Spectrometer)(
                    config, splits
                )
                like = program.init(0)
                state = checkpoint.restore(checkpoint.find(workdir / "checkpoints"), like)
                try:
                    measured = self._spectrometer.measure(jax.device_get(state), workdir, quiet=True)
                except OperatorError as error:  # a class is fitted so well that its curvature is rounding
                    print(f"{loss} {name} seed {seed}: no eigenvalue, {error}", file=sys.stderr, flush=True)
                else:
                    targets = spectra_results.read_summary(measured)["targets"]
                    found |= smallest([targets[f"class-{c}"] for c in TAIL])
        return found


def smallest(targets: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the most negative eigenvalue of some classes, with its residual."""
    value, residual = min((target["lambda_min"], target["residual_min"]) for target in targets)
    return {"lambda_min": round(value, 5), "residual": float(f"{residual:.2g}")}


def header() -> dict[str, Any]:
    """Return a record of how the figures are made."""
    return {
        "command": shlex.join(["python", "benchmarks/links.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
    }


def read(path: pathlib.Path) -> dict[str, Any]:
    """Return the figures of earlier calls."""
    return json.loads(path.read_text()) if path.is_file() else {}


def as_json(record: Mapping[str, Any]) -> str:
    """Return the record as JSON, with one line per run."""
    text = json.dumps({key: value for key, value in record.items() if key not in ("settings", "runs")}, indent=1)

    def lines(tree: Mapping[str, Any], depth: int) -> str:
        if not depth:
            return json.dumps(tree)
        pad = " " * (4 - depth)
        parts = [f"{pad}{json.dumps(key)}: {lines(value, depth - 1)}" for key, value in tree.items()]
        return "{\n" + ",\n".join(parts) + f"\n{pad[1:]}}}"

    settings, runs = lines(record["settings"], 2), lines(record["runs"], 3)
    return f'{text[:-2]},\n "settings": {settings},\n "runs": {runs}\n}}\n'


def one_line(found: Mapping[str, float]) -> str:
    """Return "overall 91.2  tail 76.1  500 evaluations  3.1 s"."""
    curvature = f"  λ {found['lambda_min']:.3f}" if "lambda_min" in found else ""
    return (
        f"overall {found['overall']:.1f}  tail {found['tail']:.1f}  {found['evaluations']:.0f} evaluations  "
        f"{found['seconds']:.1f} s{curvature}"
    )


def show_tuning(record: Mapping[str, Any], number: int) -> None:
    """Print the result of every size on the first seeds, and its paired difference from SGD."""
    seeds = [str(MODES["tuning"].first_seed + i) for i in range(number)]
    for loss, rows in record["runs"].items():
        print(f"\n{loss}, seeds {', '.join(seeds)}; then the difference from SGD")
        lines = [["", "overall", "tail", "overall", "tail"]]
        for name, runs in rows.items():
            if runs.keys() >= set(seeds) and rows["sgd"].keys() >= set(seeds):
                values = {c: np.array([runs[seed][c] for seed in seeds]) for c in ("overall", "tail")}
                changes = [values[c] - [rows["sgd"][seed][c] for seed in seeds] for c in values]
                cells = [*map(tables.spread, values.values()), *(f"{change.mean():+.1f}" for change in changes)]
                lines.append([name, *cells])
        print(tables.aligned(lines))


if __name__ == "__main__":
    main()
