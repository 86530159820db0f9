"""Folders of images: what is found, left out, split, and chosen; and one clear error for each thing that is wrong."""

import csv
import os
import shutil
from collections import Counter

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import default, folder
from saddle_jax.data import pixels, sources
from saddle_jax.data.sources import fitting, split
from saddle_jax.data.sources.folder import find
from saddle_jax.errors import DataError
from saddle_jax.experiment.config import flatten
from saddle_jax.training import directory

SIZES = {"ant": 4, "bee": 11, "cat": 1, "dog": 6}


def write(root, sizes=SIZES, size=(12, 12), mode="RGB", suffix=".png"):
    """Write random images, one folder per class."""
    random = np.random.default_rng(sum(map(ord, root.name)))
    for name, number in sizes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for place in range(number):
            levels = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
            Image.fromarray(levels).convert(mode).save(root / name / f"{place}{suffix}")
    return root


def data_of(root, **fields):
    data = default.get_config().data
    data.update(source="folder", root=str(root), profile="as_is", mean=(0.5,) * 3, std=(0.5,) * 3, **fields)
    return data


def load(root, **fields):
    return sources.load(ConfigDict({"data": data_of(root, **fields)}))


def test_classes_are_folders_ranked_by_size_and_each_gives_test_images(tmp_path):
    root = write(tmp_path / "mine")
    (root / "ant" / "notes.txt").write_text("no image")
    (root / "ant" / ".hidden.png").write_bytes(b"")
    (root / "ant" / ".ipynb_checkpoints").mkdir()
    shutil.copy(root / "ant" / "0.png", root / "ant" / ".ipynb_checkpoints" / "0-checkpoint.png")
    (root / "ant" / ".ipynb_checkpoints" / "notes-checkpoint.txt").write_text("no image either")
    splits = load(root)
    assert splits.stats.names == ("bee", "dog", "ant", "cat")
    assert splits.stats.labels == (1, 3, 0, 2)
    assert splits.stats.counts_C.tolist() == [9, 5, 3, 1]
    assert np.bincount(splits.test.labels, minlength=4).tolist() == [2, 1, 1, 0]
    told = " ".join(splits.notes)
    assert "not those of images: 1" in told and "notes.txt" in told
    assert (
        "4 of 22 images became test images" in told
        and "classes with a single image have no test image: 1 (cat)" in told
    )
    for part, name in ((splits.train, "train"), (splits.test, "test")):
        for position, label in enumerate(part.labels):
            path = splits.name_of(name, position)
            assert path.startswith(splits.stats.names[label] + "/")
            np.testing.assert_array_equal(part.images[position], np.asarray(Image.open(root / path)))
    rows = list(csv.DictReader(directory.images_table(splits).splitlines()))
    assert Counter(row["split"] for row in rows) == {"train": 18, "test": 4}
    assert all(row["image"].startswith(row["class"] + "/") for row in rows)


def test_the_choice_of_test_images_depends_on_names_alone():
    labels, names = np.repeat([0, 1], 20), [f"{n:02d}.png" for n in range(40)]
    chosen = split.choose(labels, names, 0.2, 0)
    assert chosen.sum() == 8 and chosen[:20].sum() == 4
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(split.choose(labels[order], np.array(names)[order], 0.2, 0), chosen[order])
    more = split.choose(np.append(labels, 1), [*names, "new.png"], 0.2, 0)[:40]
    assert (more != chosen).sum() <= 1
    assert (split.choose(labels, names, 0.2, 1) != chosen).any()


def test_folders_of_splits_are_obeyed(tmp_path):
    for part in ("Train", "val", "test"):
        write(tmp_path / part, {"a": 3, "b": 4} if part == "Train" else {"b": 2})
    splits = load(tmp_path)
    assert (len(splits.train.labels), len(splits.validation.labels), len(splits.test.labels)) == (7, 2, 2)
    assert set(splits.test.labels.tolist()) == {0} and splits.stats.names == ("b", "a")
    assert splits.name_of("validation", 0) == "val/b/0.png"
    (tmp_path / "test" / "b" / "1.png").rename(tmp_path / "test" / "b" / "x.png")
    shutil.rmtree(tmp_path / "test")
    splits = load(tmp_path)
    assert splits.validation is None and len(splits.test.labels) == 2
    assert "the validation images are the test images" in splits.notes[-1]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda _: None, "holds 0 folders, expected one folder of images for each of two or more classes"),
        (lambda root: (root / "a").mkdir(), "holds 1 folders"),
        (lambda root: [(root / n).mkdir() for n in "ab"], "has an image file"),
        (
            lambda root: [write(root / "train", {"cat": 2, "dog": 2}), write(root / "test", {"cta": 1})],
            "no class 'cta'. Did you mean cat",
        ),
        (lambda root: [write(root, {"a": 2}), write(root, {"b": 2}, (9, 12))], "have 2 sizes.*image_size=64"),
        (
            lambda root: [write(root, {"a": 2, "b": 2}), (root / "a/0.png").write_bytes(b"")],
            "1 of 4 image files.*empty",
        ),
        (lambda root: write(root, {"a": 1, "b": 1}), "no class has two images"),
    ],
)
def test_bad_folders_give_one_clear_error(tmp_path, break_it, message):
    break_it(tmp_path)
    with pytest.raises(DataError, match=f"(?s){message}"):
        load(tmp_path)


def test_a_root_that_is_missing():
    for root, message in (("", "data.root is not given"), ("/nowhere/x", "can't be listed")):
        with pytest.raises(DataError, match=message):
            load(root)


def test_broken_files_are_left_out_and_told(tmp_path):
    root = write(tmp_path / "mine", size=(40, 30), suffix=".jpg")
    whole = (root / "bee" / "0.jpg").read_bytes()
    (root / "bee" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "dog" / "1.jpg").write_text("<html>not found</html>")
    (root / "dog" / "2.jpg").write_bytes(whole + b"\0" * 100)  # bytes after the end do no harm
    with pytest.raises(DataError, match="(?s)2 of 22 image files.*max_bad_fraction=0.14"):
        load(root, image_size=16)
    splits = load(root, image_size=16, max_bad_fraction=0.5)
    assert splits.available + len(splits.test.labels) == 20
    assert "broken image files left out: 2" in splits.notes[0] and "bee/0.jpg: " in splits.notes[0]


def test_a_png_damaged_inside_is_left_out_as_well(tmp_path):
    """Its end is in place, so that only decoding it shows the damage. The fraction that the error suggests suffices."""
    write(tmp_path / "train", {"a": 50, "b": 50})
    damaged = write(tmp_path / "test", {"a": 2, "b": 2}) / "a" / "0.png"
    for path in (damaged, tmp_path / "train" / "b" / "0.png"):
        content = bytearray(path.read_bytes())
        content[content.index(b"IDAT") + 6] ^= 0xFF
        content[content.index(b"IDAT") + 7] ^= 0xFF
        path.write_bytes(content)
    assert pixels.problem_of(damaged) == ""
    config = folder.get_config()
    config.data.root, config.data.max_bad_fraction = str(tmp_path), 0.0
    fitting.fit(config, {})
    with pytest.raises(DataError, match=r"(?s)2 of 104 image files.*test/a/0.png: .*max_bad_fraction=0\.38$") as told:
        sources.load(config)
    config.data.max_bad_fraction = float(str(told.value).rpartition("=")[2])
    splits = sources.load(config)
    assert splits.available == 99 and len(splits.test.labels) == 3
    assert "broken image files left out: 2" in splits.notes[0]
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_bytes(damaged.read_bytes())
    with pytest.raises(DataError, match="(?s)5 of 104 image files.*Fix: restore or remove them$"):
        sources.load(config)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_follow_exif_size_and_colors(tmp_path, orientation):
    image = Image.new("RGB", (16, 12), "white")
    image.paste("black", (0, 0, 8, 12))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    dark = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    found = pixels.read((tmp_path / "a.png").read_bytes(), 1)
    assert found.shape == ((16, 12, 1) if orientation > 4 else (12, 16, 1))
    half = {
        "left": found[:, :4], "right": found[:, -4:], "top": found[:4], "bottom": found[-4:],
    }  # fmt: skip
    assert [side for side, part in half.items() if part.max() == 0] == [dark]
    assert pixels.read((tmp_path / "a.png").read_bytes(), 3, turn=False)[:, :4].max() == 0
    assert pixels.read((tmp_path / "a.png").read_bytes(), 3, (10, 10)).shape == (10, 10, 3)


@pytest.mark.parametrize(
    ("size", "mode", "given", "expected"),
    [
        ((28, 28), "L", {}, {"model.name": "resnet32", "data.image_size": 28, "data.flip": False}),
        ((8, 8), "L", {}, {"model.name": "resnet8", "data.crop_padding": 1}),
        ((50, 40), "RGB", {}, {"model.name": "resnet32", "data.image_size": 40, "data.flip": True}),
        ((300, 200), "RGB", {}, {"model.name": "resnet50", "data.image_size": 224, "data.eval_resize": 256}),
        ((300, 200), "RGB", {"data.image_size": 64}, {"model.name": "resnet32", "data.augmentation": "crop_flip"}),
        ((300, 200), "L", {"duration": "3 epochs"}, {"duration": "3 epochs", "data.color_jitter": 0.0}),
    ],
)
def test_settings_follow_from_the_images(tmp_path, size, mode, given, expected):
    config = folder.get_config()
    config.data.root = str(write(tmp_path / "mine", size=size, mode=mode))
    config.update_from_flattened_dict(given)
    notes = fitting.fit(config, given)
    found = flatten(config)
    assert {name: found[name] for name in expected} == expected
    assert config.name == "mine-la_sam"
    assert len(config.data.mean) == (1 if mode == "L" and max(size) < 96 else 3)
    assert not any(note.startswith(f"{field}=") for field in given for note in notes)
    assert any(note.startswith("batch_size=32: about ") for note in notes)


def test_names_that_are_not_text(tmp_path):
    write(tmp_path, {"a": 2, "b": 2})
    image, note = (tmp_path / "a" / os.fsdecode(b"caf\xe9" + suffix) for suffix in (b".png", b".txt"))
    note.write_text("no image")
    assert find(str(tmp_path)).notes[0].endswith(r"a/caf\xe9.txt")
    shutil.copy(tmp_path / "a" / "0.png", image)
    with pytest.raises(DataError, match=r"^1 names .* are not UTF-8\n  - a/caf\\xe9.png\nFix: rename them$"):
        load(tmp_path)


def test_images_of_two_depths_below_a_class(tmp_path):
    write(tmp_path / "mine" / "a", {"deep": 3})
    write(tmp_path / "mine", {"b": 2})
    assert find(str(tmp_path / "mine")).splits["train"].paths[0] == "a/deep/0.png"
