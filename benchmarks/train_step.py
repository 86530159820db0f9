"""Cost of train steps, with SGD and SAM, against a plain PyTorch loop and tuned PyTorch, in turns in one process.

    pip install torch==2.13.0         # for this benchmark only; without it, ours alone
    python benchmarks/train_step.py

It uses ResNet-32 of width 1 on CIFAR-sized images, batch 128, cross-entropy, and SGD with momentum. Times do not depend
on weights and pixels, so both are random. PyTorch trains on one batch that is already normalized and on the device.
Ours gathers, augments, and normalizes every batch out of as many images as CIFAR-10-LT has, an epoch at once on
accelerators. With several seeds, a time is that of one network's step. On a CPU, set OMP_WAIT_POLICY=PASSIVE, or
PyTorch's waiting threads take the cores from whichever step comes next. Writes
benchmarks/results/train-step-<device>.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import sys

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import convolutions  # noqa: E402 (needs the path above)
from contestants import PACKAGES, REFERENCE, Contestant, need_one_device, theirs, wanted
from measure import RESULTS, in_turns, write
from our_steps import make_step

from saddle_jax.models import kernels  # noqa: E402


def main() -> None:
    """Measure, print, and write."""
    options = parse()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU's memory is shared with PyTorch
    need_one_device()
    record = {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "batch": options.batch,
        "float32_products": "tf32 where the device has it" if options.tf32 else "float32",
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "GOMP_", "MALLOC_", "XLA_FLAGS"))},
        "load_before": os.getloadavg()[0],
    }
    if options.convolutions:
        record["convolutions"] = convolutions.measure(options.batch, options.repeats)
    steps = {(o, name): step for o in options.optimizers for name, step in contestants(options, o).items()}
    record["steps"] = rows(steps, options.repeats)
    record["sam_over_sgd"] = sam_over_sgd(record["steps"])
    record["load_after"] = os.getloadavg()[0]
    write("train-step", jax.devices()[0].device_kind, PACKAGES, record, options.output)


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizers", nargs="+", default=["SGD", "SAM"], choices=["SGD", "SAM"])
    parser.add_argument("--batch", type=int, default=128, help="images")
    parser.add_argument("--repeats", type=int, default=11, help="repeats of each step; medians are reported")
    parser.add_argument(
        "--only",
        default="",
        help="run only contestants whose names contain one of these comma-separated parts, and the reference",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[], help="also train several networks at once, e.g. 2 4 8"
    )
    parser.add_argument(
        "--scan", type=int, default=0, help="also run this many steps in one scan (very slow on a CPU without native/)"
    )
    parser.add_argument("--tf32", action="store_true", help="allow TF32 for float32 products on both sides")
    parser.add_argument(
        "--convolutions", action="store_true", help="also time the convolutions, shape by shape and form by form"
    )
    parser.add_argument(
        "--quick", action="store_true", help="use ResNet-8, batch 8, and one repeat, without our bf16 and torch.compile"
    )
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS, help="folder")
    options = parser.parse_args()
    if options.quick:
        options.batch, options.repeats = 8, 1
    return options


def contestants(options: argparse.Namespace, optimizer: str) -> dict[str, Contestant]:
    """Return all contestants. Add what is built later here."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (options.batch, 32, 32, 3), dtype=np.uint8)
    labels = draw.integers(0, 10, options.batch).astype(np.int32)

    def torch_network():
        from torch_resnet import ResNet

        return ResNet(1 if options.quick else 5)

    choice = {"only": options.only, "tf32": options.tf32, "compiled": not options.quick}
    steps = theirs(torch_network, optimizer, images, labels, **choice)
    common = {"batch": options.batch, "precision": "default" if options.tf32 else "highest"}
    if options.quick:
        common |= {"network": "resnet8", "images": 5 * options.batch}

    def add(name: str, **settings) -> None:
        if wanted(name, options.only):
            steps[name] = make_step(optimizer, **common, **settings)

    for choice in ("lax", "onednn") if kernels.uses_onednn("auto") else ("lax",):
        name = "saddle_jax" if choice == "lax" else "saddle_jax onednn"
        add(name, kernels=choice)
        if not options.quick:
            add(f"{name} bf16", kernels=choice, dtype="bfloat16")
    if options.scan:
        add(f"saddle_jax bf16, {options.scan} steps in a scan", dtype="bfloat16", steps_at_once=options.scan)
    add("saddle_jax numpy", kernels="lax", pipeline="numpy")
    if importlib.util.find_spec("tensorflow"):
        add("saddle_jax tf.data", kernels="lax", pipeline="tfdata")
    for number in options.seeds:
        add(f"saddle_jax {number} seeds", kernels="lax", num_seeds=number)
    return steps


def rows(steps: dict[tuple[str, str], Contestant], repeats: int) -> list[dict]:
    """Time all steps in turns. Return and print medians and ratios to the reference with the same optimizer."""
    times = in_turns(steps, repeats, warm_up=2)
    found = []
    for optimizer, name in steps:
        base = (optimizer, REFERENCE if (optimizer, REFERENCE) in steps else "saddle_jax")
        row = {"optimizer": optimizer, "contestant": name}
        for column, place in (("seconds", 0), ("processor_seconds", 1)):
            each, bases = (times[key][:, place] for key in ((optimizer, name), base))
            row[column] = float(np.median(each))
            row[f"{column}_ratio"] = float(np.median(each) / np.median(bases))
            row[f"{column}_ratios_in_turn"] = [round(float(ratio), 3) for ratio in each / bases]
        found.append(row)
        print(
            f"{optimizer} {name:36s} {1e3 * row['seconds']:8.1f} ms ({row['seconds_ratio']:.2f})   processor "
            f"{1e3 * row['processor_seconds']:8.1f} ms ({row['processor_seconds_ratio']:.2f})   turn by turn "
            + " ".join(f"{ratio:.2f}" for ratio in row["seconds_ratios_in_turn"]),
            flush=True,
        )
    return found


def sam_over_sgd(steps: list[dict]) -> dict[str, float]:
    """Return and print the cost of SAM's second pass on each path."""
    seconds = {(row["contestant"], row["optimizer"]): row["seconds"] for row in steps}
    ratios = {
        name: seconds[name, "SAM"] / seconds[name, "SGD"]
        for name, optimizer in seconds
        if optimizer == "SGD" and (name, "SAM") in seconds
    }
    for name, ratio in ratios.items():
        print(f"SAM step / SGD step, {name}: {ratio:.2f}")
    return ratios


if __name__ == "__main__":
    main()
