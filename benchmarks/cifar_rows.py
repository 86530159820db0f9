"""Measured rows of CIFAR-LT on disk: one file for each cell and seed, so results of several machines go in one folder.

benchmarks/results/cifar/cifar10_lt-100-ce_drw_sam-seed0.json
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import shlex
import time
from collections.abc import Sequence
from typing import Any

from published import Cell

from saddle_jax.host.files import write_atomically
from saddle_jax.report import cost, runs

FOLDER = pathlib.Path(__file__).parent / "results/cifar"

Row = dict[int, dict[str, Any]]  # records of a cell by seed


def path_of(folder: pathlib.Path, cell: Cell, seed: int) -> pathlib.Path:
    """Return the file of a cell and a seed."""
    return folder / f"{cell.name}-seed{seed}.json"


def read(folder: pathlib.Path, cell: Cell) -> Row:
    """Return the records that there are of a cell."""
    found = sorted(folder.glob(f"{cell.name}-seed*.json"))
    records = [json.loads(path.read_text()) for path in found]
    return {record["seed"]: record for record in sorted(records, key=lambda record: record["seed"])}


def write(folder: pathlib.Path, cell: Cell, seed: int, run: pathlib.Path, command: Sequence[str]) -> None:
    """Enter a finished run: its reports of the last and of the best epoch, and how it was made."""
    found = runs.read(run)
    start = found.starts[-1]
    record = {
        "cell": cell.name,
        "seed": seed,
        "command": public(command),
        "date": time.strftime("%Y-%m-%d"),
        "device": device(start["devices"]),
        "hours": round(cost.seconds(found) / 3600, 2),
        "epochs": [record["epoch"] for record in found.metrics if "epoch" in record][-1],
        "starts": len(found.starts),
        **{key: start[key] for key in ("saddle_jax", "git", "python", "packages", "split_hash")},
        "last": found.results["last"],
        "best": found.results["best"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path_of(folder, cell, seed), json.dumps(record, indent=1) + "\n")


def public(command: Sequence[str]) -> str:
    """Return the command as anyone may type it: files by their names alone, and without the directory of the run."""
    words = []
    for word in command:
        if word.startswith("--workdir="):
            continue
        flag, is_path, value = word.partition("data.path=")
        words.append(f"{flag}{is_path}{pathlib.Path(value).name}" if is_path else word)
    return f"python {shlex.join(words)}"


def device(devices: Sequence[str]) -> str:
    """Return what a run was trained on: "2 CPU cores, x86_64", or "8 x NVIDIA H100"."""
    kinds = {name.partition(": ")[2] for name in devices}
    if kinds == {"cpu"}:
        return f"{os.cpu_count()} CPU cores, {platform.machine()}"
    return f"{len(devices)} x {', '.join(sorted(kinds))}"
