"""Whole runs on a folder of real JPEGs: the same after an interruption, bad images named or masked, spectra."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT
from jpeg_folder import BY_SIZE, list_config, photograph, write_folder
from PIL import ExifTags, Image, ImageOps
from small_runs import program_of, train

import saddle_jax
from saddle_jax import modes
from saddle_jax.data import sources
from saddle_jax.data.feeds import evaluation
from saddle_jax.data.order import evaluation_slots, slots_at
from saddle_jax.errors import ConfigError, DataError, Preempted
from saddle_jax.experiment import command_line
from saddle_jax.inference import to_stablehlo
from saddle_jax.spectra import plan
from saddle_jax.spectra import results as spectra_results
from saddle_jax.spectra.spectrometer import Spectrometer
from saddle_jax.training import checkpoint, evaluate, loop, metrics
from saddle_jax.training.feed import Feed
from saddle_jax.training.program import make_program

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

FORMATS = (".jpg", ".png", ".webp", ".tif")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    write_folder(root)
    return root


@pytest.fixture(scope="module")
def unbroken(photos, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    train(list_config(photos), workdir)
    return workdir


def end_of(workdir, config):
    like = jax.eval_shape(lambda: program_of(config, sources.load(config)).init(0))
    return jax.device_get(checkpoint.restore(checkpoint.find(workdir / "checkpoints"), like))


def stop_after(monkeypatch, steps):
    """Let a signal come when so many steps have been taken."""
    advance = Feed.advance

    def advance_and_stop(self, state, segment):
        if segment.stop == steps:
            os.kill(os.getpid(), 15)
        return advance(self, state, segment)

    monkeypatch.setattr(Feed, "advance", advance_and_stop)


def test_an_interrupted_run_ends_bit_for_bit_as_the_unbroken_one(photos, unbroken, tmp_path, monkeypatch):
    config = list_config(photos)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Preempted):
            train(config, tmp_path)
    assert checkpoint.find(tmp_path / "checkpoints").step == 3
    train(config, tmp_path)
    for a, b in zip(*map(jax.tree.leaves, (end_of(tmp_path, config), end_of(unbroken, config))), strict=True):
        assert a.tobytes() == b.tobytes()
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads((unbroken / "results.json").read_text())


def test_bad_images_are_counted_once_an_epoch_and_a_batch_of_them_is_skipped(tmp_path, capsys, monkeypatch):
    root, workdir = tmp_path / "photos", tmp_path / "run"
    write_folder(root)
    config = list_config(root, data__max_bad_fraction=0.5)
    splits = sources.load(config)
    program = make_program(config, splits)
    slots = slots_at(Feed([config], [splits], program)._orders[0][0], 2)
    names = sorted(splits.train.images.name(position) for position in slots.ids_B[slots.mask_B])
    for name in names:
        pathlib.Path(name).write_bytes(b"")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Preempted):
            loop.train(config, workdir, splits, program, ["test"])
    bad = (workdir / "bad_images.txt").read_text().splitlines()
    assert len(bad) == 8 and [line.split(": ")[0] for line in bad] == names
    (note,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert note.startswith("note   epoch 1: 8 bad ") and note.endswith(
        "; 1 step skipped, because every image in the batch was bad"
    )
    splits = sources.load(config)  # as in a new process, which has met no bad image
    loop.train(config, workdir, splits, program, ["test"])
    out, err = capsys.readouterr()
    (note,) = [line for line in out.splitlines() if line.startswith("note")]
    assert note == "note   epoch 2: 8 bad training images so far, masked (20 allowed; bad_images.txt names them)"
    assert "bad" not in err and (workdir / "bad_images.txt").read_text().splitlines() == bad
    (first, second) = [record for record in metrics.read(workdir) if "train/loss" in record]
    assert first["train/skipped_steps"] == 1 and "train/skipped_steps" not in second
    assert all(np.isfinite(record["train/loss"]) for record in (first, second))


def test_the_run_keeps_the_class_map_and_the_validation_list_chooses_the_best_epoch(unbroken):
    stats = json.loads((unbroken / "class_stats.json").read_text())
    assert stats["labels"] == list(BY_SIZE)
    assert stats["counts"] == [14, 14, 8, 3, 1]
    assert (stats["train_images"], stats["test_images"]) == (40, 15)
    results = json.loads((unbroken / "results.json").read_text())
    assert results["best"]["chosen_by"] == ", best on validation"
    assert results["best"]["images"] == 15


def test_a_run_is_bound_to_its_lists(photos, unbroken, tmp_path):
    lines = (photos / "test.txt").read_text().splitlines()
    (tmp_path / "fewer.txt").write_text("\n".join(lines[1:]))
    with pytest.raises(DataError, match="was trained on other images"):
        train(list_config(photos, data__test_list=str(tmp_path / "fewer.txt")), unbroken)


@pytest.mark.nightly
def test_a_bad_image_ends_training_by_name_or_becomes_a_masked_slot(tmp_path, capsys):
    root = tmp_path / "photos"
    write_folder(root)
    bad = root / "train/class 1/2.JPEG"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(DataError, match=r"1 training image can't be decoded\n  - .*/train/class 1/2.JPEG: "):
        train(list_config(root), tmp_path / "run")
    spectra = {"spectra__classes": "1", "spectra__steps": 4, "spectra__probes": 1}
    tolerant = list_config(root, data__max_bad_fraction=0.03, **spectra)
    train(tolerant, tmp_path / "run")  # the field may change: the run goes on
    assert (tmp_path / "run/results.json").is_file()
    (root / "test/class 0/0.JPEG").write_bytes(b"")
    splits = sources.load(tolerant)
    spectrometer = Spectrometer(tolerant, splits)
    folder = spectrometer.measure(end_of(tmp_path / "run", tolerant), tmp_path / "run", quiet=True)
    (summary,) = spectra_results.read_summary(folder)["targets"].values()
    assert summary["images"] == 13  # of 14
    assert (tmp_path / "run/bad_images.txt").read_text().startswith(f"{bad}: ")
    program = program_of(tolerant, splits)
    evaluator = evaluate.Evaluator(tolerant, program, splits.test, splits.stats, "tfdata")
    with pytest.raises(DataError, match=r"1 evaluation image can't be decoded\n  - .*/test/class 0/0.JPEG: "):
        evaluator.report(program.init(0), None, "test")


def test_what_is_evaluated_is_what_pillow_shows(photos):
    """Through the whole evaluation: a network of known logits counts what it should."""
    config = list_config(photos)
    splits = sources.load(config)
    program = program_of(config, splits)
    state = program.init(0)
    evaluator = evaluate.Evaluator(config, program, splits.test, splits.stats, "tfdata")
    encoded = evaluator.report(state, None, "test")
    batches = list(evaluation.evaluation_batches(*splits.test, batch_size=16, num_devices=8))
    pixels = np.concatenate([batch.images[batch.mask] for batch in batches])
    ids = np.concatenate([batch.ids[batch.mask] for batch in batches])
    in_memory = sources.Images(pixels[np.argsort(ids)], splits.test.labels)
    for pipeline in ("numpy", "resident"):
        assert (
            evaluate.Evaluator(config, program, in_memory, splits.stats, pipeline).report(state, None, "test")
            == encoded
        )


def test_spectra_see_all_images_of_a_class_as_the_evaluation_does(photos):
    config = list_config(photos, spectra__classes="1")
    splits = sources.load(config)
    spectrometer = Spectrometer(config, splits)
    positions = spectrometer._images_of(spectrometer.targets[0])
    found = list(spectrometer._chunks(positions))
    assert sum(chunk.mask.sum() for chunk in found) == len(positions) == 14
    expected = evaluation.plain_batches(*splits.train, slots=evaluation_slots(40, 40, 8))
    pixels = {int(i): image for batch in expected for i, image in zip(batch.ids, batch.images, strict=True)}
    for chunk in found:
        for place in np.flatnonzero(chunk.mask):
            np.testing.assert_array_equal(chunk.images[place], pixels[int(chunk.ids[place])])
    with pytest.raises(ConfigError, match="decoded images take .* are free"):
        plan.require_memory(splits.train.images.nbytes, 1000)


@pytest.mark.slow
@pytest.mark.nightly
def test_the_command_line_trains_on_files(photos, tmp_path):
    """As a user would, with the settings on the command line, on one device."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    changes = (
        "--config.data.name=photos", f"--config.data.root={photos}", "--config.data.image_size=24",
        "--config.data.train_list=train.txt", "--config.data.validation_list=val.txt",
        "--config.data.test_list=test.txt", "--config.data.eval_resize=28", "--config.model.name=resnet8",
        "--config.duration=2 steps", "--config.optim.lr=((0,0.1),)", 
        "--config.loss.drw_start=1 steps", "--config.batch_size=8", "--config.eval.rank_bounds=(1,3)",
        "--config.eval.batch_size=8", "--config.model.width=0.25", "--config.optim.lr_interpolation=constant",
    )  # fmt: skip
    script = [sys.executable, ROOT / "main.py", "--config", "configs/imagenet_lt.py:ce_drw"]
    command = [*script, *changes, f"--workdir={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stderr
    assert "40 training images (10 held out), 5 classes of 14 to 1; 15 test images" in result.stdout
    assert "best on validation" in result.stdout


def write_photographs(root):
    """Write photographs of many sizes and formats, one folder per class; some lie on their side, and two are broken."""
    for label, (name, count) in enumerate({"emu": 6, "kiwi": 13, "owl": 21}.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            seed = 100 * label + number
            photo, suffix = photograph(seed, 105 + 7 * (seed % 9), 105 + 11 * (seed % 5)), FORMATS[seed % len(FORMATS)]
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = 1 if seed % 8 else 6
            photo.convert("L" if seed == 204 else "RGB").save(root / name / f"{number:02d}{suffix}", exif=exif)
    cut = root / "owl/00.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    (root / "kiwi/01.png").write_text("<html>not found</html>")


@pytest.mark.usefixtures("compile_quickly")
def test_a_folder_of_photographs_from_training_to_use(tmp_path):
    root, workdir = tmp_path / "birds", tmp_path / "run"
    write_photographs(root)
    fields = {"data.image_size": 100, "data.test_fraction": 0.55, "model.name": "resnet10", "model.width": 0.125}
    fields |= {"duration": "3 steps", "batch_size": 8, "eval.every": "100%", "eval.batch_size": 16}
    fields |= {"checkpoint_every": "100%", "tensorboard": False}
    run = saddle_jax.train("folder:la_sam", root=root, workdir=workdir, fields=fields)
    assert run.class_names == ("owl", "kiwi", "emu") and run.config.data.augmentation == "random_resized_crop"
    assert run.config.data.eval_resize == 114 and all(np.isfinite(run.results["last"]["class_accuracy"]))

    assert modes.run(command_line.parse(["main.py", "--mode=eval", f"--workdir={workdir}", "--checkpoint=latest"])) == 0
    with np.load(workdir / "eval/3-test-predictions.npz") as stored:
        logits_NC, labels_N = stored["logits"], stored["labels"]
    rows = [row for row in csv.DictReader((workdir / "images.csv").read_text().splitlines()) if row["split"] == "test"]
    assert [row["class"] for row in rows] == [run.class_names[label] for label in labels_N]
    files = [root / row["image"] for row in rows]
    assert 16 < len(files) < 32 and {file.suffix for file in files} == set(FORMATS)  # the last batch is not full
    latest = saddle_jax.load(workdir, "latest")
    np.testing.assert_array_equal(latest.predict(files).logits_NC, logits_NC)
    few = latest.predict(files[3:5]).logits_NC  # a smaller batch may be summed in another order
    np.testing.assert_allclose(few, logits_NC[3:5], rtol=1e-5, atol=1e-6)
    found = latest.predict(root)
    assert {found.names[place].rpartition("/")[2] for place in found.problems} == {"00.jpg", "01.png"}

    data, splits = run.config.data, sources.load(run.config)
    script = "\n".join(to_stablehlo.preparation(data, (100, 100, 3), encoded=True))
    (batch,) = evaluation.evaluation_batches(*splits.test, batch_size=32, num_devices=8)
    for pixels, position in zip(batch.images[batch.mask], batch.ids[batch.mask], strict=True):
        there = {"path": files[position], "Image": Image, "ImageOps": ImageOps, "np": np}
        exec(script, there)
        assert np.abs(there["pixels"][0].astype(int) - pixels).max() <= 1, files[position]
