"""Shared helpers for benchmarks: timing cases in turns, and a record that says how its figures were made."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

RESULTS = pathlib.Path(__file__).parent / "results"
Case = TypeVar("Case", bound=Hashable)


def in_turns(
    cases: Mapping[Case, Callable[[], object]],
    repeats: int,
    warm_up: int = 0,
    also_busy: Callable[[], float] = lambda: 0.0,
) -> dict[Case, np.ndarray]:
    """Return every case's seconds, as (repeats, 3): on the clock, of the processor, and of this process alone.

    Each round times each case once. If a case returns an integer, it did its work that many times, and the seconds are
    those of one.

    Args:
      also_busy: returns the seconds that other processes have worked for the cases so far.
    """
    for case in cases.values():
        for _ in range(warm_up):
            case()
    seconds = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            before = np.array([time.perf_counter(), also_busy(), time.process_time()])
            done = case()
            spent = np.array([time.perf_counter(), also_busy(), time.process_time()]) - before
            spent[1] += spent[2]
            seconds[name].append(spent / (done if isinstance(done, int) else 1))
    return {name: np.array(values) for name, values in seconds.items()}


def write(name: str, device: str, packages: Iterable[str], found: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Write <name>-<device>.json with command, date, versions, device, and results, and print where it is."""
    kind = device.replace(" ", "_")
    record = {
        "command": " ".join(["python", f"benchmarks/{pathlib.Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "device": kind,
        **found,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{kind}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written {path.name}")
