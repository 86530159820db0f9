"""Measure the paper's CIFAR-10-LT rows: CE+DRW and LDAM+DRW, with SGD and with SAM, ratio 100, several seeds.

    python benchmarks/cifar10_lt.py --data cifar10_lt100.npz --seeds 3 --budget 25m

Runs cells in turn until the budget is spent; calling it again continues where it stopped. After each run it writes
benchmarks/results/cifar10_lt.json (command, versions, devices, date, every run's last and best test report) and prints
the table. --data is an .npz of the ratio-100 subset and the test set; without it tensorflow-datasets' CIFAR-10 is used.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from saddle_jax.report import tables  # noqa: E402 (needs the path above)

CELLS = ("ce_drw_sam", "ce_drw", "ldam_drw_sam", "ldam_drw")
PREEMPTED = 75


def main() -> int:
    """Train the cells that are missing, seed by seed, and write what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an .npz with train_images, train_labels, test_images, test_labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=seconds, default="24h", help="e.g. 25m; a run that does not fit is continued")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs/cifar10_lt")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks/results/cifar10_lt.json")
    parser.add_argument("--smoke", action="store_true", help="shrunken runs on the digits, to try the script itself")
    parser.add_argument("override", nargs="*", help="further --config.FIELD=VALUE for every run, after --")
    options = parser.parse_args()
    deadline = time.monotonic() + options.budget
    for seed in range(options.seeds):
        for cell in CELLS:
            workdir = options.runs / cell / f"seed-{seed}"
            if (workdir / "results.json").is_file():
                continue
            left = deadline - time.monotonic()
            code = train(command_of(cell, seed, workdir, options), left) if left > 0 else PREEMPTED
            report(options)
            if code:
                print(f"stopped at {cell}, seed {seed} ({'budget spent' if code == PREEMPTED else f'exit {code}'})")
                return 0 if code == PREEMPTED else code
    report(options)
    return 0


def seconds(text: str) -> float:
    """Read 90s, 25m or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected e.g. 90s, 25m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def command_of(cell: str, seed: int, workdir: pathlib.Path, options: argparse.Namespace) -> list[str]:
    """Return the command that trains one cell."""
    arguments = [
        cell,
        *(["smoke"] if options.smoke else []),
        *(["profile=as_is"] if options.data and not options.smoke else []),
    ]
    command = [
        sys.executable,
        str(ROOT / "main.py"),
        "--config",
        f"{ROOT / 'configs/cifar10_lt.py'}:{','.join(arguments)}",
    ]
    if options.data and not options.smoke:
        command += ["--config.data.source=arrays", f"--config.data.path={options.data}"]
    return [*command, f"--config.seed={seed}", f"--workdir={workdir}", *options.override]


def train(command: list[str], budget: float) -> int:
    """Run the command for at most `budget` seconds, then let it save; return its exit code."""
    print(" ".join(command), flush=True)
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        return process.wait(budget)
    except subprocess.TimeoutExpired:
        process.terminate()  # it saves, unless it has not come to its first step
        return PREEMPTED if process.wait() else 0


def report(options: argparse.Namespace) -> None:
    """Write every finished run's reports and print mean ± sd (n), last and best epoch."""
    runs, rows = [], {}
    for cell in CELLS:
        finished = [path.parent for path in sorted((options.runs / cell).glob("seed-*/results.json"))]
        for workdir in finished:
            results = {which: tables.read_results(workdir, which) for which in ("last", "best")}
            runs.append({"cell": cell, "run": json.loads((workdir / "run.json").read_text()), "results": results})
        for which in ("last", "best") if finished else ():
            rows[f"{cell}, {which} epoch"] = [tables.read_results(workdir, which) for workdir in finished]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    written = {"command": sys.argv, "date": time.strftime("%Y-%m-%d"), "smoke": options.smoke, "runs": runs}
    options.out.write_text(json.dumps(written, indent=1))
    if rows:
        print(tables.comparison(rows), flush=True)


if __name__ == "__main__":
    sys.exit(main())
