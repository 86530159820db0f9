"""Images per second that a processor core reads, decodes, and augments: JPEGs at 224 pixels, and arrays.

    python benchmarks/pipeline.py

The JPEGs have 500 x 375 pixels and quality 90. They are parts of scikit-learn's two photographs, written to a temporary
folder, so the system's cache holds them and storage is not measured. Cases take turns. "A core" is one second of
processor time, of all threads and workers together. It hardly depends on what else the machine does, unlike images per
second on the clock. "This process" is the part that workers can't take over. It bounds what any number of workers can
deliver. Writes benchmarks/results/pipeline-cpu.json.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from measure import RESULTS, in_turns, write  # noqa: E402 (needs the path above)

from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.encoded import Decoding, ImageFiles
from saddle_jax.data.feeds import evaluation, resident, tfdata, workers
from saddle_jax.data.feeds import numpy as in_process
from saddle_jax.data.images import Batch
from saddle_jax.data.order import Order, Slots, slots_at

DISTINCT, WIDTH, HEIGHT = 128, 500, 375
MEAN = (124, 116, 104)
# So many batches more of small images: else tf.data's start would be most of their time.
SMALL_TIMES = {"crop_flip": 200, "autoaugment": 10, "randaugment": 10, "simclr": 10}
DECODING = Decoding(size=224, resize=256, max_bad_fraction=0.0)
CROP = Augmentation("random_resized_crop", (224, 224, 3), encoded=True, mean=MEAN)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--batches",
        type=int,
        default=16,
        help="number of batches of 128 JPEGs; there are many times more of small images",
    )
    parser.add_argument("--quick", action="store_true", help="use few images")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    batches = 1 if options.quick else options.batches
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        paths, kilobytes = write_photographs(pathlib.Path(folder))
        seconds = in_turns(cases(folder, paths, batches), options.repeats, warm_up=1, also_busy=busy_workers)
    found = {}
    for name, times in seconds.items():
        clock, busy, here = 1 / np.median(times, axis=0)
        found[name] = {"a_second": round(float(clock), 1), "a_core_second": round(float(busy), 1)}
        shown = f"{name:44s} {clock:10,.0f} images/s {busy:10,.0f} images/s per core"
        if here > 1.01 * busy:
            found[name]["a_core_second_of_this_process"] = round(float(here), 1)
            shown += f" {here:10,.0f} for this process"
        print(shown)
    about = {"cores": os.cpu_count(), "load_before": load_before, "load_after": os.getloadavg()[0]}
    about |= {"jpeg": f"{WIDTH}x{HEIGHT}, {kilobytes:.0f} kB on average", "batch": 128}
    write("pipeline", "cpu", ["tensorflow-cpu", "numpy", "jax", "pillow"], {**about, "images": found}, options.output)


def busy_workers() -> float:
    """Return the seconds of processor time that the worker processes have used."""
    seconds = 0.0
    for worker in workers._WORKERS._started:  # noqa: SLF001
        words = pathlib.Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def write_photographs(folder: pathlib.Path) -> tuple[np.ndarray, float]:
    """Write scaled parts of the photographs. Return the file names and their mean size in kB."""
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
    """Return the cases. Each goes through that many batches and returns the number of images."""
    files = ImageFiles(folder, paths, DECODING)
    labels = np.zeros(DISTINCT, np.int32)
    photos = [Image.open(pathlib.Path(folder) / path.decode()) for path in paths]
    small, large = (np.stack([np.asarray(p.resize((size, size))) for p in photos]) for size in (32, 224))

    def case(
        make: Callable[..., Iterable[Batch]], images: object, view: Augmentation | None, times: int = 1
    ) -> Callable[[], int]:
        order = Order(0, labels, DISTINCT, 1, view or CROP)

        def run() -> int:
            slots = (slots_at(order, step) for step in range(times * batches))
            return DISTINCT * sum(1 for _ in make(images, labels, slots, view))

        return run

    def evaluated(images: object, labels: np.ndarray, slots: Iterable[Slots], _: None) -> Iterable[Batch]:
        return evaluation.plain_batches(images, labels, slots)

    views = {
        "crop, mirror, colors": CROP._replace(color_jitter=0.4),
        "crop, mirror": CROP,
        "randaugment": CROP._replace(name="randaugment", color_jitter=0.4),
        "simclr": CROP._replace(name="simclr"),
    }
    found = {f"train: {name}": case(tfdata.training_batches, files, view) for name, view in views.items()}
    found["evaluation: resize, center"] = case(evaluated, files, None)
    makers = {"numpy": in_process.training_batches, "workers": workers.training_batches}
    plain = {"tf.data": tfdata.training_batches, "jitted": jitted}
    for name, times in SMALL_TIMES.items():
        view = Augmentation(name, (32, 32, 3), crop_padding=4, mean=MEAN)
        for kind, make in (makers if view.on_host else makers | plain).items():
            found[f"32 x 32 in memory: {name}, {kind}"] = case(make, small, view, times)
    for name in ("randaugment", "simclr"):
        view = Augmentation(name, (224, 224, 3), mean=MEAN)
        found[f"224 x 224 in memory: {name}, numpy"] = case(in_process.training_batches, large, view)
    return found


@functools.cache
def _cut(view: Augmentation) -> Callable[..., Batch]:
    return jax.jit(lambda data, slots: resident.batch(data, slots, view))


def jitted(images: np.ndarray, labels: np.ndarray, slots: Iterable[Slots], view: Augmentation) -> Iterator[Batch]:
    """Yield the batches that a step cuts out of images on the device."""
    data = resident.put(images, labels)
    for one in slots:
        yield jax.block_until_ready(_cut(view)(data, one))


if __name__ == "__main__":
    main()
