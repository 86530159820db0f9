"""Reproduce the CIFAR-LT tables of the paper, GLMC+SAM, and PaCo+SAM, with the paper's main claims first.

    python benchmarks/reproduce.py --table cifar_lt --seeds 3 --budget 9m
    python benchmarks/reproduce.py --table ways_out --seeds 3 --budget 9m     # every link, and SGD with more epochs

It trains cells until the budget is spent. Another call continues where the last one stopped. Each finished cell goes
into benchmarks/results/<table>.json (command, versions, devices, date, and every run's last and best test report). Its
page, docs/results.md, is then rewritten: ours next to the paper's. Cells that are neither published nor run are left
out. The section at its end that benchmarks/links.py writes stays.

CIFAR comes from tensorflow-datasets or from --data FOLDER. That folder holds a cell's subset and test set as
cifar10_lt100.npz (train_images, train_labels, test_images, test_labels). Cells without a file are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from published import CIFAR_LT, PUBLISHED, WAYS_OUT, Cell  # noqa: E402 (needs the path above)

from benchmarks.links_page import kept_section  # noqa: E402
from saddle_jax.host.files import write_atomically  # noqa: E402
from saddle_jax.report import tables  # noqa: E402

TABLES = {"cifar_lt": CIFAR_LT, "ways_out": WAYS_OUT}
PAGES = {"cifar_lt": "docs/results.md", "ways_out": "docs/results_ways_out.md"}
ANCHOR = "#ways-out-of-the-saddle-digits"  # of the section that benchmarks/links.py writes
PREEMPTED = 75


def main() -> int:
    """Train the missing cells, and write all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=TABLES, default="cifar_lt")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--budget", type=seconds, default="24h", help="time limit, e.g. 9m; the next call continues an unfinished cell"
    )
    parser.add_argument("--data", type=pathlib.Path, help="folder of .npz files (default: use tensorflow-datasets)")
    parser.add_argument("--cells", default="", help="train only cells whose name contains this, e.g. cifar10_lt-100-ce")
    parser.add_argument("--runs", type=pathlib.Path, help="folder for the runs (default: runs/<table>)")
    parser.add_argument(
        "--out", type=pathlib.Path, help="file for the results (default: benchmarks/results/<table>.json)"
    )
    parser.add_argument(
        "--page", type=pathlib.Path, help="page to write (default: docs/results.md, or results_ways_out.md)"
    )
    parser.add_argument("--smoke", action="store_true", help="try the script itself with shrunken runs on the digits")
    parser.add_argument("override", nargs="*", help="more --config.FIELD=VALUE flags for every run, after --")
    options = parser.parse_args()
    name = f"{options.table}-smoke" if options.smoke else options.table
    options.runs = (options.runs or ROOT / "runs" / name).resolve()
    options.out = (options.out or ROOT / "benchmarks/results" / f"{name}.json").resolve()
    options.page = (
        options.page or (ROOT / "runs" / f"{name}.md" if options.smoke else ROOT / PAGES[options.table])
    ).resolve()
    if options.data is not None and not options.data.is_dir():
        parser.error(f"--data: found no folder {options.data}, expected one of .npz files (see above)")
    options.data = options.data and options.data.resolve()
    if not any(options.cells in cell.name for cell in TABLES[options.table]):
        parser.error(
            f"--cells: found {options.cells!r}, expected part of a cell's name, e.g. {TABLES[options.table][0].name}"
        )
    with Stop() as stop:
        code = train_cells(options, time.monotonic() + options.budget, stop)
    print(f"page   {options.page}")
    return code


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
    results, worst = read(options), 0
    write_page(results, options)
    for cell in TABLES[options.table]:
        command, workdir = command_of(cell, options), options.runs / cell.name
        if options.cells not in cell.name or is_finished(results.get(cell.name), command, options):
            continue
        if not has_data(cell, options):
            print(f"left out: {cell.name}, no {data_file(cell, options).name}")
            continue
        left = deadline - time.monotonic()
        only = workdir / "seed-0" if options.seeds == 1 else workdir  # so that a call with more seeds continues it
        code = train([*command, f"--workdir={only}"], left, stop) if left > 0 else PREEMPTED
        if code == PREEMPTED:
            print(f"stopped at {cell.name} ({'asked to' if stop.asked else 'budget spent'})")
            return worst
        if code:
            worst = worst or code
            print(f"failed: {cell.name}, exit {code}")
        results[cell.name] = result(workdir, command, options, code)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, json.dumps(results, indent=1))
        write_page(results, options)
    return worst


def is_finished(found: dict[str, Any] | None, command: list[str], options: argparse.Namespace) -> bool:
    """Return whether a cell needs no more training: this command has succeeded for enough seeds.

    Results of another command (such as a trial with overrides) are not mixed with those of this one.
    """
    if found is None or found["exit"]:
        return False
    if without_seeds(found["command"].split()) != without_seeds(public(command).split()):
        sys.exit(
            f"{options.out} holds a cell from another command: {found['command']}. This call's is {public(command)}. "
            "Fix: use the same options, or another --out, --runs, and --page"
        )
    return found["n"] >= options.seeds


def without_seeds(words: list[str]) -> list[str]:
    """Return a command's words without the number of seeds."""
    return [word for word in words if "--config.num_seeds=" not in word]


def has_data(cell: Cell, options: argparse.Namespace) -> bool:
    """Return whether the cell's images are available."""
    return options.smoke or options.data is None or data_file(cell, options).is_file()


def data_file(cell: Cell, options: argparse.Namespace) -> pathlib.Path:
    """Return the file of a cell's images."""
    return options.data / f"{cell.data}_lt{cell.ratio}.npz"


def command_of(cell: Cell, options: argparse.Namespace) -> list[str]:
    """Return the command that trains a cell, without its interpreter and its directory."""
    as_is = bool(options.data) and not options.smoke
    command = ["main.py", "--config", cell.config(smoke=options.smoke, as_is=as_is)]
    if options.data and not options.smoke:
        command += ["--config.data.source=arrays", f"--config.data.path={data_file(cell, options)}"]
    return [*command, *cell.overrides, f"--config.num_seeds={options.seeds}", *options.override]


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


def read(options: argparse.Namespace) -> dict[str, Any]:
    """Return the results of earlier calls."""
    return json.loads(options.out.read_text()) if options.out.is_file() else {}


def result(workdir: pathlib.Path, command: list[str], options: argparse.Namespace, code: int) -> dict[str, Any]:
    """Return everything that is kept of a cell, for the seeds that have finished."""
    row = {"command": public(command), "date": time.strftime("%Y-%m-%d"), "smoke": options.smoke, "exit": code}
    seeds = [workdir / f"seed-{seed}" for seed in range(options.seeds)]
    runs = [run for run in seeds if (run / "results.json").is_file()]
    if not runs:
        return {**row, "n": 0}
    start = json.loads((runs[0] / "run.json").read_text())["starts"][-1]
    kept = {key: start[key] for key in ("saddle_jax", "git", "python", "packages", "devices")}
    reports = {which: [tables.read_results(run, which) for run in runs] for which in ("last", "best")}
    return {**row, "n": len(runs), **kept, **reports}


def public(command: list[str]) -> str:
    """Return the command as anyone may type it, with files reduced to their names."""
    words = [pathlib.Path(word.split("=", 1)[1]).name if ".data.path=" in word else "" for word in command]
    shown = [f"--config.data.path={name}" if name else word for word, name in zip(command, words, strict=True)]
    return f"python {shlex.join(shown)}"


def write_page(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Write the table's page: every cell of the table, with the paper's figures and ours."""
    kept = kept_section(options.page)
    lines = [
        "# Results",
        "",
        *(["**Of a smoke test: shrunken runs on another data set.**", ""] if options.smoke else []),
        'This page compares the published accuracy of each method with ours. Where the row "ours" is empty, we have',
        "not run the method yet. Figures are test accuracy in percent, overall and for the paper's groups of classes.",
        *(["", f"[Measured results on digits]({ANCHOR}) are at the end of the page."] if kept else []),
        "",
        '- Rows named "paper" hold published figures. With ResNet-32 at ratio 100, they come from the slides of',
        "  Rangwani et al. (NeurIPS 2022), which do not state the number of seeds. At ratios 10 and 200 and for",
        "  PaCo+SAM, they come from a leaderboard. For GLMC and GLMC+SAM, they come from the repository of GLMC+SAM.",
        "  Those of PaCo are unverified. Methods without a published figure appear once we have run them.",
        "  [recipes.md](recipes.md) also has the large sets and pretrained networks.",
        "- Published figures are those of the best test epoch. Ours are those of the best and of the last epoch,",
        "  mean ± standard deviation over n seeds. The row of differences is ours minus theirs, at the best epoch.",
        "- Nobody has published SAM's radius rho for VS+SAM or PaCo+SAM. Ours are our own choices (`configs/`).",
        "- In a command, METHOD is the row's name in lower case, with _ for + and -.",
        "- `python benchmarks/reproduce.py` writes this page, and the details of each run to",
        f"  `benchmarks/results/{options.table}.json`.",
    ]
    sections: dict[str, list[Cell]] = {}
    for cell in TABLES[options.table]:
        if cell not in PUBLISHED and cell.name not in results:
            continue
        data = cell.data.upper().replace("CIFAR", "CIFAR-")
        sections.setdefault(f"## {data}-LT, ratio {cell.ratio}, {cell.recipe}", []).append(cell)
    for title, cells in sections.items():
        command = f"saddle-jax --config {cells[0].config().replace(cells[0].method, 'METHOD', 1)}"
        lines += ["", title, "", f"`{command}`", ""]
        lines += ["| method | | overall | head | mid | tail | n |", "|---|---|---|---|---|---|---|"]
        for cell in cells:
            lines += rows(cell, results.get(cell.name))
    lines += ["", "## What was run", ""] if results else []
    for name, found in results.items():
        if found["exit"]:
            lines += [
                f"- {name}: `{found['command']}` ended with exit code {found['exit']}; {found['n']} seeds finished"
            ]
        if not found["n"]:
            continue
        versions = ", ".join(f"{package} {found['packages'][package]}" for package in ("jax", "flax", "optax"))
        lines += [f"- {name}: `{found['command']}` ({found['date']}, {found['devices'][0]}, {versions})"]
    if kept:
        lines += ["", kept.rstrip()]
    options.page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.page, "\n".join(lines) + "\n")


def rows(cell: Cell, found: dict[str, Any] | None) -> list[str]:
    """Return the table's lines for one cell: the paper, ours twice, and the difference in overall accuracy."""
    published = PUBLISHED.get(cell, {})
    lines = [[cell.title, "paper", *(published.get(column, "") for column in tables.COLUMNS), ""]]
    if found is None or not found["n"]:
        lines += [["", "ours", "", "", "", "", ""]]
    else:
        ours = {
            which: {c: [tables.accuracy(report, c) for report in found[which]] for c in tables.COLUMNS}
            for which in ("best", "last")
        }
        for which, values in ours.items():
            lines += [["", f"ours, {which}", *(tables.spread(values[c]) for c in tables.COLUMNS), str(found["n"])]]
        if published:
            theirs = {c: float(value.split("±")[0]) for c, value in published.items()}
            means = {c: sum(values) / found["n"] for c, values in ours["best"].items()}
            change = [f"{means[c] - theirs[c]:+.1f}" if c in theirs else "" for c in tables.COLUMNS]
            lines += [["", "difference", *change, ""]]
    return ["| " + " | ".join(line) + " |" for line in lines]


if __name__ == "__main__":
    sys.exit(main())
