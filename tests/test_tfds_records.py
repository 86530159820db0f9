"""Sets of tensorflow-datasets as array_record: the images, classes and batches of the list that they were made of."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import ROOT
from jpeg_folder import BY_SIZE, COUNTS, list_config, write_folder

from saddle_jax.data import inspection, pixels, sources
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.feeds import evaluation, streaming
from saddle_jax.data.order import Order, evaluation_slots, slots_at
from saddle_jax.data.sources import to_array_record
from saddle_jax.errors import DataError


class Photos(tfds.core.GeneratorBasedBuilder):
    """A folder's lists as a set of tensorflow-datasets."""

    VERSION = tfds.core.Version("1.0.0")
    folder, lists = None, {}  # what `store` prepares

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(num_classes=len(COUNTS)),
            "file_name": tfds.features.Text(),
        }
        keys = ("image", "label")
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=keys)

    def _split_generators(self, _):
        return {split: self._generate_examples(lines) for split, lines in self.lists.items()}

    def _generate_examples(self, lines):
        for line in lines:
            path, label = line.rsplit(" ", 1)
            yield path, {"image": str(self.folder / path), "label": int(label), "file_name": path}


def store(root, folder, lists, file_format="array_record"):
    """Prepare a folder's lists as a set of tensorflow-datasets, as it is done once before training."""
    Photos.folder, Photos.lists = root, lists
    Photos(data_dir=folder, file_format=file_format).download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a folder of photographs and a folder with the same set prepared."""
    root, folder = (tmp_path_factory.mktemp(name) for name in ("photos", "tfds"))
    store(root, folder, write_folder(root))
    return root, folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def record_config(folder, **changes):
    lists = {"data__train_list": "", "data__validation_list": "", "data__test_list": ""}
    splits = {"data__validation_split": "val", "data__source": "tfds"}
    return list_config(folder, **{**lists, **splits, **changes})


def batches(part, train):
    """Return a part's images in one batch, in their order; augmented or as evaluated."""
    count = len(part.labels)
    slots = next(evaluation_slots(count, count, 1))
    if not train:
        return next(streaming.batches(part.images, part.labels, [slots], train=False))
    crop = Augmentation("random_resized_crop", part.images.shape[1:], encoded=True)
    slots = slots._replace(draws_BR=slots_at(Order(3, part.labels, count, 1, crop), 0).draws_BR)
    return next(streaming.batches(part.images, part.labels, [slots], train=True, augmented=crop))


def test_images_in_memory_are_prepared_as_for_prediction(prepared, tmp_path):
    root, folder = prepared
    in_memory = {"augmentation": "crop_flip", "eval_resize": 0, "color_jitter": 0.0, "validation_split": ""}
    changes = {f"data__{name}": value for name, value in in_memory.items()}
    with pytest.raises(DataError, match="array_record.*file_format='tfrecord'"):
        sources.load(record_config(folder, **changes))
    store(root, tmp_path, Photos.lists, "tfrecord")
    found = sources.load(record_config(tmp_path, data__test_split="val", **changes)).test
    files = sources.load(list_config(root)).validation
    read = [pixels.read(pathlib.Path(files.images.name(n)).read_bytes(), 3, (32, 32)) for n in range(len(files.labels))]
    distances = np.abs(found.images[:, None].astype(int) - np.stack(read)).mean((2, 3, 4))
    same = distances.argmin(1)
    assert sorted(same) == list(range(len(read)))
    np.testing.assert_array_equal(found.labels, files.labels[same])
    assert distances.min(1).max() < 2  # of two decoders of JPEG; stretched to a square, they differ by 8 or more


def test_records_are_the_images_and_classes_of_their_list(prepared, cache, capsys):
    root, folder = prepared
    listed = sources.load(list_config(root))
    found = sources.load(record_config(folder))
    assert found.stats.labels_C.tolist() == listed.stats.labels_C.tolist() == list(BY_SIZE)
    assert found.stats.counts_C.tolist() == listed.stats.counts_C.tolist()
    for split in ("train", "validation", "test"):
        records, files = getattr(found, split), getattr(listed, split)
        order = np.argsort(files.images.paths_N)  # records are in the order of their names
        files = sources.Images(files.images[order], files.labels[order])
        np.testing.assert_array_equal(records.labels, files.labels)
        for train in (False, True):
            a, b = batches(records, train), batches(files, train)
            assert a.images.any(axis=(1, 2, 3)).all()
            assert a.images.tobytes() == b.images.tobytes()
    assert "reading 40 records of photos/1.0.0 train for their labels" in capsys.readouterr().out
    again = sources.load(record_config(folder))  # from the cache
    assert "reading" not in capsys.readouterr().out
    assert again.content_hash == found.content_hash
    for path in cache.glob("saddle_jax/*.npz"):
        path.write_bytes(b"torn")
    assert sources.load(record_config(folder)).content_hash == found.content_hash
    inspection.require_readable(again, decode=True)
    assert "all 65 images decode" in capsys.readouterr().out


def test_parts_of_splits_and_a_fraction_for_validation(prepared):
    _, folder = prepared
    config = record_config(
        folder, data__train_split="train[:30]", data__validation_split="", data__allow_empty_classes=True
    )
    assert len(sources.load(config).train.labels) == 30
    held = record_config(folder, data__validation_split="", data__validation_fraction=0.3, data__validation_floor=5)
    splits = sources.load(held)
    assert len(splits.train.labels) + len(splits.validation.labels) == 40
    chunk = next(evaluation.plain_batches(*splits.validation, slots=evaluation_slots(4, 4, 1)))
    assert chunk.images.any(axis=(1, 2, 3)).all()
    with pytest.raises(DataError, match="found split 'tset', expected one of test, train, val"):
        sources.load(record_config(folder, data__test_split="tset"))


def test_a_bad_record_is_named(tmp_path):
    root = tmp_path / "photos"
    lists = write_folder(root)
    (root / "test/class 1/1.JPEG").write_bytes((root / "test/class 1/1.JPEG").read_bytes()[:400])
    store(root, tmp_path / "tfds", lists)
    splits = sources.load(record_config(tmp_path / "tfds"))
    with pytest.raises(DataError, match=r"photos/1.0.0 test record \d+ \(test/class 1/1.JPEG\): "):
        batches(splits.test, False)


def test_a_set_that_is_not_prepared_is_to_be_prepared_as_array_record(tmp_path):
    with pytest.raises(DataError, match=r"imagenet_lt is not prepared.*\n.*file_format='array_record'\)\.download_and"):
        sources.load(record_config(tmp_path, data__name="imagenet_lt"))


def test_tfrecord_is_refused_with_the_command_that_converts_it(tmp_path):
    root, folder = tmp_path / "photos", tmp_path / "tfds"
    store(root, folder, write_folder(root), file_format="tfrecord")
    with pytest.raises(DataError, match="is in tfrecord, which has no random access") as error:
        sources.load(record_config(folder))
    command = str(error.value).partition("Fix (once): python ")[2].split()
    subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=ROOT)
    to_array_record.convert(folder / "photos/1.0.0")  # what is finished is not done again
    splits = sources.load(record_config(folder))
    listed = sources.load(list_config(root))
    order = np.argsort(listed.test.images.paths_N)
    files = sources.Images(listed.test.images[order], listed.test.labels[order])
    assert batches(splits.test, False).images.tobytes() == batches(files, False).images.tobytes()
    with pytest.raises(DataError, match="is not a prepared set"):
        to_array_record.convert(root)
