"""Cost of a CIFAR-10-LT epoch with its input and of an evaluation, and the speed of each pipeline alone.

    python benchmarks/epoch.py

It uses ResNet-32 of width 1, batch 128, and 12,406 training and 10,000 test images of random pixels. For fewer images
on a slow machine, use --images and --test_images. Pipelines and optimizers take turns. "Input alone" makes batches and
copies them to the device, with no network. Its images per second, compared with those of the steps, show whether the
device waits. Writes benchmarks/results/epoch-<device>.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from measure import RESULTS, in_turns, write  # noqa: E402 (needs the path above)
from our_steps import CIFAR10_LT, make_feed, make_splits

from saddle_jax.training.evaluate import Evaluator


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=CIFAR10_LT, help="images per epoch")
    parser.add_argument("--test_images", type=int, default=10_000, help="images per evaluation")
    parser.add_argument("--quick", action="store_true", help="use ResNet-8, small batches, and 200 images")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.images = options.test_images = 200
    seconds = in_turns(cases(options), options.repeats)
    found = {name: round(float(np.median(1 / times[:, 0])), 1) for name, times in seconds.items()}
    for name, value in found.items():
        print(f"{name:28s} {value:12,.0f} images/s")
    device = jax.devices()[0].device_kind
    load = {"cores": os.cpu_count(), "load_after": os.getloadavg()[0]}
    write("epoch", device, ["jax", "numpy"], {**load, "images_a_second": found}, options.output)


def cases(options: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """Return the cases. Each does its work once and returns how many images it went through."""
    small = {"network": "resnet8", "batch": 8} if options.quick else {}
    pipelines = ["resident", "numpy", *(["tfdata"] if importlib.util.find_spec("tensorflow") else [])]
    found = {}
    for pipeline in pipelines:
        found[f"{pipeline}: input alone"] = epoch(options.images, pipeline, "SGD", small, network=False)
    for pipeline in pipelines:
        for optimizer in ("SGD", "SAM"):
            found[f"{pipeline}: epoch, {optimizer}"] = epoch(options.images, pipeline, optimizer, small)
        found[f"{pipeline}: evaluation"] = evaluation(options.test_images, pipeline, small)
    return found


def epoch(images: int, pipeline: str, optimizer: str, small: dict, *, network: bool = True) -> Callable[[], int]:
    """Return a case that runs an epoch of steps, or only makes the epoch's inputs without the network."""
    _, program, feed, state = make_feed(optimizer, images=images, pipeline=pipeline, **small)
    per_epoch = program.schedules.steps_per_epoch
    segments = feed.segments(0, 10**9, lambda step: step % per_epoch == 0)

    def run() -> int:
        nonlocal state
        for segment in segments:
            done = segment.inputs
            if network:
                state, done = feed.advance(state, segment)
            if segment.stop % per_epoch == 0:
                jax.block_until_ready((state, done))
                return images
        raise AssertionError

    run()  # compile
    return run


def evaluation(images: int, pipeline: str, small: dict) -> Callable[[], int]:
    """Return a case that evaluates a network on a test set."""
    splits = make_splits(images, 10)
    config, program, _, state = make_feed("SGD", images=images, pipeline=pipeline, **small)
    evaluator = Evaluator(config, program, splits.test, splits.stats, pipeline)

    def run() -> int:
        return len(evaluator.evaluate(state.params, state.model_state).labels_N)

    run()
    return run


if __name__ == "__main__":
    main()
