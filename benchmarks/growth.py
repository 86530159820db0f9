"""Growth of a SAM step's cost with classes, images, simultaneous seeds, and devices, relative to the smallest of each.

    python benchmarks/growth.py

It uses ResNet-32 of width 1, batch 128, and random images of CIFAR's size. One quantity varies, and the others are as
for CIFAR-10-LT. Cases are measured in turns. Several devices are forced CPU devices in a separate process. They share
the same cores, so that column shows what dividing a batch costs, not what it gains. Writes
benchmarks/results/growth-<device>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from measure import RESULTS, in_turns, write  # noqa: E402 (needs the path above)
from our_steps import CIFAR10_LT, Step, make_step

CASES = {
    "classes": (10, 100, 1000, 8142),
    "images": (CIFAR10_LT, 50_000, 200_000),
    "num_seeds": (1, 2, 4, 8),
}


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--vary", nargs="*", default=[*CASES, "devices"], choices=[*CASES, "devices"])
    parser.add_argument(
        "--quick", action="store_true", help="use ResNet-8, small batches, and two values of each quantity"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a process of its own measures
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    small = {"network": "resnet8", "batch": 8} if options.quick else {}
    if options.one:
        print(json.dumps(times({"one": make_step("SAM", **small)}, options.repeats)["one"]))
        return
    found = {}
    for field in options.vary:
        if field == "devices":
            found[field] = on_devices(options)
        else:
            values = CASES[field][: 2 if options.quick else None]
            found[field] = times({str(v): make_step("SAM", **{**small, field: v}) for v in values}, options.repeats)
        show(field, found[field])
    load = {"cores": os.cpu_count(), "load_after": os.getloadavg()[0]}
    record = {**load, "seconds_a_step_of_one_network": found}
    write("growth", jax.devices()[0].device_kind, ["jax", "numpy"], record, options.output)


def times(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Return the median seconds per step of one network, for every case."""
    return {name: float(np.median(seconds[:, 0])) for name, seconds in in_turns(steps, repeats).items()}


def on_devices(options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds of a step on 1, 2, 4, and 8 forced CPU devices, or on all accelerators that exist."""
    if jax.default_backend() != "cpu":
        return {str(jax.device_count()): times({"all": make_step("SAM")}, options.repeats)["all"]}
    found = {}
    for number in (1, 2) if options.quick else (1, 2, 4, 8):
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={number}"}
        command = [sys.executable, __file__, "--one", "x", "--repeats", str(options.repeats)]
        command += ["--quick"] if options.quick else []
        output = subprocess.run(command, env={**os.environ, **flags}, check=True, capture_output=True, text=True)
        found[str(number)] = json.loads(output.stdout.splitlines()[-1])
    return found


def show(field: str, seconds: dict[str, float]) -> None:
    """Print one line per value."""
    first = next(iter(seconds.values()))
    for value, each in seconds.items():
        print(f"{field:10s} {int(value):9,d} {1e3 * each:10.1f} ms ({each / first:.2f})", flush=True)


if __name__ == "__main__":
    main()
