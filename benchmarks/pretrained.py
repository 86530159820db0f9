"""Linear classifiers on the features of a pretrained network: every loss with SGD and SAM, paired by seed.

    python benchmarks/pretrained.py --name cifar10 --data cifar10_lt100.npz --weights efficientnet_lite0.pth --net
        efficientnet_lite0 --size 128                # one line; .npz as benchmarks/precision.py takes it

Features are computed once; then each loss trains with SGD and with AdamW, each with and without SAM. Runs that are
finished are not trained again. Writes benchmarks/results/pretrained-<name>-<device>.json and prints it as a table for
docs/pretrained.md. With --spectra, it also measures the extreme eigenvalues of the rarest classes, in the classifier.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from scipy import stats

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from measure import RESULTS, write  # noqa: E402 (needs the path above)

from saddle_jax.report import tables  # noqa: E402

LOSSES = {"CE": "ce", "CE+DRW": "ce_drw", "LA": "la", "LDAM": "ldam_drw", "VS": "vs"}
BASES = {
    "SGD": [],
    "AdamW": ["--config.optim.base=adamw", "--config.optim.lr=((0,0.0002),('5%',0.001),('100%',0.0))"],
}
LINKS = {"": "", "+SAM": "_sam"}
COLUMNS = ("overall", "head", "mid", "tail")


def main() -> None:
    """Train the missing runs, print the tables, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, choices=("cifar10", "cifar100"), help="the set, for its recipe")
    parser.add_argument("--data", type=pathlib.Path, required=True, help=".npz of the long-tailed set")
    parser.add_argument("--weights", type=pathlib.Path, required=True, help="file of the network's weights")
    parser.add_argument("--net", default="efficientnet_lite0", help="the network, as in configs/pretrained")
    parser.add_argument("--size", type=int, default=128, help="side of the images inside the network")
    parser.add_argument("--views", type=int, default=4, help="views of each training image")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rho", type=float, help="SAM's radius; by default, the recipe's")
    parser.add_argument("--spectra", action="store_true", help="also measure curvature, of seed 0 with CE")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs/pretrained", help="folder for the runs")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS, help="folder for the record")
    options = parser.parse_args()
    for path in (options.data, options.weights):
        if not path.is_file():
            parser.error(f"found no file {path}")
    rows = []
    for base in BASES:
        for loss in LOSSES:
            rows += [train(options, base, loss, link) for link in LINKS]
            print(line(rows[-2]), line(rows[-1]), gain(rows[-2], rows[-1]), sep="\n", flush=True)
    curvature = [measure(options, link) for link in LINKS] if options.spectra else []
    import jax

    record = {
        **{name: str(value) for name, value in vars(options).items() if name not in ("runs", "output")},
        "rows": rows,
        "gains": [{"row": a["row"], **paired(a, b)} for a, b in zip(rows[::2], rows[1::2], strict=True)],
        "extreme_eigenvalues": curvature,
    }
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    write(f"pretrained-{options.name}", jax.devices()[0].device_kind, packages, record, options.output)


def folder_of(options: argparse.Namespace, base: str, loss: str, link: str) -> pathlib.Path:
    """Return the directory of a row's runs. All rows share the features beside it."""
    return options.runs / f"{options.name}-{options.size}" / f"{LOSSES[loss]}{LINKS[link]}-{base.lower()}"


def train(options: argparse.Namespace, base: str, loss: str, link: str) -> dict:
    """Train a row's runs unless they are trained. Return every accuracy, and the seconds of the whole command."""
    workdir = folder_of(options, base, loss, link)
    argument = f"linear_probe,{LOSSES[loss]}{LINKS[link]},net={options.net},epochs={options.epochs},profile=as_is"
    command = ["main.py", "--config", f"configs/pretrained/{options.name}_lt.py:{argument}", *BASES[base]]
    command += ["--config.data.source=arrays", f"--config.data.path={options.data.resolve()}"]
    command += [f"--config.model.weights={options.weights.resolve()}", f"--config.model.input_size={options.size}"]
    command += [f"--config.model.cache_views={options.views}", f"--config.num_seeds={options.seeds}"]
    command += ["--config.eval.every=20%", "--config.checkpoint_every=100%", "--config.tensorboard=False"]
    command += [f"--config.sam.rho={options.rho}"] if options.rho and link else []
    if not (workdir / "summary.json").is_file():
        began = time.monotonic()
        subprocess.run([sys.executable, *command, f"--workdir={workdir}"], cwd=ROOT, check=True)
        (workdir / "seconds.json").write_text(json.dumps(round(time.monotonic() - began, 1)))
    reports = [tables.read_results(workdir / f"seed-{seed}") for seed in range(options.seeds)]
    found = {column: [tables.accuracy(report, column) for report in reports] for column in COLUMNS}
    return {"row": f"{loss}, {base}{link}", "seconds": json.loads((workdir / "seconds.json").read_text()), **found}


def measure(options: argparse.Namespace, link: str) -> dict:
    """Return the extreme eigenvalues of the rarest classes' loss, in the classifier: seed 0 with CE and SGD."""
    workdir = folder_of(options, "SGD", "CE", link) / "seed-0"
    rarest = {"cifar10": "7,8,9", "cifar100": "97,98,99"}[options.name]
    command = ["main.py", "--mode", "spectra", f"--workdir={workdir}", f"--config.spectra.classes={rarest}"]
    command += ["--config.spectra.parameters=trained", "--config.spectra.steps=60", "--config.spectra.probes=1"]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    (summary,) = (workdir / "spectra").glob("*/summary.json")
    targets = json.loads(summary.read_text())["targets"]
    values = {name: (one["lambda_max"], one["lambda_min"]) for name, one in targets.items()}
    return {"row": f"CE, SGD{link}", "largest and smallest": values}


def paired(sgd: dict, sam: dict) -> dict:
    """Return the mean gain of SAM over the seeds, and half the width of its 95% interval (t), for each column."""
    found = {}
    for column in COLUMNS:
        gains = np.subtract(sam[column], sgd[column])
        half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
        found[column] = [round(float(gains.mean()), 2), round(float(half), 2)]
    return found


def line(row: dict) -> str:
    """Return a row of the table for docs/pretrained.md."""
    return f"| {row['row']} | {' | '.join(tables.spread(row[c]) for c in COLUMNS)} | {row['seconds']:.0f} |"


def gain(sgd: dict, sam: dict) -> str:
    """Return the row of SAM's gain."""
    cells = [f"{mean:+.1f} ± {half:.1f}" for mean, half in paired(sgd, sam).values()]
    return f"| SAM's gain, 95% interval | {' | '.join(cells)} | |"


if __name__ == "__main__":
    main()
