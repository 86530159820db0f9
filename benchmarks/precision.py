"""Accuracy cost of bfloat16: CIFAR-10-LT runs in float32 and bfloat16, paired by seed, with SGD and SAM.

    python benchmarks/precision.py --data cifar10_lt100.npz      # train_images, train_labels, test_images, test_labels

It trains CE+DRW at ratio 100 with ResNet-32, for 20 epochs of the recipe's schedule. SAM's radius is 0.1, because 0.5
needs more epochs than that. A call continues where the previous one stopped. Writes
benchmarks/results/precision-<device>.json.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from measure import RESULTS, write  # noqa: E402 (needs the path above)

from saddle_jax.inference.classifier import Classifier  # noqa: E402
from saddle_jax.report import tables  # noqa: E402

OPTIMIZERS = {"SGD": "ce_drw", "SAM": "ce_drw_sam"}
DTYPES = ("float32", "bfloat16")
COLUMNS = ("overall", "head", "mid", "tail")


def main() -> None:
    """Train the missing runs, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help=".npz of the long-tailed set")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs/precision", help="folder for the runs")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS, help="folder for the record")
    options = parser.parse_args()
    if not options.data.is_file():
        parser.error(f"--data: found no file {options.data}")
    found = []
    for seed in range(options.seeds):
        for optimizer in OPTIMIZERS:
            for dtype in DTYPES:
                found.append(
                    {"seed": seed, "optimizer": optimizer, "dtype": dtype, **run(options, seed, optimizer, dtype)}
                )
                show(found)
    weights = Classifier(options.runs / f"sam-float32-s{options.seeds - 1}", None).params
    record = {"epochs": options.epochs, "runs": found, "rounding": [rounding(weights, rho) for rho in (0.1, 0.5, 0.8)]}
    write("precision", jax.devices()[0].device_kind, ("jax", "jaxlib", "flax", "numpy"), record, options.output)


def run(options: argparse.Namespace, seed: int, optimizer: str, dtype: str) -> dict:
    """Train one run unless it is already trained. Return its last accuracies in percent and the kernels it used."""
    workdir = options.runs / f"{optimizer.lower()}-{dtype}-s{seed}"
    command = [
        "main.py",
        "--config",
        f"configs/cifar10_lt.py:{OPTIMIZERS[optimizer]},profile=as_is,epochs={options.epochs}",
    ]
    command += ["--config.data.source=arrays", f"--config.data.path={options.data.resolve()}"]
    command += [f"--config.seed={seed}", f"--config.model.dtype={dtype}", "--config.eval.every=5 epochs"]
    command += ["--config.sam.rho=0.1"] if optimizer == "SAM" else []
    if not (workdir / "results.json").is_file():
        subprocess.run([sys.executable, *command, f"--workdir={workdir}"], cwd=ROOT, check=True)
    report = tables.read_results(workdir)
    start = json.loads((workdir / "run.json").read_text())["starts"][-1]
    kernels = start["packages"].get("saddle_kernels", "")
    return {**{column: tables.accuracy(report, column) for column in COLUMNS}, "saddle_kernels": kernels}


def rounding(params: Any, rho: float) -> dict[str, float]:
    """Return what bfloat16 makes of a random perturbation e of length `rho`, on the kernels w of convolutions.

    The layers see rounded(w + e) - rounded(w) in place of e. "cosine" is the cosine of the angle between the two, and
    "length" the ratio of their lengths.
    """
    generator = np.random.default_rng(0)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    drawn = [generator.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    norm = np.sqrt(sum(np.sum(e**2) for e in drawn))
    before = [rho / norm * e for e, w in zip(drawn, leaves, strict=True) if w.ndim == 4]
    kernels = [w for w in leaves if w.ndim == 4]
    after = [_rounded(w + e) - _rounded(w) for w, e in zip(kernels, before, strict=True)]
    flat_before, flat_after = (np.concatenate([e.ravel() for e in parts]) for parts in (before, after))
    lengths = np.linalg.norm(flat_before), np.linalg.norm(flat_after)
    cosine = float(flat_before @ flat_after / np.prod(lengths))
    return {"rho": rho, "cosine": cosine, "length": float(lengths[1] / lengths[0])}


def _rounded(x: np.ndarray) -> np.ndarray:
    return x.astype(jax.numpy.bfloat16).astype(np.float32)


def show(found: list[dict]) -> None:
    """Print bfloat16 next to float32, seed by seed."""
    print(f"{'':16s}" + "".join(f"{column:>22s}" for column in COLUMNS))
    runs = {(row["optimizer"], row["seed"], row["dtype"]): row for row in found}
    for optimizer, seed in dict.fromkeys(key[:2] for key in runs):
        pair = [runs.get((optimizer, seed, dtype)) for dtype in DTYPES]
        if None not in pair:
            cells = [f"{pair[0][c]:.1f} -> {pair[1][c]:.1f} ({pair[1][c] - pair[0][c]:+.1f})" for c in COLUMNS]
            print(f"{optimizer}, seed {seed:<6d}" + "".join(f"{cell:>22s}" for cell in cells), flush=True)
    differences = [
        runs[o, s, "bfloat16"]["tail"] - runs[o, s, "float32"]["tail"] for o, s, d in runs if d == "bfloat16"
    ]
    if differences:
        print(f"bfloat16 - float32 in the tail: {np.mean(differences):+.1f} points on average", flush=True)


if __name__ == "__main__":
    main()
