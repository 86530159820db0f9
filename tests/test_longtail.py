"""Class sizes, subsets, weights, margins: against the reference's figures, and at the edges."""

import numpy as np
import pytest
from conftest import GOLDEN, shared_file

from saddle_jax import longtail
from saddle_jax.errors import DataError
from saddle_jax.longtail import ClassStats

STORE = np.load(GOLDEN / "splits.npz")
CASES = [key.removesuffix("/indices") for key in STORE if key.endswith("/indices")]
CIFAR10 = np.array([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])


@pytest.mark.parametrize("case", CASES)
def test_subset_equals_the_reference_to_the_index(case):
    name, _, setting = case.partition("/")
    profile, factor = setting.split("_")
    labels = STORE[f"{name}/labels"]
    counts = longtail.profile_counts(profile, 1 / float(factor), np.bincount(labels))
    np.testing.assert_array_equal(counts, STORE[f"{case}/counts"])
    np.testing.assert_array_equal(longtail.choose_subset(labels, counts, 0), STORE[f"{case}/indices"])


def test_subset_of_the_official_cifar_labels():
    labels = np.load(shared_file("data/cifar_train_labels.npz"))
    for name in ("cifar10", "cifar100"):
        (key,) = [k for k in labels if name == k or k.startswith((f"{name}_", f"{name}/"))]
        store = np.load(shared_file(f"data/{name}_lt.npz"))
        counts = longtail.profile_counts("exp", 10, np.bincount(labels[key]))
        np.testing.assert_array_equal(longtail.choose_subset(labels[key], counts, 0), store["orig_index"])


@pytest.mark.parametrize(
    ("profile", "ratio", "classes", "total"),
    [("exp", 10, 10, 20431), ("exp", 20, 10, 17023), ("exp", 50, 10, 13996), ("exp", 100, 10, 12406)]
    + [("exp", 200, 10, 11203), ("exp", 10, 100, 19573), ("exp", 100, 100, 10847), ("exp", 200, 100, 9502)]
    + [("step", 100, 10, 25250), ("step", 100, 100, 25250)],
)
def test_published_sizes(profile, ratio, classes, total):
    available = np.full(classes, 50000 // classes)
    assert longtail.profile_counts(profile, ratio, available).sum() == total


def test_any_set_gets_the_profile_that_fits_it():
    counts = longtail.profile_counts("exp", 50, np.array([118, 120, 116, 121, 119, 118, 121, 117, 114, 120]))
    assert counts[0] == 118
    assert counts[-1] == 2
    np.testing.assert_array_equal(longtail.profile_counts("as_is", 1, np.array([3, 9])), [3, 9])
    np.testing.assert_array_equal(longtail.profile_counts("exp", 10, np.array([7])), [7])
    with pytest.raises(DataError, match="the class of rank 0 has 50 images.*largest_class=50"):
        longtail.profile_counts("exp", 10, np.array([50, 50]), largest_class=60)


def test_weights_and_margins_as_published():
    stats = ClassStats(CIFAR10, ())
    expected = [0.0506, 0.0769, 0.1211, 0.1950, 0.3188, 0.5246, 0.8683, 1.4426, 2.4092, 3.9927]
    np.testing.assert_allclose(stats.effective_weights_C(0.9999), expected, atol=6e-5)
    margins = [0.1581, 0.1797, 0.2042, 0.2321, 0.2638, 0.2998, 0.3407, 0.3872, 0.4405, 0.5]
    np.testing.assert_allclose(stats.ldam_margins_C(0.5), margins, atol=6e-5)
    np.testing.assert_allclose(stats.multiplicative_factors_C(0.3)[[0, -1]], [1, 3.98], atol=2e-3)


def test_an_empty_class_makes_nothing_infinite():
    stats = ClassStats(np.array([100, 0, 4, 0]), ())
    weights = stats.effective_weights_C(0.9999)
    assert weights[1] == weights[3] == 0
    assert weights.sum() == pytest.approx(4)
    for values in (stats.ldam_margins_C(0.5), stats.multiplicative_factors_C(0.3), np.log(stats.priors_C())):
        assert np.isfinite(values).all()
    assert stats.ldam_margins_C(0.5).max() == 0.5
    assert stats.sampling_C("balanced", 0.9999).tolist() == [0.5, 0, 0.5, 0]


def test_groups_by_rank_and_by_count():
    ranks = {group.name: group.classes.tolist() for group in longtail.rank_groups(10, ())}
    assert ranks == {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
    assert len(longtail.rank_groups(100, (36, 71))[2].classes) == 29
    counts = longtail.profile_counts("exp", 100, np.full(100, 500))
    assert [len(group.classes) for group in longtail.count_groups(counts)] == [35, 35, 30]
    edges = longtail.count_groups(np.array([101, 100, 20, 19]))
    assert [group.classes.tolist() for group in edges] == [[0], [1, 2], [3]]


def test_validation_split_never_takes_the_rarest():
    labels = np.repeat([0, 1, 2], [100, 24, 10])
    kept, held_out = longtail.split_validation(labels, 3, fraction=0.2, floor=20, seed=0)
    assert np.bincount(labels[held_out], minlength=3).tolist() == [20, 4, 0]
    assert sorted([*kept, *held_out]) == list(range(134))
    assert longtail.split_hash(kept, labels[kept]) != longtail.split_hash(held_out, labels[held_out])
