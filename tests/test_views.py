"""The sheet of training images that `--mode check` draws: what it shows, and that it leaves runs alone."""

import io

import numpy as np
from jpeg_folder import list_config, write_folder
from PIL import Image
from small_runs import small_config

from saddle_jax import programs
from saddle_jax.command_line import Command
from saddle_jax.data import augmentation, feeder, inspection, sources
from saddle_jax.data.order import evaluation_slots
from saddle_jax.report import views
from saddle_jax.train import directory


def test_the_sample_has_the_rarest_class_and_every_view(tmp_path):
    write_folder(tmp_path)
    config = list_config(tmp_path)
    splits = sources.load(config.data)
    names = ("random_resized_crop", "randaugment", "simclr")
    every = [augmentation.make(config.data, name, (32, 32, 3), encoded=True) for name in names]
    samples = inspection.sample(splits, every, 0)
    assert samples.labels_N.tolist() == [0, 1, 2, 3, 4]
    first = [int(np.flatnonzero(splits.train.labels == label)[0]) for label in range(5)]
    everything = next(feeder.plain_batches(*splits.train, slots=evaluation_slots(40, 40, 1)))
    np.testing.assert_array_equal(samples.images_NHWK, everything.images[first])
    assert samples.views_VDNHWK.shape == (3, 5, 5, 32, 32, 3)
    flat = samples.views_VDNHWK.reshape(75, -1)
    assert len(np.unique(flat, axis=0)) > 65  # draws differ, and views do


def test_a_sheet_shows_the_pixels():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    drawn = np.stack([images[::-1], 255 - images])
    sheet = np.asarray(
        Image.open(io.BytesIO(views.draw(["a", "b"], images, [views.View("view", drawn)]))).convert("RGB")
    )
    seen = set(map(tuple, sheet.reshape(-1, 3).tolist()))
    for pixel in np.concatenate([images.reshape(-1, 3), (255 - images).reshape(-1, 3)]).tolist():
        assert tuple(pixel) in seen


def test_a_check_changes_nothing_of_a_run_but_its_sheet(tmp_path):
    config = small_config()
    directory.open_run(tmp_path, config, sources.load(config.data), [])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert programs.check(Command("check", str(tmp_path), config, True)) == 0
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    sheet = tmp_path / "plots" / "views.png"
    with Image.open(sheet) as image:
        assert image.size[0] > 100
    assert {path: content for path, content in after.items() if path != sheet} == before
