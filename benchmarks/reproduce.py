"""Reproduce the CIFAR-LT tables of the paper, GLMC+SAM, and PaCo+SAM: train cells, and write docs/results.md.

    python benchmarks/reproduce.py --cell cifar10_lt:ce_drw_sam,ratio=100 --seed 0
    python benchmarks/reproduce.py --table cifar_lt --seeds 3 --budget 9m     # the paper's main claims first
    python benchmarks/reproduce.py --page                                     # write the page, train nothing

Training stops when the budget is spent or on SIGTERM, and the same call continues. Each finished cell and seed becomes
a file in benchmarks/results/cifar/: the command, versions, device, hours, and the test reports of the last and the best
epoch. To merge the results of several machines, copy their files into that folder. docs/results.md is written from
them: ours next to the published figures.

CIFAR comes from tensorflow-datasets or from --data FOLDER. That folder holds a cell's subset and test set as
cifar10_lt100.npz (train_images, train_labels, test_images, test_labels). Cells without a file are left out.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import cifar_rows  # noqa: E402 (needs the path above)
import results_page  # noqa: E402
from published import CIFAR_LT, QUARTER, WAYS_OUT, WITH_SPECTRA, Cell  # noqa: E402

from saddle_jax.experiment import schema  # noqa: E402

TABLES = {"cifar_lt": CIFAR_LT, "quarter": QUARTER, "ways_out": WAYS_OUT}
# By their configs. A cell with another weight decay has the config of the one without, and is trained by --table.
CELLS = {cell.config(): cell for table in TABLES.values() for cell in table if not cell.weight_decay}
PREEMPTED = 75


def main() -> int:
    """Train the missing cells, and write the page."""
    options = parse()
    code = 0
    if not options.page_only:
        with Stop() as stop:
            code = train_cells(options, time.monotonic() + options.budget, stop)
    results_page.write(options.page, options.results)
    print(f"page   {options.page}")
    return code


def parse() -> argparse.Namespace:
    """Return the options, with files and folders as absolute paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--cell", metavar="CONFIG", help="train one cell, e.g. cifar10_lt:ce_drw_sam,ratio=100")
    chosen.add_argument(
        "--table", choices=TABLES, default="cifar_lt", help="train a table's cells, one after the other"
    )
    chosen.add_argument("--page", dest="page_only", action="store_true", help="write the page, and train nothing")
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--seed", type=int, help="train this seed alone")
    number.add_argument("--seeds", type=int, default=3, help="train seeds 0, 1, ..., this many (default: 3)")
    parser.add_argument("--budget", type=seconds, default="1000h", help="time limit, e.g. 9m; the next call continues")
    parser.add_argument("--data", type=pathlib.Path, help="folder of .npz files (default: use tensorflow-datasets)")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs/cifar", help="folder for the runs")
    parser.add_argument("--results", type=pathlib.Path, default=cifar_rows.FOLDER, help="folder for the results")
    parser.add_argument("--out", dest="page", type=pathlib.Path, default=results_page.PAGE, help="page to write")
    parser.add_argument("--smoke", action="store_true", help="try the script itself with shrunken runs on the digits")
    parser.add_argument("override", nargs="*", help="more --config.FIELD=VALUE flags for every run, after --")
    options = parser.parse_args()
    if options.cell and options.cell not in CELLS:
        near = [config for config in CELLS if config.startswith(options.cell.partition(",")[0])]
        examples = ", ".join(near or list(CELLS)[:4])
        parser.error(f"--cell: found {options.cell!r}, expected one of the tables' cells, such as {examples}")
    fields = {override.partition("=")[0].removeprefix("--config."): None for override in options.override}
    differs = options.smoke or bool(schema.fixed_fields(fields))
    for name, flag in (("results", "--results"), ("page", "--out")) if differs else ():
        if getattr(options, name) == parser.get_default(name):
            parser.error(f"{flag}: these runs are not the table's (--smoke, or overrides). Name a {flag} of their own")
    if options.data is not None and not options.data.is_dir():
        parser.error(f"--data: found no folder {options.data}, expected one of .npz files (see above)")
    for name in ("data", "runs", "results", "page"):
        setattr(options, name, getattr(options, name) and getattr(options, name).resolve())
    return options


class Stop:
    """Pass SIGTERM and SIGINT on to the run in progress, which then saves."""

    def __init__(self):
        self.asked = False
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self.asked = True
        if self.process is not None:
            self.process.terminate()


def seconds(text: str) -> float:
    """Parse 90s, 25m, or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected e.g. 90s, 25m, or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def train_cells(options: argparse.Namespace, deadline: float, stop: Stop) -> int:
    """Train cell after cell, even after one that fails. Return 0 when the budget is spent or nothing is left."""
    worst = 0
    for cell in [CELLS[options.cell]] if options.cell else TABLES[options.table]:
        wanted = range(options.seeds) if options.seed is None else (options.seed,)
        missing = [seed for seed in wanted if not cifar_rows.path_of(options.results, cell, seed).is_file()]
        if not missing:
            continue
        if not has_data(cell, options):
            print(f"left out: {cell.name}, no {data_file(cell, options).name}")
            continue
        command, left = command_of(cell, options), deadline - time.monotonic()
        code = train(command, left, stop) if left > 0 else PREEMPTED
        for seed in missing:
            run = options.runs / cell.name / f"seed-{seed}"
            if (run / "results.json").is_file():
                cifar_rows.write(options.results, cell, seed, run, command)
        if code == PREEMPTED:
            print(f"stopped at {cell.name} ({'asked to' if stop.asked else 'budget spent'})")
            return worst
        if code:
            worst = worst or code
            print(f"failed: {cell.name}, exit {code}")
    return worst


def has_data(cell: Cell, options: argparse.Namespace) -> bool:
    """Return whether the cell's images are available."""
    return options.smoke or options.data is None or data_file(cell, options).is_file()


def data_file(cell: Cell, options: argparse.Namespace) -> pathlib.Path:
    """Return the file of a cell's images."""
    return options.data / f"{cell.data}_lt{cell.ratio}.npz"


def command_of(cell: Cell, options: argparse.Namespace) -> list[str]:
    """Return the command that trains the cell's seeds, without the interpreter."""
    as_is = bool(options.data) and not options.smoke
    command = ["main.py", "--config", cell.config(smoke=options.smoke, as_is=as_is)]
    if as_is:
        command += ["--config.data.source=arrays", f"--config.data.path={data_file(cell, options)}"]
    if cell in WITH_SPECTRA:  # for benchmarks/saddle_rows.py
        command.append("--config.keep_every=10 epochs")
    workdir = options.runs / cell.name
    if options.seed is None and options.seeds > 1:  # accelerators train them at once
        command.append(f"--config.num_seeds={options.seeds}")
    else:
        command.append(f"--config.seed={options.seed or 0}")
        workdir /= f"seed-{options.seed or 0}"
    return [*command, *cell.overrides, *options.override, f"--workdir={workdir}"]


def train(command: list[str], budget: float, stop: Stop) -> int:
    """Run the command for at most `budget` seconds, then let it save. Return its exit code."""
    print(shlex.join(command), flush=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    stop.process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment)
    cut = stop.asked  # a signal came just before
    try:
        code = stop.process.wait(0 if cut else budget)
    except subprocess.TimeoutExpired:
        cut = True
        stop.process.terminate()  # it saves, unless it has not come to its first step
        code = stop.process.wait()
    return PREEMPTED if code in (PREEMPTED, -signal.SIGTERM) and (cut or stop.asked) else code


if __name__ == "__main__":
    sys.exit(main())
