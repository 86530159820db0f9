"""Data sets: digits, arrays, tensorflow-datasets; and one clear error for each thing that can be wrong with them."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, SHARED, shared_file
from ml_collections import ConfigDict

from configs import default
from saddle_jax.data import sources
from saddle_jax.errors import ConfigError, DataError
from saddle_jax.spectra.targets import find_targets


def load(data):
    """Load the images that config.data describes."""
    return sources.load(ConfigDict({"data": data}))


def data_config(**fields):
    data = default.get_config().data
    data.update(fields)
    return data


def also(data, **fields):
    """Return a copy of the data fields with some changed."""
    return data_config(**{**data.to_dict(), **fields})


def write_arrays(path, **changes):
    random = np.random.default_rng(0)
    arrays = {
        "train_images": random.integers(0, 256, (60, 8, 8, 3), np.uint8),
        "train_labels": np.repeat(np.arange(3), 20),
        "test_images": random.integers(0, 256, (9, 8, 8, 3), np.uint8),
        "test_labels": np.arange(9) % 3,
    }
    arrays.update(changes)
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return data_config(source="arrays", path=str(path), ratio=4.0)


def test_digits_are_long_tailed_and_the_test_set_is_balanced():
    splits = load(data_config(ratio=50.0, largest_class=114))
    assert splits.stats.counts_C.tolist()[0] == 114
    assert splits.stats.counts_C.tolist()[-1] == 2
    assert np.bincount(splits.test.labels).tolist() == [60] * 10
    assert splits.train.images.shape[1:] == (8, 8, 1)
    assert splits.train.images.max() == 255
    train = {image.tobytes() for image in splits.train.images}
    assert len([1 for image in splits.test.images if image.tobytes() in train]) == 0


def test_the_subset_seed_alone_chooses_the_images():
    a, b = (load(data_config(ratio=50.0)) for _ in range(2))
    assert a.split_hash == b.split_hash
    assert a.split_hash != load(data_config(ratio=50.0, subset_seed=1)).split_hash


def test_arrays(tmp_path):
    splits = load(write_arrays(tmp_path / "a.npz"))
    assert splits.stats.counts_C.tolist() == [20, 10, 5]
    assert splits.stats.names == ("0", "1", "2")
    gray = write_arrays(
        tmp_path / "g.npz", train_images=np.zeros((60, 8, 8), np.uint8), test_images=np.zeros((9, 8, 8), np.uint8)
    )
    assert load(gray).train.images.shape == (35, 8, 8, 1)
    named = write_arrays(tmp_path / "n.npz", class_names=np.array(["cat", "dog", "owl"]))
    assert load(named).stats.names == ("cat", "dog", "owl")
    named = write_arrays(tmp_path / "b.npz", class_names=np.char.encode(["café", "dog", "owl"], "utf-8"))
    assert load(named).stats.names == ("café", "dog", "owl")


def test_validation_images_leave_the_training_images(tmp_path):
    data = write_arrays(tmp_path / "a.npz")
    data.update({"validation_fraction": 0.3, "validation_floor": 8})
    splits = load(data)
    assert splits.stats.counts_C.tolist() == [14, 8, 5]
    assert np.bincount(splits.validation.labels, minlength=3).tolist() == [6, 2, 0]
    data.validation_floor = 50
    with pytest.raises(DataError, match="holds out no image"):
        load(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_images": None}, "lacks test_images"),
        ({"train_images": np.linspace(-2, 2, 60 * 192).reshape(60, 8, 8, 3)}, "found float64 from -2 to 2.*Fix: save"),
        ({"train_images": np.full((60, 8, 8), np.nan)}, "values that are not finite"),
        ({"train_images": np.full((60, 8, 8), 999, np.uint16)}, "found uint16 from 999 to 999"),
        ({"train_images": np.zeros((60, 8))}, r"found float64 \(60, 8\), expected uint8"),
        ({"train_labels": np.arange(59)}, "one for each of the images"),
        ({"train_labels": np.full(60, 0.5)}, "found 0.5 at position 0, expected whole numbers"),
        ({"train_labels": np.ones((60, 3))}, "one-hot rows with a single 1 each"),
        ({"train_labels": np.array(["a", "b"] * 30)}, "test_labels: found numbers, but names elsewhere"),
        (
            {"train_labels": np.array(["cat", "dog"] * 30), "test_labels": np.array(["cat", "dgo", "dog"] * 3)},
            "test_labels: 'dgo' is not in the training labels. Did you mean dog",
        ),
        ({"class_names": np.array(["a", "b", "a"])}, "class_names: found 'a' twice"),
        ({"class_names": np.array([b"caf\xe9", b"dog", b"owl"])}, r"class_names: found b'caf\\xe9', expected .* UTF-8"),
        ({"train_labels": np.array([b"caf\xe9", b"dog"] * 30)}, "train_labels: found .* Fix: decode it before"),
        ({"train_labels": np.arange(60) - 1}, "found -1 at position 0"),
        ({"train_labels": np.full(60, 3_000_000_000)}, "found 3000000000 at position 0"),
        ({"train_images": np.uint8(3)}, r"found uint8 \(\)"),
        ({"test_images": np.zeros((9, 4, 4, 3), np.uint8)}, r"train images are \(8, 8, 3\), test images \(4, 4, 3\)"),
        ({"class_names": np.array(["a"])}, "labels go up to 2, but there are 1 class_names"),
        (
            {"train_labels": np.array([{}] * 60)},
            r"can't be read as an .npz of plain arrays.*np.array\(labels, dtype=str",
        ),
        ({"test_labels": np.array([7] * 9)}, "classes end up with no training images"),
        ({"train_images": np.zeros((0, 8, 8, 3), np.uint8), "train_labels": np.zeros(0, int)}, "N > 0"),
    ],
)
def test_bad_arrays_give_one_clear_error(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        load(write_arrays(tmp_path / "a.npz", **changes))


def test_all_problems_of_an_array_file_are_told_at_once(tmp_path):
    data = write_arrays(tmp_path / "a.npz", train_labels=np.arange(3), test_images=np.zeros((9, 8, 8, 3)) - 1)
    with pytest.raises(DataError, match="2 problems") as error:
        load(data)
    assert "train_labels" in str(error.value)
    assert "test_images" in str(error.value)


NAMES = np.array(["zero", "one", "two", "three", "four"])
SIZES = (3, 30, 12, 5, 20)  # not in the order of size: that is one, four, two, three, zero


@pytest.fixture(scope="module")
def digits():
    """Return digits of five classes, in colors, as the arrays of a file."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.repeat((found.images * 255 / 16).astype(np.uint8)[..., None], 3, axis=-1)
    rows = [np.flatnonzero(found.target == label) for label in range(5)]
    test = np.concatenate([r[:4] for r in rows])
    train = np.concatenate([r[4 : 4 + n] for r, n in zip(rows, SIZES, strict=True)])
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return dict(zip(names, (images[train], found.target[train], images[test], found.target[test]), strict=True))


def changed(digits, images=lambda x: x, labels=lambda y: y, **more):
    arrays = {key: (images if key.endswith("images") else labels)(value) for key, value in digits.items()}
    return {**arrays, **more}


@pytest.mark.parametrize("profile", ["as_is", "exp"])
def test_classes_are_ranked_by_size_whatever_their_labels(tmp_path, digits, profile):
    rank = np.argsort(np.argsort(-np.array(SIZES), kind="stable"))
    order = np.argsort(rank)
    unsorted = load(also(write_arrays(tmp_path / "a.npz", **changed(digits, class_names=NAMES)), profile=profile))
    in_order = changed(digits, labels=lambda y: rank[y], class_names=NAMES[order])
    expected = load(also(write_arrays(tmp_path / "b.npz", **in_order), profile=profile))
    assert unsorted.stats.names == expected.stats.names == ("one", "four", "two", "three", "zero")
    assert unsorted.stats.labels == (1, 4, 2, 3, 0)
    assert unsorted.stats.counts_C.tolist() == expected.stats.counts_C.tolist()
    assert (np.diff(unsorted.stats.counts_C) <= 0).all()
    if profile == "as_is":
        assert unsorted.stats.counts_C.tolist() == sorted(SIZES, reverse=True)
    else:  # ratio 4 of at most 30 images
        assert unsorted.stats.counts_C.tolist() == [12, 8, 6, 4, 3]
    assert unsorted.available == sum(SIZES)
    np.testing.assert_array_equal(unsorted.test.labels, rank[digits["test_labels"]])
    digit_of = dict(zip(map(bytes, digits["train_images"]), digits["train_labels"], strict=True))
    for splits in (unsorted, expected):  # each label still belongs to its images
        found = [NAMES[digit_of[image.tobytes()]] for image in splits.train.images]
        assert found == [splits.stats.names[label] for label in splits.train.labels]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"labels": lambda y: y + 1}, "labels start at 1, so 1 to 5 are treated as the classes"),
        ({"labels": lambda y: y[:, None].astype(np.uint8)}, "one label per row"),
        ({"labels": lambda y: np.eye(5, dtype=np.float32)[y]}, "one-hot"),
        ({"labels": lambda y: y.astype(np.float64)}, "train_labels of type float64 are treated as whole numbers"),
        ({"labels": lambda y: y.astype(str)}, "the numbers that they spell"),
        ({"labels": lambda y: NAMES[y]}, ""),
        ({"labels": lambda y: np.char.encode(NAMES[y], "utf-8")}, ""),
        ({"images": lambda x: (x / 255).astype(np.float32)}, "from 0 to 1 are treated as levels"),
        ({"images": lambda x: x.astype(np.float64)}, "with whole numbers up to 255 are treated as levels"),
        ({"images": lambda x: x.astype(np.int64)}, ""),
        ({"images": lambda x: x.transpose(0, 3, 1, 2)}, "channels first: axis 1 has 3 of them"),
        ({"images": lambda x: x[..., 0]}, ""),
    ],
)
def test_other_forms_of_images_and_labels_are_taken_and_told(tmp_path, digits, change, note):
    expected = load(also(write_arrays(tmp_path / "a.npz", **digits), profile="as_is"))
    found = load(also(write_arrays(tmp_path / "b.npz", **changed(digits, **change)), profile="as_is"))
    np.testing.assert_array_equal(found.train.labels, expected.train.labels)
    np.testing.assert_array_equal(found.test.labels, expected.test.labels)
    channels = found.train.images.shape[-1]
    np.testing.assert_array_equal(found.train.images, expected.train.images[..., :channels])
    assert any(note in told for told in found.notes) if note else not found.notes
    by_name = found.stats.names != expected.stats.names
    assert not by_name or found.stats.names in (("one", "four", "two", "three", "zero"), ("2", "5", "3", "4", "1"))


def test_labels_from_1_stay_the_users_numbers(tmp_path, digits):
    from_1 = changed(digits, labels=lambda y: y + 1)
    for more in ({}, {"class_names": NAMES}):
        stats = load(also(write_arrays(tmp_path / "a.npz", **from_1, **more), profile="as_is")).stats
        assert stats.labels == (2, 5, 3, 4, 1) and stats.places_C.tolist() == [1, 4, 2, 3, 0]
        assert stats.names == (tuple(NAMES[[1, 4, 2, 3, 0]]) if more else ("2", "5", "3", "4", "1"))
        assert find_targets("5", stats, ())[0].classes.tolist() == [1]
        with pytest.raises(ConfigError, match=r"number \(1 to 5\)"):
            find_targets("0", stats, ())


def test_text_of_digits_is_a_name_if_class_names_are_digits_too(tmp_path):
    labels = np.repeat(np.arange(12), 2).astype(str)
    images = np.arange(24, dtype=np.uint8).repeat(64).reshape(24, 8, 8)  # the number of its row
    arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    splits = load(also(write_arrays(tmp_path / "a.npz", **arrays, class_names=np.unique(labels)), profile="as_is"))
    found = [splits.stats.names[label] for label in splits.train.labels]
    assert found == [labels[image[0, 0, 0]] for image in splits.train.images]


def test_a_set_without_test_images_gives_some_of_every_class(tmp_path, digits):
    only = {"test_images": None, "test_labels": None, "class_names": NAMES}
    data = also(write_arrays(tmp_path / "a.npz", **digits | only), profile="as_is")
    splits = load(data)
    assert dict(zip(splits.stats.names, np.bincount(splits.test.labels).tolist(), strict=True)) == {
        "one": 6, "four": 4, "two": 2, "three": 1, "zero": 1,
    }  # fmt: skip
    assert len(splits.train.labels) + len(splits.test.labels) == sum(SIZES)
    assert "14 of 70 images became test images, about 20% of every class" in splits.notes[0]
    assert load(data).content_hash == splits.content_hash != load(also(data, subset_seed=1)).content_hash


def test_a_files_own_validation_images_are_used(tmp_path, digits):
    own = {"val_images": digits["test_images"][:6], "val_labels": digits["test_labels"][:6]}
    splits = load(also(write_arrays(tmp_path / "a.npz", **digits | own), profile="as_is"))
    assert len(splits.validation.labels) == 6
    np.testing.assert_array_equal(splits.validation.images, splits.test.images[:6])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"no archive"])
def test_files_that_are_no_archive(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="can't be read"):
        load(data_config(source="arrays", path=str(path)))
    with pytest.raises(DataError, match="found no file"):
        load(data_config(source="arrays", path=str(tmp_path / "none.npz")))
    for odd in ("~nosuchuser/x.npz", "x" * 5000):
        with pytest.raises(DataError, match=r"can't be read|found no file"):
            load(data_config(source="arrays", path=odd))
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(DataError, match="found a single array"):
        load(data_config(source="arrays", path=str(tmp_path / "single.npy")))


def test_a_class_without_any_image_in_the_set_stays_empty(tmp_path):
    data = write_arrays(tmp_path / "a.npz", train_labels=np.repeat([1, 2, 3], 20))
    data.update({"ratio": 2.0, "allow_empty_classes": True})
    stats = load(data).stats
    assert stats.counts_C.tolist() == [20, 15, 12, 0]
    assert stats.names == ("1", "2", "3", "0")


@pytest.mark.faults("D3")
def test_an_empty_class_is_an_error_unless_allowed(tmp_path):
    data = write_arrays(tmp_path / "a.npz")
    data.ratio = 100.0
    with pytest.raises(DataError, match=r"1 of 3 classes end up with no training images: 2.*allow_empty_classes"):
        load(data)
    data.allow_empty_classes = True
    assert load(data).stats.counts_C.tolist() == [20, 2, 0]


def test_real_cifar10(tmp_path):
    store = tmp_path / "lt.npz"
    shared_file("data/cifar10_lt.npz")
    subprocess.run([sys.executable, SHARED / "data/unpack.py", "cifar10", "--ratio", "100", "--out", store], check=True)
    splits = load(data_config(source="arrays", path=str(store), profile="as_is"))
    assert splits.stats.counts_C.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert len(splits.test.labels) == 10_000
    means = splits.test.images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=0.01)


@pytest.fixture(scope="module")
def fashion_mnist(tmp_path_factory):
    """Prepare Fashion-MNIST with tensorflow-datasets from its official files, offline."""
    root = tmp_path_factory.mktemp("tfds")
    manual = root / "downloads" / "manual"
    manual.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        shutil.copy(shared_file(f"data/fashion_mnist/{name}-ubyte.gz"), manual)
    script = (
        "import sys, tensorflow_datasets as t; t.builder('fashion_mnist', data_dir=sys.argv[1]).download_and_prepare()"
    )
    subprocess.run([sys.executable, "-c", script, root], check=True, capture_output=True, cwd=ROOT)
    return root


@pytest.mark.slow
@pytest.mark.nightly
def test_tfds_prepared_from_real_files(fashion_mnist):
    data = data_config(source="tfds", name="fashion_mnist", root=str(fashion_mnist), ratio=100.0)
    splits = load(data)
    assert splits.stats.counts_C[[0, -1]].tolist() == [6000, 60]
    assert splits.stats.names[9] == "Ankle boot"
    assert splits.test.images.shape == (10_000, 28, 28, 1)
    assert load(data).split_hash == splits.split_hash
    data.image_size = 14
    assert load(data).test.images.shape == (10_000, 14, 14, 1)
    data.test_split = "tset"
    with pytest.raises(DataError, match="found split 'tset', expected one of test, train"):
        load(data)


def test_a_set_that_is_not_prepared_is_told_at_once(tmp_path):
    began = time.monotonic()
    with pytest.raises(DataError, match="cifar10 is not prepared") as error:
        load(data_config(source="tfds", name="cifar10", root=str(tmp_path)))
    assert "cifar-10-binary.tar.gz" in str(error.value)
    assert str(tmp_path / "downloads" / "manual") in str(error.value)
    with pytest.raises(DataError, match="no set 'cifar11'.*cifar10"):
        load(data_config(source="tfds", name="cifar11", root=str(tmp_path)))
    assert time.monotonic() - began < 60  # not the 205 seconds of tfds's own retries
    assert not any(tmp_path.iterdir())
