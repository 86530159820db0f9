"""Reproduce the paper's CIFAR-LT table, several seeds at once, in the order of what the paper claims most.

    python benchmarks/reproduce.py --table cifar_lt --seeds 3 --budget 9m

Trains cells until the budget is spent; calling it again continues where it stopped. As soon as a cell has finished,
benchmarks/results/<table>.json gets it (command, versions, devices, date, every run's last and best test report) and
docs/results.md is written anew: ours beside the paper's; cells that have not been run are empty.

CIFAR comes from tensorflow-datasets, or from --data FOLDER, which holds a cell's subset and test set as
cifar10_lt100.npz (train_images, train_labels, test_images, test_labels); cells without a file are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from published import CIFAR_LT, COLUMNS, PUBLISHED, Cell  # noqa: E402 (needs the path above)

from saddle_jax.report import tables  # noqa: E402

TABLES = {"cifar_lt": CIFAR_LT}
PREEMPTED = 75


def main() -> int:
    """Train the cells that are missing, and write what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=TABLES, default="cifar_lt")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=seconds, default="24h", help="e.g. 9m; a cell that does not fit is continued")
    parser.add_argument("--data", type=pathlib.Path, help="folder of .npz files; default tensorflow-datasets")
    parser.add_argument("--cells", default="", help="only cells whose name holds this, e.g. cifar10_lt-100-ce")
    parser.add_argument("--runs", type=pathlib.Path, help="folder of the runs; default runs/<table>")
    parser.add_argument("--out", type=pathlib.Path, help="default benchmarks/results/<table>.json")
    parser.add_argument("--page", type=pathlib.Path, default=ROOT / "docs/results.md")
    parser.add_argument("--smoke", action="store_true", help="shrunken runs on the digits, to try the script itself")
    parser.add_argument("override", nargs="*", help="further --config.FIELD=VALUE for every run, after --")
    options = parser.parse_args()
    options.runs = options.runs or ROOT / "runs" / options.table
    options.out = options.out or ROOT / "benchmarks/results" / f"{options.table}.json"
    code = train_cells(options, time.monotonic() + options.budget)
    print(f"page   {options.page}")
    return code


def seconds(text: str) -> float:
    """Read 90s, 25m or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected e.g. 90s, 25m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def train_cells(options: argparse.Namespace, deadline: float) -> int:
    """Train cell after cell; return 0 when the budget is spent or nothing is left."""
    results = read(options)
    write_page(results, options)
    for cell in TABLES[options.table]:
        finished = results.get(cell.name, {}).get("n", 0) >= options.seeds
        if finished or options.cells not in cell.name or not has_data(cell, options):
            continue
        command, workdir = command_of(cell, options), options.runs / cell.name
        left = deadline - time.monotonic()
        code = train([*command, f"--workdir={workdir}"], left) if left > 0 else PREEMPTED
        if code:
            print(f"stopped at {cell.name} ({'budget spent' if code == PREEMPTED else f'exit {code}'})")
            return 0 if code == PREEMPTED else code
        results[cell.name] = result(workdir, command, options)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1))
        write_page(results, options)
    return 0


def has_data(cell: Cell, options: argparse.Namespace) -> bool:
    """Return whether the cell's images are at hand."""
    return options.smoke or options.data is None or data_file(cell, options).is_file()


def data_file(cell: Cell, options: argparse.Namespace) -> pathlib.Path:
    """Return the file of a cell's images."""
    return options.data / f"{cell.data}_lt{cell.ratio}.npz"


def command_of(cell: Cell, options: argparse.Namespace) -> list[str]:
    """Return the command that trains a cell, all but its interpreter and its directory."""
    choice = [cell.method, *(["smoke"] if options.smoke else [])]
    choice += ["profile=as_is"] if options.data and not options.smoke else [f"ratio={cell.ratio}"]
    command = ["main.py", "--config", f"configs/{cell.data}_lt.py:{','.join(choice)}"]
    if options.data and not options.smoke:
        command += ["--config.data.source=arrays", f"--config.data.path={data_file(cell, options)}"]
    return [*command, f"--config.num_seeds={options.seeds}", *options.override]


def train(command: list[str], budget: float) -> int:
    """Run the command for at most `budget` seconds, then let it save; return its exit code."""
    print(shlex.join(command), flush=True)
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        return process.wait(budget)
    except subprocess.TimeoutExpired:
        process.terminate()  # it saves, unless it has not come to its first step
        return PREEMPTED if process.wait() else 0


def read(options: argparse.Namespace) -> dict[str, Any]:
    """Return the results of earlier calls; those of a smoke test and of full runs are not mixed."""
    results = json.loads(options.out.read_text()) if options.out.is_file() else {}
    if any(result["smoke"] != options.smoke for result in results.values()):
        sys.exit(f"{options.out} holds results with smoke={not options.smoke}. Fix: another --out")
    return results


def result(workdir: pathlib.Path, command: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return all that is kept of a finished cell."""
    runs = sorted(workdir.glob("seed-*")) or [workdir]
    start = json.loads((runs[0] / "run.json").read_text())["starts"][-1]
    kept = {key: start[key] for key in ("saddle_jax", "git", "python", "packages", "devices")}
    reports = {which: [tables.read_results(run, which) for run in runs] for which in ("last", "best")}
    shown = [pathlib.Path(part.split("=", 1)[1]).name if "data.path=" in part else "" for part in command]
    public = [f"--config.data.path={name}" if name else part for part, name in zip(command, shown, strict=True)]
    row = {"command": f"python {shlex.join(public)}", "date": time.strftime("%Y-%m-%d"), "smoke": options.smoke}
    return {**row, "n": len(runs), **kept, **reports}


def write_page(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Write docs/results.md: every cell of the table, the paper's figures and ours."""
    lines = [
        "# Results",
        "",
        *(["**Of a smoke test: shrunken runs on another data set.**", ""] if options.smoke else []),
        "Test accuracy in percent: overall, head / mid / tail (the paper's groups). The paper reports the best test",
        "epoch; ours are the best and the last, mean ± standard deviation over n seeds. The difference is between",
        "best epochs. The paper does not give the rho of VS+SAM; ours is a choice (`configs/`). Rows without ours have",
        "not been run. Made by `python benchmarks/reproduce.py`; details are in",
        f"`benchmarks/results/{options.table}.json`.",
    ]
    groups = dict.fromkeys((cell.data, cell.ratio) for cell in TABLES[options.table])
    for data, ratio in groups:
        lines += ["", f"## {data.upper().replace('CIFAR', 'CIFAR-')}-LT, ratio {ratio}, ResNet-32", ""]
        lines += ["| method | | overall | head | mid | tail | n |", "|---|---|---|---|---|---|---|"]
        for cell in (c for c in TABLES[options.table] if (c.data, c.ratio) == (data, ratio)):
            lines += rows(cell, results.get(cell.name))
    ran = {name: found for name, found in results.items() if found}
    lines += ["", "## Commands", ""] if ran else []
    for name, found in ran.items():
        versions = ", ".join(f"{package} {found['packages'][package]}" for package in ("jax", "flax", "optax"))
        lines += [f"- {name}: `{found['command']}` ({found['date']}, {found['devices'][0]}, {versions})"]
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text("\n".join(lines) + "\n")


def rows(cell: Cell, found: dict[str, Any] | None) -> list[str]:
    """Return the table's lines for one cell: the paper, ours twice, the difference of the overall accuracies."""
    published = PUBLISHED.get(cell, {})
    method = cell.method.upper().replace("_", "+")
    lines = [[method, "paper", *(published.get(column, "") for column in COLUMNS), ""]]
    if found is None:
        lines += [["", "ours", "", "", "", "", ""]]
    else:
        ours = {
            which: {c: [tables.accuracy(report, c) for report in found[which]] for c in COLUMNS}
            for which in ("best", "last")
        }
        for which, values in ours.items():
            lines += [["", f"ours, {which}", *(tables.spread(values[c]) for c in COLUMNS), str(found["n"])]]
        if published:
            theirs = {c: float(value.split("±")[0]) for c, value in published.items()}
            means = {c: sum(values) / found["n"] for c, values in ours["best"].items()}
            lines += [["", "difference", *(f"{means[c] - theirs[c]:+.1f}" if c in theirs else "" for c in COLUMNS), ""]]
    return ["| " + " | ".join(line) + " |" for line in lines]


if __name__ == "__main__":
    sys.exit(main())
