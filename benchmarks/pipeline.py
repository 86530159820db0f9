"""How many images a second a processor core reads, decodes and augments at 224 pixels, for training and evaluation.

    python benchmarks/pipeline.py

JPEGs of 500 x 375 pixels at quality 90, parts of scikit-learn's two photographs, written to a temporary folder (so the
system's cache holds them: storage is not measured). Cases take turns. "A core" is a second of processor time, all
threads together; it hardly depends on what else the machine does, images a second on the clock do. Writes
benchmarks/results/pipeline-cpu.json.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from measure import RESULTS, in_turns, write  # noqa: E402 (needs the path above)

from saddle_jax.data import feeder, pipeline
from saddle_jax.data.encoded import Decoding, ImageFiles
from saddle_jax.data.order import Order, slots_at

DISTINCT, WIDTH, HEIGHT = 128, 500, 375
SMALL_TIMES = 200  # so many batches more of small images: else tf.data's start would be most of their time
DECODING = Decoding(size=224, resize=256, max_bad_fraction=0.0)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few images")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    batches = 1 if options.quick else 16
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        paths, kilobytes = write_photographs(pathlib.Path(folder))
        seconds = in_turns(cases(folder, paths, batches), options.repeats, warm_up=1)
    found = {}
    for name, times in seconds.items():
        clock, busy = 1 / np.median(times, axis=0)
        found[name] = {"a_second": round(float(clock), 1), "a_core_second": round(float(busy), 1)}
        print(f"{name:44s} {clock:10,.0f} images/s {busy:10,.0f} images/s a core")
    about = {"cores": os.cpu_count(), "load_before": load_before, "load_after": os.getloadavg()[0]}
    about |= {"jpeg": f"{WIDTH}x{HEIGHT}, {kilobytes:.0f} kB on average", "batch": 128}
    write("pipeline", "cpu", ["tensorflow-cpu", "numpy"], {**about, "images": found}, options.output)


def write_photographs(folder: pathlib.Path) -> tuple[np.ndarray, float]:
    """Write parts of the photographs, scaled; return the file names and their mean size in kB."""
    photos, draw = load_sample_images().images, np.random.default_rng(0)
    for number in range(DISTINCT):
        photo = Image.fromarray(photos[number % 2])
        width = int(draw.integers(300, 560))
        height = width * HEIGHT // WIDTH
        left, top = int(draw.integers(photo.width - width)), int(draw.integers(photo.height - height))
        part = photo.crop((left, top, left + width, top + height))
        part.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    files = sorted(folder.iterdir())
    return np.array([path.name.encode() for path in files]), float(np.mean([p.stat().st_size for p in files]) / 1000)


def cases(folder: str, paths: np.ndarray, batches: int) -> dict[str, Callable[[], int]]:
    """Return what is measured: each goes through so many batches and returns how many images these were."""
    files = ImageFiles(folder, paths, DECODING)
    without = ImageFiles(folder, paths, DECODING._replace(color_jitter=0.0))
    labels = np.zeros(DISTINCT, np.int32)
    crops = Order(0, labels, DISTINCT, 1, 0, True, augmentation="random_resized_crop")
    array = np.random.default_rng(0).integers(0, 256, (DISTINCT, 32, 32, 3), np.uint8)
    small = Order(0, labels, DISTINCT, 1, 4, True)

    def case(
        make: Callable[..., object], images: object, order: Order, *more: int, times: int = 1
    ) -> Callable[[], int]:
        def run() -> int:
            slots = (slots_at(order, step) for step in range(times * batches))
            return DISTINCT * sum(1 for _ in make(images, labels, slots, *more))

        return run

    return {
        "train: crop, mirror, colours": case(pipeline.training_batches, files, crops, 0),
        "train: crop, mirror": case(pipeline.training_batches, without, crops, 0),
        "evaluation: resize, centre": case(feeder.plain_batches, files, crops),
        "32 x 32 in memory: crop, mirror": case(pipeline.training_batches, array, small, 4, times=SMALL_TIMES),
    }


if __name__ == "__main__":
    main()
