"""The sheet of training images that `--mode check` draws: what it shows, and that it leaves runs alone."""

import io
import json
import sys

import numpy as np
import pytest
from jpeg_folder import list_config, write_folder
from PIL import Image
from small_runs import small_config

from saddle_jax.data import inspection, sources
from saddle_jax.data.augment import augmentation
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.feeds import evaluation
from saddle_jax.data.order import evaluation_slots
from saddle_jax.errors import ConfigError
from saddle_jax.experiment.command_line import Command
from saddle_jax.modes import check
from saddle_jax.modes import views as sheet
from saddle_jax.report import views
from saddle_jax.training import directory, seeds

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

DPI, CELL, LEFT, TOP, GAP = 130, 0.9, 1.6, 0.45, 0.27  # inches
STILL = Augmentation("crop_flip", (8, 8, 1), flip=False)
MOVED = STILL._replace(crop_padding=4)


def assert_shown(png, images_NHWK, views_VDNHWK):
    """Assert that each cell of a sheet shows its image: at the middle of every pixel, its color."""
    sheet = np.asarray(Image.open(png).convert("RGB"))
    inches = LEFT
    for number, group in enumerate([images_NHWK[None], *views_VDNHWK]):
        for column, images in enumerate(group):
            for row, image in enumerate(images):
                corner = TOP + CELL * (row + 0.06), inches + CELL * column
                rows, columns = (
                    np.floor(DPI * (start + 0.94 * CELL * (np.arange(size) + 0.5) / size)).astype(int)
                    for start, size in zip(corner, image.shape[:2], strict=True)
                )
                found = sheet[rows[:, None], columns]
                np.testing.assert_array_equal(found, np.broadcast_to(image, found.shape), f"{number} {column} {row}")
        inches += CELL * len(group) + GAP


def test_the_sample_has_the_rarest_class_and_every_view(tmp_path):
    write_folder(tmp_path)
    config = list_config(tmp_path)
    splits = sources.load(config)
    names = ("random_resized_crop", "randaugment", "simclr")
    every = [augmentation.make(config.data, name, (32, 32, 3), encoded=True) for name in names]
    samples = inspection.sample(splits, every, 0)
    assert samples.labels_N.tolist() == [0, 1, 2, 3, 4]
    first = [int(np.flatnonzero(splits.train.labels == label)[0]) for label in range(5)]
    everything = next(evaluation.plain_batches(*splits.train, slots=evaluation_slots(40, 40, 1)))
    np.testing.assert_array_equal(samples.images_NHWK, everything.images[first])
    assert samples.views_VDNHWK.shape == (3, 5, 5, 32, 32, 3)
    flat = samples.views_VDNHWK.reshape(75, -1)
    assert len(np.unique(flat, axis=0)) > 65  # draws differ, and views do


def test_the_sample_passes_over_bad_images(tmp_path):
    write_folder(tmp_path)
    for number in (0, 1):
        bad = tmp_path / "train" / "class 3" / f"{number}.JPEG"
        bad.write_bytes(bad.read_bytes()[:500])
    (tmp_path / "train" / "class 2" / "0.JPEG").write_bytes(b"no image")  # the only one of its class
    splits = sources.load(list_config(tmp_path, data__max_bad_fraction=0.1))
    view = Augmentation("random_resized_crop", (32, 32, 3), encoded=True)
    samples = inspection.sample(splits, [view], 0)
    assert [splits.stats.labels_C[label] for label in samples.labels_N] == [1, 4, 3, 0]
    assert samples.images_NHWK.any(axis=(1, 2, 3)).all() and samples.views_VDNHWK.any(axis=(3, 4, 5)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_shows_every_image_in_its_place(channels):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (3, 8, 8, channels), np.uint8)
    drawn = draw.integers(0, 256, (2, 4, 3, 8, 8, channels), np.uint8)
    names = ["$a_$\n5 images", "price: $5", "^{"]
    png = views.draw(names, images, [views.View("one $x", drawn[0]), views.View("two", drawn[1])])
    assert_shown(io.BytesIO(png), images, drawn)


def test_the_sheet_of_a_set_in_memory_shows_its_views(tmp_path):
    config = small_config()
    splits = sources.load(config)
    path = sheet.draw(config, splits, (STILL, MOVED), tmp_path)
    images = splits.train.images
    sizes = splits.stats.counts_C
    labels = np.argsort(-sizes, kind="stable")
    first = images[[np.flatnonzero(splits.train.labels == label)[0] for label in labels]]
    samples = inspection.sample(splits, (STILL, MOVED), config.seed)
    assert (samples.views_VDNHWK[1] != first).any(axis=(2, 3, 4)).mean() > 0.8
    assert_shown(path, first, [np.stack([first] * 5), samples.views_VDNHWK[1]])


def test_the_sheet_of_an_encoded_set_shows_its_views(tmp_path):
    write_folder(tmp_path)
    config = list_config(tmp_path)
    splits = sources.load(config)
    crop = augmentation.make(config.data, "random_resized_crop", (32, 32, 3), encoded=True)
    every = [crop, crop._replace(color_jitter=0.0)]
    path = sheet.draw(config, splits, every, tmp_path / "run")
    samples = inspection.sample(splits, every, config.seed)
    assert_shown(path, samples.images_NHWK, samples.views_VDNHWK)


def test_a_check_changes_nothing_of_a_run_but_its_sheet(small_network, tmp_path):
    config = small_config("ce")
    directory.open_run(tmp_path, config, sources.load(config), [])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert check.run(Command("check", str(tmp_path), config, True)) == 0
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    picture = tmp_path / "plots" / "views.png"
    assert picture in after
    assert {path: content for path, content in after.items() if path != picture} == before


def test_nothing_is_drawn_into_the_run_of_another_config(tmp_path):
    config = small_config()
    splits = sources.load(config)
    several = small_config(num_seeds=2)
    for workdir, own, others in (
        (tmp_path / "one", config, [small_config(seed=1), several]),
        (tmp_path / "several", several, [small_config(num_seeds=2, batch_size=16), config]),
    ):
        for seed in seeds.seeds_of(own):
            member = workdir / f"seed-{seed}" if own.num_seeds > 1 else workdir
            member.mkdir(parents=True)
            directory.open_run(member, seeds.member_config(own, seed), splits, [])
        for other in others:
            told = sheet.draw(other, splits, [STILL], workdir)
            assert "not drawn" in told and "a run of another config. Fix: another --workdir" in told
            assert not (workdir / "plots").exists()
        assert sheet.draw(own, splits, [STILL], workdir) == str(workdir / "plots" / "views.png")
    (tmp_path / "one" / "config.json").write_text(json.dumps({"of another version": 1}))
    assert "not drawn" in sheet.draw(config, splits, [STILL], tmp_path / "one")


def test_a_sheet_that_can_not_be_drawn_is_a_note(small_network, tmp_path, capsys, monkeypatch):
    config = small_config("ce")
    (tmp_path / "plots").write_text("a file")
    assert check.run(Command("check", str(tmp_path), config, True)) == 0
    out = capsys.readouterr().out
    assert "the step was not kept" in out and "views  not drawn: " in out and "Fix: free up space or restore" in out
    monkeypatch.setitem(sys.modules, "saddle_jax.report.views", None)  # as where matplotlib is not installed
    monkeypatch.delattr("saddle_jax.report.views")
    told = sheet.draw(config, sources.load(config), [STILL], tmp_path / "other")
    assert "not drawn" in told and "Fix: pip install matplotlib" in told
    with pytest.raises(ConfigError, match="is a file, expected a directory. Fix: another --workdir"):
        check.run(Command("check", str(tmp_path / "plots"), config, True))
