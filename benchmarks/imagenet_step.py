"""Cost of ResNet-50 train steps at 224 pixels, with SGD and SAM, against PyTorch and against the device's limit.

    pip install torch==2.13.0         # for this benchmark only; without it, ours alone
    python benchmarks/imagenet_step.py

It measures float32 and bfloat16, with and without rematerialization; 1000 classes, cross-entropy, random weights and
pixels. PyTorch trains on one batch that is already normalized and on the device. Ours gathers, shifts, flips, and
normalizes every batch, out of two that stay on the device as uint8. TFLOP/s count two operations for each multiply-add
of the convolutions and the head (`operations.py`: 4.09e9 per image forward), three forward passes per pass, and two
passes for SAM. Recomputation does not count as work. The peak is that of a square matrix product in the same process,
dtype, and precision. Memory is the compiler's count for our whole step. Writes
benchmarks/results/imagenet-step-<device>.json.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from contestants import PACKAGES, Contestant, need_one_device, theirs, wanted  # noqa: E402 (needs the path above)
from measure import RESULTS, in_turns, write
from operations import multiply_adds
from our_steps import make_feed, memory_of, steps_of

from configs import default
from saddle_jax.models.networks import make_backbone

CLASSES = 1000
OURS = {
    "saddle_jax": {},
    "saddle_jax remat": {"remat": True},
    "saddle_jax bf16": {"dtype": "bfloat16"},
    "saddle_jax bf16 remat": {"dtype": "bfloat16", "remat": True},
}
PASSES = {"SGD": 1, "SAM": 2}


def main() -> None:
    """Measure, print, and write."""
    options = parse()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU's memory is shared with PyTorch
    need_one_device()
    options.batch = options.batch or (8 if jax.default_backend() == "cpu" else 256)
    # A step is compiled once to count its memory and once to run: the second time it is found there.
    with tempfile.TemporaryDirectory(prefix="imagenet_step_") as compiled:
        jax.config.update("jax_compilation_cache_dir", compiled)
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """Time all steps and write the record."""
    model = default.get_config().model
    model.name = options.network
    products = multiply_adds(make_backbone(model, None), CLASSES, options.size)
    record = {
        "network": options.network,
        "batch": options.batch,
        "size": options.size,
        "float32_products": "tf32 where the device has it" if options.tf32 else "float32",
        "forward_multiply_adds": products,
        "peak_tflops": {dtype: peak(dtype, options) for dtype in ("float32", "bfloat16")},
        "load_before": os.getloadavg()[0],
    }
    steps, gib = contestants(options)
    record["steps"] = rows(steps, gib, products, record["peak_tflops"], options)
    record["load_after"] = os.getloadavg()[0]
    write("imagenet-step", jax.devices()[0].device_kind, PACKAGES, record, options.output)


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", nargs="+", default=["SGD", "SAM"], choices=["SGD", "SAM"])
    parser.add_argument("--network", default="resnet50", help="any model.name; PyTorch always uses ResNet-50")
    parser.add_argument("--size", type=int, default=224, help="pixels per side")
    parser.add_argument("--batch", type=int, default=0, help="images per batch (default: 256, on CPUs 8)")
    parser.add_argument("--repeats", type=int, default=7, help="repeats of each step; medians are reported")
    parser.add_argument(
        "--only",
        default="",
        help="run only contestants whose names contain one of these comma-separated parts, and the reference",
    )
    parser.add_argument("--no-torch", action="store_true", help="measure ours alone")
    parser.add_argument("--tf32", action="store_true", help="allow TF32 for float32 products on both sides")
    parser.add_argument(
        "--quick", action="store_true", help="measure ours alone, with ResNet-10 at 32 pixels, batch 4, and one repeat"
    )
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS, help="folder")
    options = parser.parse_args()
    if options.quick:
        options.network, options.size, options.batch, options.repeats = "resnet10", 32, 4, 1
    options.no_torch |= options.network != "resnet50"
    return options


def peak(dtype: str, options: argparse.Namespace) -> float:
    """Return and print the TFLOP/s of the fastest of several rounds of products of two square matrices."""
    side = 256 if options.quick else 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
    with jax.default_matmul_precision(precision(options)):
        product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()

    def several() -> int:
        times = 10
        jax.block_until_ready([product(matrix, matrix) for _ in range(times)])
        return times

    seconds = in_turns({dtype: several}, 5, warm_up=1)[dtype][:, 0].min()
    found = 2 * side**3 / seconds / 1e12
    print(f"product of {side} x {side} matrices, {dtype}: {found:.3g} TFLOP/s", flush=True)
    return found


def precision(options: argparse.Namespace) -> str:
    """Return the config's name for the allowed precision of float32 products."""
    return "default" if options.tf32 else "highest"


def contestants(options: argparse.Namespace) -> tuple[dict[tuple[str, str], Contestant], dict[tuple[str, str], float]]:
    """Return all steps to measure, and the GiB that ours need."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (options.batch, options.size, options.size, 3), dtype=np.uint8)
    labels = draw.integers(0, CLASSES, options.batch)
    common = {"batch": options.batch, "images": 2 * options.batch, "classes": CLASSES, "size": options.size}
    common |= {"network": options.network, "precision": precision(options), "steps_at_once": 1}
    choice = {"only": options.only, "tf32": options.tf32, "compiled": not options.quick}
    steps, gib = {}, {}

    def torch_network():
        from torch_imagenet import ResNet

        return ResNet(classes=CLASSES)

    for optimizer in options.optimizers:
        if not options.no_torch:
            found = theirs(torch_network, optimizer, images, labels, **choice)
            steps |= {(optimizer, name): step for name, step in found.items()}
        for name, settings in OURS.items():
            if wanted(name, options.only):
                ours = make_feed(optimizer, **common, **settings)
                gib[optimizer, name] = memory_of(ours) / 2**30
                steps[optimizer, name] = steps_of(ours)
    return steps, gib


def rows(steps: dict, gib: dict, products: int, peaks: dict[str, float], options: argparse.Namespace) -> list[dict]:
    """Time all steps in turns. Return and print the results of each."""
    found = []
    for (optimizer, name), times in in_turns(steps, options.repeats, warm_up=2).items():
        seconds = float(np.median(times[:, 0]))
        tflops = options.batch * PASSES[optimizer] * 3 * 2 * products / seconds / 1e12
        row = {
            "optimizer": optimizer,
            "contestant": name,
            "seconds": seconds,
            "seconds_of_each": [round(float(value), 5) for value in times[:, 0]],
            "images_per_second": options.batch / seconds,
            "tflops": tflops,
            "of_peak": tflops / peaks["bfloat16" if "bf16" in name else "float32"],
            "gib": gib.get((optimizer, name)),
        }
        found.append(row)
        memory = "" if row["gib"] is None else f"{row['gib']:7.2f} GiB"
        print(
            f"{optimizer} {name:36s} {1e3 * seconds:9.1f} ms {row['images_per_second']:9.1f} images/s "
            f"{tflops:8.3g} TFLOP/s ({100 * row['of_peak']:.0f} % of the product's peak) {memory}",
            flush=True,
        )
    return found


if __name__ == "__main__":
    main()
