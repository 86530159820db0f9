"""Cost of a step of GLMC and of PaCo relative to the plain method, with SGD and SAM, and where the time goes.

    python benchmarks/methods.py

It uses ResNet-32 of width 1, random images of CIFAR's size, and the views of the CIFAR recipes. GLMC has four crops of
images that stay on the device. PaCo has AutoAugment with Cutout, and SimCLR's augmentation, from worker processes.
Cases are measured in turns. `views` only gathers and augments all views. `prepare` is the work that a step does once
before its passes: mixing, or encoding the keys, and the crops of images on the device. Writes
benchmarks/results/methods-<device>.json.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from measure import RESULTS, in_turns, write  # noqa: E402 (needs the path above)
from our_steps import METHODS, Ours, make_feed, steps_of

from saddle_jax.data.feeds import resident
from saddle_jax.host import devices
from saddle_jax.methods.base import Variables
from saddle_jax.methods.choose import make_method


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="use ResNet-8 and small batches")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    settings = {"network": "resnet8", "batch": 8} if options.quick else {"batch": options.batch}
    cases: dict[str, Callable[[], object]] = {}
    for method in METHODS:
        for optimizer in ("SGD", "SAM"):
            ours = make_feed(optimizer, method=method, **settings)
            if optimizer == "SGD":
                cases |= {f"{method} {name}": part for name, part in parts_of(ours).items()}
            cases[f"{method} {optimizer}"] = steps_of(ours)
    found = {name: float(np.median(seconds[:, 0])) for name, seconds in in_turns(cases, options.repeats).items()}
    for name, seconds in found.items():
        whole = found[f"plain {'SAM' if name.endswith('SAM') else 'SGD'}"]
        print(f"{name:16s} {1e3 * seconds:9.1f} ms  {seconds / whole:5.2f} of the plain step")
    load = {"cores": os.cpu_count(), "load_after": os.getloadavg()[0]}
    record = {**load, "batch": settings["batch"], "seconds_a_step": found}
    write("methods", jax.devices()[0].device_kind, ["jax", "numpy"], record, options.output)


def parts_of(ours: Ours) -> dict[str, Callable[[], object]]:
    """Return two cases: one makes a step's views, the other also does everything else that a step does once."""
    splits = ours.feed._splits[0]  # noqa: SLF001
    images, views = splits.train.images, ours.program.views
    method = make_method(ours.config, splits.stats, images.shape[1:], devices.AXIS, ours.program.schedules)
    is_resident = ours.feed.pipeline == "resident"
    data = resident.put(*splits.train) if is_resident else ()
    segments = ours.feed.segments(0, 10**9, lambda _: True)
    inputs = next(segments).inputs
    start = jax.tree.map(np.array, jax.device_get(ours.state))  # a copy: steps give the state's memory away
    variables = devices.replicate(Variables(start.params, start.model_state, start.method_state))

    def make_views(variables, data, inputs):
        del variables
        if not is_resident:
            return inputs
        return tuple(resident.batch(data, one, view) for one, view in zip(inputs, views, strict=True))

    def make_inputs(variables, data, inputs):
        return method.prepare(variables, make_views(variables, data, inputs), 0)

    mapped = {
        name: devices.map_step(part, 2, gather=True) for name, part in (("views", make_views), ("prepare", make_inputs))
    }

    def run(part: Callable) -> Callable[[], object]:
        def once() -> None:
            jax.block_until_ready(part(variables, data, inputs))

        once()
        return once

    parts = {name: run(part) for name, part in mapped.items()}
    return parts if is_resident else {**parts, "views": lambda: next(segments)}


if __name__ == "__main__":
    main()
