"""Image lists: what is let pass, and one clear message with line numbers for everything that is not."""

import json
import shutil
import time

import numpy as np
import pytest
from conftest import shared_file
from jpeg_folder import BY_SIZE, COUNTS, list_config, write_folder
from ml_collections import ConfigDict

from configs import cifar10_lt, default, imagenet_lt, inat18, recipes
from saddle_jax import longtail, schedules
from saddle_jax.data import inspection, sources
from saddle_jax.data.sources import list_file, published
from saddle_jax.data.sources import lists as image_list
from saddle_jax.errors import DataError
from saddle_jax.experiment.catalogue import images_stay_encoded
from saddle_jax.experiment.checks import problems_of
from saddle_jax.experiment.command_line import Command
from saddle_jax.inference import inputs
from saddle_jax.longtail import ClassStats
from saddle_jax.modes import check


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos with blanks")
    write_folder(root)
    return root


def load_data(data):
    """Load the images that config.data describes."""
    return sources.load(ConfigDict({"data": data}))


def load(root, **changes):
    return sources.load(list_config(root, **changes))


def other_list(root, tmp_path, content, split="train"):
    """Return the config's data fields with another list."""
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    return list_config(root, **{f"data__{split}_list": str(path)}).data


def test_classes_are_numbered_by_falling_size_and_ties_keep_their_order(photos):
    splits = load(photos)
    assert splits.stats.labels_C.tolist() == list(BY_SIZE)
    assert splits.stats.counts_C.tolist() == [COUNTS[label] for label in BY_SIZE]
    assert splits.stats.names == tuple(f"class {label}" for label in BY_SIZE)
    for part, folder in ((splits.train, "train"), (splits.validation, "val"), (splits.test, "test")):
        for position, label in enumerate(part.labels):
            assert part.images.name(position).startswith(f"{photos}/{folder}/class {BY_SIZE[label]}/")
    assert splits.train.images.shape == (sum(COUNTS), 32, 32, 3)


def test_the_hash_is_of_paths_and_labels(photos, tmp_path):
    splits = load(photos)
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    assert load(moved).content_hash == splits.content_hash
    lines = (moved / "test.txt").read_text().splitlines()
    (moved / "test.txt").write_text("\n".join(lines[1:]))
    assert load(moved).content_hash != splits.content_hash


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "  \t \n"),
        lambda text: "\n\n" + text.replace("\n", "\n \n"),
        lambda text: text.rstrip("\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("train/class", "./train//class"),
    ],
    ids=["CRLF", "trailing blanks", "blank lines", "no last line end", "byte order mark", "odd slashes"],
)
def test_what_is_let_pass(photos, tmp_path, change):
    plain = load(photos)
    data = other_list(photos, tmp_path, change((photos / "train.txt").read_text()).encode())
    assert load_data(data).content_hash == plain.content_hash


NAMES = [f"class {label}" for label in range(5)]
OTHER_FORMS = {  # of a list; from its lines' paths and labels
    "absolute paths": lambda rows, root: "".join(f"{root}/{path} {label}\n" for path, label in rows),
    "commas": lambda rows, _: "".join(f"{path},{label}\n" for path, label in rows),
    "commas and spaces": lambda rows, _: "".join(f"{path}, {label}\n" for path, label in rows),
    "tabs": lambda rows, _: "".join(f"{path}\t{label}\n" for path, label in rows),
    "quotes": lambda rows, _: "".join(f'"{path}";"{label}"\n' for path, label in rows),
    "from 1": lambda rows, _: "".join(f"{path} {label + 1}\n" for path, label in rows),
    "names of columns": lambda rows, _: "path label\n" + "".join(f"{path} {label}\n" for path, label in rows),
    "other columns": lambda rows, _: (
        ",Label,width,File name\r\n" + "".join(f"{i},{label},60,{path}\r\n" for i, (path, label) in enumerate(rows))
    ),
    "class names": lambda rows, _: "path,label\n" + "".join(f"{path},{NAMES[label]}\n" for path, label in rows),
    "class names, no header": lambda rows, _: "".join(f"{path}\t{NAMES[label]}\n" for path, label in rows),
    "one-word names": lambda rows, _: "".join(f"{path} {'abcde'[label]}\n" for path, label in rows),
}


def rows_of(root, name):
    lines = (root / f"{name}.txt").read_text().splitlines()
    return [(path, int(label)) for path, label in (line.rsplit(" ", 1) for line in lines)]


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_other_forms_of_lists_are_taken(photos, tmp_path, form):
    plain, paths = load(photos), {}
    for name in ("train", "val", "test"):
        paths[name] = tmp_path / f"{name}.csv"
        paths[name].write_text(OTHER_FORMS[form](rows_of(photos, name), photos))
    split = {"data__train_list": "train", "data__validation_list": "val", "data__test_list": "test"}
    found = load(photos, **{field: str(paths[name]) for field, name in split.items()})
    assert found.content_hash == plain.content_hash
    assert found.stats.names == (tuple("bedac") if form == "one-word names" else plain.stats.names)
    assert found.notes == (("labels start at 1, so 1 to 5 are treated as the classes",) if form == "from 1" else ())
    start = photos if form == "absolute paths" else tmp_path
    items = inputs.find([str(paths["train"])])  # of images to classify
    assert [item.content for item in items] == [start / path for path, _ in rows_of(photos, "train")]


def test_one_list_with_a_column_of_splits_is_enough(photos, tmp_path):
    path, only = tmp_path / "all.tsv", {"data__validation_list": "", "data__test_list": ""}
    splits = {"train": "Train", "val": "valid", "test": "TEST"}
    lines = [f"{file}\t{label}\t{splits[name]}\n" for name in splits for file, label in rows_of(photos, name)]
    path.write_text("image_path\tlabel\tsplit\n" + "".join(lines[::-1]))
    found, plain = load(photos, data__train_list=str(path), **only), load(photos)
    assert found.notes == ("all.tsv says which images belong to which split: 40 train, 10 validation, 15 test",)
    for split in ("train", "validation", "test"):
        ours, theirs = getattr(found, split), getattr(plain, split)
        np.testing.assert_array_equal(ours.labels, theirs.labels[::-1])
        np.testing.assert_array_equal(ours.images.paths_N, theirs.images.paths_N[::-1])
    found = load(photos, data__train_list=str(path), data__validation_list=str(path), data__test_list="test.txt")
    assert len(found.validation.labels) == 10 and len(found.test.labels) == 15
    path.write_text(path.read_text().replace("TEST", "Train"))
    with pytest.raises(DataError, match=r"column of splits has no row for test \(55 train, 10 validation, 0 test\)"):
        load(photos, data__train_list=str(path), data__validation_list="", data__test_list=str(path))
    path.write_text(path.read_text().replace("valid", "holdout"))
    with pytest.raises(DataError, match=r"splits that are not known: 10\n.*'holdout', expected train, validation, or"):
        load(photos, data__train_list=str(path), **only)


def test_a_list_without_test_images_gives_some_of_every_class(photos):
    found = load(photos, data__test_list="")
    assert (len(found.train.labels), len(found.test.labels)) == (31, 9)
    assert "the set has no test images of its own: 9 of 40 images became test images" in found.notes[0]
    assert "/train/class " in found.name_of("test", 0) or found.name_of("test", 0).startswith("train/class ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,breed\n1,cat\n", "found 'id,breed' in its first line, expected the names of its columns: path, label"),
        ("a.jpg,1,train\n", "found 'a.jpg,1,train' in its first line.*Fix: a first line such as 'path,label,split'"),
        ("path,label\na.jpg\n", "without a path and a label: 1\n.*line 2: 'a.jpg', expected .* as the first line says"),
        ("path,label\n", "has no line with a path and a label"),
        ("train/class 0/0.JPEG 1\ntrain/class 0/1.JPEG 3\n", r"labels start at 1, but no .* has label 2.*0 to 1"),
    ],
)
def test_what_a_list_does_not_say_is_told(photos, tmp_path, content, message):
    data = other_list(photos, tmp_path, content.encode())
    data.validation_list = data.test_list = ""
    with pytest.raises(DataError, match=message):
        load_data(data)


def test_lists_that_do_not_fit_each_other_are_told(photos, tmp_path):
    with pytest.raises(DataError, match=r"data.train_list and data.test_list: both name .*Fix: a column `split`"):
        load(photos, data__test_list="train.txt")
    for name in ("train", "test"):
        names = OTHER_FORMS["class names"](rows_of(photos, name), photos)
        (tmp_path / f"{name}.csv").write_text(names.replace("class 4\n", "clas 4\n") if name == "test" else names)
    lists = {"data__train_list": str(tmp_path / "train.csv"), "data__test_list": str(tmp_path / "test.csv")}
    with pytest.raises(DataError, match="classes without training images: 3\n.*'clas 4', .*Did you mean class 4"):
        load(photos, data__validation_list="", **lists)


LINE = "train/class 0/0.JPEG 0\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/class 0/99.JPEG 0\n", r"images that are not there: 1\n  - list.txt line 2: .*/train/class 0/99.JPEG"),
        (LINE, r"images listed twice: 1\n  - list.txt line 2: train/class 0/0.JPEG, first in line 1"),
        ("train/class 0/0.JPEG 1\n", "images listed twice: 1"),
        ("val/class 0/0.JPEG 0\n", r"more than one list: 1\n  - val.txt line 1: .* is also in list.txt line 2"),
        ("test/class 0/0.JPEG 0\n", r"more than one list: 1\n  - test.txt line 1: .* is also in list.txt line 2"),
        (b"train/class 0/\xff.JPEG 0\n", r"lines that are not UTF-8: 1\n  - list.txt line 2: byte 14"),
        ("train/class 0/1.JPEG -1\n", "not whole numbers: 1\n.*line 2: '-1', expected a number below 1,000,000"),
        ("train/class 0/1.JPEG 3.0\n", "not whole numbers: 1"),
        ("train/class 0/1.JPEG dog\n", "not whole numbers: 1"),
        ("train/class 0/1.JPEG 99999999\n", "not whole numbers: 1"),
        (f"train/class 0/1.JPEG {'9' * 5000}\n", "not whole numbers: 1\n.*'9{40}'"),
        ("train/class\n", "without a path and a label: 1\n.*line 2: 'train/class', expected a path and a label"),
        ("train/class 0/1.JPEG\n", "without a path and a label: 1"),
        ("7\n", "without a path and a label: 1"),
        ("/etc/passwd 0\n", r"paths that leave data.root: 1\n  - list.txt line 2: '/etc/passwd', expected .* under /"),
        ("../secret.JPEG 0\n", "paths that leave data.root: 1"),
        ("train/../../secret.JPEG 0\n", "paths that leave data.root: 1"),
    ],
)
def test_bad_lines_are_told_with_their_numbers(photos, tmp_path, line, message):
    data = other_list(photos, tmp_path, LINE.encode() + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(DataError, match=message) as error:
        load_data(data)
    assert error.value.exit_code == 3


def test_a_test_label_that_training_has_not_is_out_of_range(photos, tmp_path):
    data = other_list(photos, tmp_path, b"test/class 0/0.JPEG 5\n", split="test")
    with pytest.raises(
        DataError, match=r"labels out of range: 1\n.* line 1: found 5, expected 0 to 4, as in train.txt"
    ):
        load_data(data)


def test_of_many_offenders_ten_are_shown_and_all_are_counted(photos, tmp_path):
    lines = [f"train/none/{i}.JPEG 0" for i in range(1234)] + [LINE.strip()] * 13
    with pytest.raises(DataError) as error:
        load_data(other_list(photos, tmp_path, "\n".join(lines).encode()))
    text = str(error.value)
    assert "images that are not there: 1,234" in text and "... and 1,224 more" in text
    assert "images listed twice: 12" in text and "... and 2 more" in text
    assert len(text.splitlines()) == 1 + 3 * 12


def test_a_class_without_images_is_an_error_unless_allowed(photos, tmp_path):
    lines = [line for line in (photos / "train.txt").read_text().splitlines() if not line.endswith(" 2")]
    data = other_list(photos, tmp_path, "\n".join(lines).encode())
    with pytest.raises(DataError, match=r"1 of 5 classes end up with no training images: 2"):
        load_data(data)
    data.allow_empty_classes = True
    assert load_data(data).stats.counts_C.tolist() == [14, 14, 8, 3, 0]


@pytest.mark.parametrize("name", ["imagenet_lt", "inat18"])
def test_without_data_the_message_says_what_was_looked_for_where_and_the_fix(name, tmp_path):
    config = {"imagenet_lt": imagenet_lt, "inat18": inat18}[name].get_config()
    official = {"imagenet_lt": "ImageNet_LT_train.txt", "inat18": "iNaturalist18_train.txt"}[name]
    with pytest.raises(DataError, match=rf"data.root is not given.*{official}.*--config.data.root=FOLDER.*:smoke"):
        sources.load(config)
    config.data.root = str(tmp_path / "none")
    with pytest.raises(DataError, match=rf"found no folder {tmp_path}/none.*{official}"):
        sources.load(config)
    config.data.root = "gs://bucket/imagenet"
    with pytest.raises(DataError, match="found 'gs://bucket/imagenet', but.* need a folder.*data.source=tfds"):
        sources.load(config)
    (tmp_path / "photos").mkdir()
    config.data.root = str(tmp_path)
    with pytest.raises(
        DataError, match=rf"lacks \d of \d lists \(it holds photos\)\n  - looked for {tmp_path}/{official}"
    ):
        sources.load(config)
    config.data.name = "mine"
    with pytest.raises(DataError, match="no train list.*--config.data.train_list=FILE"):
        sources.load(config)


@pytest.mark.parametrize("name", image_list.OFFICIAL)
def test_published_class_sizes(name):
    official = shared_file("data/lists") / image_list.OFFICIAL[name][0]
    if official.is_file():
        rows = list_file.read(official, list_file.Offenders())
        counts = np.bincount(image_list._written_labels({"train": rows}, list_file.Offenders())["train"])
    else:
        counts = json.loads(official.with_name(f"{official.stem}_class_counts.json").read_text())
    np.testing.assert_array_equal(published.published_counts(name), counts)
    labels = np.repeat(np.arange(len(counts)), counts)
    published.require_published(name, "list", labels)
    published.require_published("mine", "list", labels[:3])
    with pytest.raises(
        DataError, match=rf"not the published.*\n  - label 0: found {counts[0] - 1:,} images, published"
    ):
        published.require_published(name, "list", labels[1:])
    map_C = longtail.by_size(np.bincount(labels, minlength=len(counts)))
    sizes = np.array(counts)[map_C]
    assert (np.diff(sizes) <= 0).all()
    assert all(a < b for a, b, m, n in zip(map_C, map_C[1:], sizes, sizes[1:], strict=False) if m == n)


def test_the_sizes_of_an_official_list_are_checked(photos, tmp_path):
    data = list_config(photos, data__name="imagenet_lt").data
    with pytest.raises(
        DataError, match=r"train.txt is not the published training set of imagenet_lt: 40 images, expected 115,8"
    ):
        load_data(data)


@pytest.mark.parametrize(
    ("split", "lines"),
    [
        ("ImageNet_LT_val", 20_000), ("ImageNet_LT_test", 50_000), ("iNaturalist18_val", 24_426),
        ("Places_LT_val", 7_300), ("Places_LT_test", 36_500),
    ],
)  # fmt: skip
def test_real_official_lists_are_read(split, lines):
    offenders = list_file.Offenders()
    rows = list_file.read(shared_file(f"data/lists/{split}.txt"), offenders)
    image_list._find_repeated([rows], offenders)
    labels = image_list._written_labels({"train": rows}, offenders)["train"]
    assert not offenders
    assert len(rows.paths) == lines == rows.lines[-1]
    assert np.bincount(labels).tolist() == [lines // (labels.max() + 1)] * (labels.max() + 1)


def test_half_a_million_lines_are_read_in_seconds(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("".join(f"train_val2018/Plantae/{i % 8142}/{i:032x}.jpg {i % 8142}\n" for i in range(437_513)))
    began = time.process_time()
    offenders = list_file.Offenders()
    rows = list_file.read(path, offenders)
    image_list._find_repeated([rows], offenders)
    labels = image_list._written_labels({"train": rows}, offenders)["train"]
    names = image_list.class_names(
        image_list.Listed(path, rows.paths, labels, rows.lines), tuple(map(str, range(8142)))
    )
    assert time.process_time() - began < 10  # some 3 seconds
    assert len(rows.paths) == 437_513 and not offenders and names[7] == "7"


def test_check_finds_what_can_not_be_read(photos, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(photos, root)
    config = list_config(root)
    inspection.require_readable(sources.load(config), decode=True)
    assert "all 65 images decode" in capsys.readouterr().out
    (root / "train/class 0/1.JPEG").write_bytes(b"")
    (root / "test/class 3/0.JPEG").write_bytes(b"<html>")
    whole = (root / "val/class 1/0.JPEG").read_bytes()
    (root / "val/class 1/0.JPEG").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="2 of 65 images can't be read") as error:
        check.run(Command("check", str(tmp_path / "run"), config))
    assert "train/class 0/1.JPEG: empty" in str(error.value)
    assert "test/class 3/0.JPEG: not a JPEG" in str(error.value)
    assert "class 1               14      1\n" in capsys.readouterr().out
    config.data.check_decode = True
    with pytest.raises(DataError, match=r"3 of 65 images can't be read(\n.*)*val/class 1/0.JPEG"):
        check.run(Command("check", str(tmp_path / "run"), config))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("decode", [False, True])
def test_check_tells_of_tolerated_bad_images_but_of_no_others(decode, photos, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(photos, root)
    (root / "train/class 0/1.JPEG").write_bytes(b"")
    splits = load(root, data__max_bad_fraction=0.03)
    inspection.require_readable(splits, decode=decode)
    out = capsys.readouterr().out
    assert "1 bad training images are masked; 1 are allowed" in out and "train/class 0/1.JPEG" in out
    assert "all other 64 images" in out
    with pytest.raises(DataError, match="1 of 65 images can't be read"):
        inspection.require_readable(load(root), decode=decode)
    (root / "train/class 0/1.JPEG").unlink()  # since the lists were read: a missing file is never tolerated
    with pytest.raises(DataError, match=r"1 of 65 images can't be read\n  - .*class 0/1.JPEG.*No such file"):
        inspection.require_readable(splits, decode=decode)
    shutil.copy(photos / "train/class 0/1.JPEG", root / "train/class 0/1.JPEG")
    (root / "test/class 0/1.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 65 images can't be read"):
        inspection.require_readable(splits, decode=decode)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__pipeline": "resident"}, "decoded batch by batch. Fix: --config.data.pipeline=tfdata"),
        ({"data__pipeline": "numpy"}, "decoded batch by batch"),
        ({"steps_at_once": 3}, "steps_at_once=3 needs images that stay on the devices"),
        ({"data__profile": "exp"}, "keep their own imbalance"),
        ({"data__augmentation": "crop_flip"}, "needs --config.data.augmentation=random_resized_crop"),
        ({"data__augmentation": "autoaugment"}, "which is for images of one size"),
        ({"data__augmentation": "simclr"}, "data.color_jitter has no effect"),
        ({"data__crop_padding": 4}, "data.crop_padding has no effect"),
        ({"data__eval_resize": 31}, "data.eval_resize: found 31, expected at least data.image_size=32"),
        ({"data__image_size": 0}, "data.image_size: found 0"),
        ({"data__validation_fraction": 0.1}, "both hold out images"),
        ({"data__train_split": "train[:50%]"}, "data.train_split has no effect with data.source='image_list'"),
        ({"data__source": "tfds"}, "data.test_list has no effect with data.source='tfds'"),
        ({"data__source": "digits"}, "needs images that are files or records"),
    ],
)
def test_checks_of_the_config(photos, changes, message):
    assert problems_of(list_config(photos), default.get_config()) == []
    assert message in "\n".join(problems_of(list_config(photos, **changes), default.get_config()))


def test_only_the_sources_own_validation_images_exclude_a_fraction(photos):
    """configs/imagenet_lt.py names a split, which its image lists do not use."""
    changes = {"data__validation_list": "", "data__validation_split": "validation", "data__validation_fraction": 0.1}
    assert problems_of(list_config(photos, **changes), default.get_config()) == []
    lists = {"data__source": "tfds", "data__train_list": "", "data__test_list": ""}
    (problem,) = problems_of(list_config(photos, **changes, **lists), default.get_config())
    assert "data.validation_fraction and data.validation_split: both" in problem


def test_records_are_encoded_and_arrays_are_not_whatever_augments_them():
    for name in ("randaugment", "simclr"):
        config = imagenet_lt.get_config("ce_drw")
        config.data.source, config.data.augmentation = "tfds", name
        config.data.color_jitter *= name != "simclr"
        assert problems_of(config, default.get_config()) == []
        assert images_stay_encoded("tfds", name, config.data.eval_resize)
        config = cifar10_lt.get_config("ce_drw")
        config.data.augmentation = name
        config.data.crop_padding *= name != "simclr"
        assert problems_of(config, default.get_config()) == []
        assert not images_stay_encoded("tfds", name, config.data.eval_resize)
        config.data.crop_padding, config.data.color_jitter = 4, 0.4
        found = "\n".join(problems_of(config, default.get_config()))
        assert ("data.crop_padding has no effect" in found) == (name == "simclr")
        assert "data.color_jitter has no effect" in found


def test_fields_of_encoded_images_have_no_effect_on_others():
    config = default.get_config()
    config.data.color_jitter, config.data.max_bad_fraction, config.data.check_decode = 0.4, 0.1, True
    config.data.exif_orientation = False
    found = "\n".join(problems_of(config, default.get_config()))
    for field in ("color_jitter", "max_bad_fraction", "check_decode", "exif_orientation"):
        assert f"data.{field} has no effect with data.source='digits'" in found


# The reference's ResNet-50 recipe: RECIPES A8.
RHO = {
    ("imagenet_lt", "ce_drw"): (0.05, 0.1, 0.5, 0.5),
    ("imagenet_lt", "ldam_drw"): (0.05, 0.1, 0.5, 0.5),
    ("inat18", "ce_drw"): (0.05, 0.1, 0.1, 0.2),
    ("inat18", "ldam_drw"): (0.05, 0.1, 0.5, 0.5),
}


@pytest.mark.parametrize(("name", "method"), RHO)
def test_recipes_are_the_references_at_every_epoch(name, method):
    module = {"imagenet_lt": imagenet_lt, "inat18": inat18}[name]
    config = module.get_config(f"{method}_sam")
    stats = ClassStats(np.array([100, 10, 5]), ("a", "b", "c"))
    found = schedules.make_schedules(config, stats, steps_per_epoch=10)
    assert found.total_steps == 900
    first = {"imagenet_lt": 0.2, "inat18": 0.1}[name]
    rho = RHO[name, method]
    for epoch in range(90):
        for step in (10 * epoch, 10 * epoch + 9):
            np.testing.assert_allclose(
                found.lr(step), first * (1 + np.cos(np.pi * epoch / 90)) / 2, rtol=2e-5, atol=1e-7
            )
            expected = rho[int(np.searchsorted([5, 60, 75], epoch, side="right"))]
            np.testing.assert_allclose(found.size(step), expected, rtol=1e-6)
            assert np.ptp(np.asarray(found.class_weights(step))) == 0 if epoch < 60 else True
    assert np.ptp(np.asarray(found.class_weights(600))) > 0
    decay = 1e-4 if (name, method) == ("inat18", "ldam_drw") else 2e-4
    assert (config.optim.weight_decay, config.optim.momentum, config.batch_size) == (decay, 0.9, 256)
    assert (config.loss.logit_scale, config.loss.effective_beta) == (30.0, 0.9999)
    assert config.ldam.max_margin == (0.3 if config.loss.name == "ldam" else 0.5)
    data = config.data
    assert (data.image_size, data.eval_resize, data.color_jitter, data.flip) == (224, 256, 0.4, True)
    assert (config.model.name, config.model.width) == ("resnet50", 1.0)
    assert config.eval.rank_bounds == {"imagenet_lt": (390, 835), "inat18": (842, 4543)}[name]
    assert module.get_config(method).optim.name == "sgd"


@pytest.mark.parametrize("module", [imagenet_lt, inat18], ids=["imagenet_lt", "inat18"])
def test_large_configs_are_sound_with_every_method(module):
    for method in recipes.METHODS:
        smoke = module.get_config(f"smoke,{method}")
        assert problems_of(smoke, default.get_config()) == [], method
        assert sources.load(smoke).stats.ratio > 50
        for source in ("image_list", "tfds"):
            config = module.get_config(method)
            config.data.source = source
            assert problems_of(config, default.get_config()) == [], method
