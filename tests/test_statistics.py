"""The statistics of the report: worked examples of textbooks and papers, and what so few runs can't say."""

import itertools

import numpy as np
import pytest
from scipy import stats

from saddle_jax.report import statistics

# Student (1908), from Cushny and Peebles: hours of sleep that two drugs added for ten patients.
SLEEP = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
# Darwin's maize, from Fisher (The Design of Experiments, 1935): cross- minus self-fertilized, in eighths of an inch.
MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])


def by_enumeration(differences):
    """Return the signed-rank test's p-value from all ways to exchange the methods of a pair."""
    changed = differences[differences != 0]
    ranks = stats.rankdata(np.abs(changed))
    sums = [np.dot(ranks, signs) for signs in itertools.product((-1, 1), repeat=len(changed))]
    return np.mean(np.abs(sums) >= abs(np.dot(ranks, np.sign(changed))) - 1e-9)


def test_intervals_of_textbooks():
    assert statistics.t_interval(SLEEP) == pytest.approx((0.70, 2.46), abs=0.005)  # R: t.test(sleep, paired = TRUE)
    assert statistics.t_interval(MAIZE) == pytest.approx((0.03, 41.84), abs=0.01)
    # By hand: 2 ± 4.3027 · 1 / √3, with the tabled quantile of t for two degrees of freedom.
    assert statistics.t_interval([1, 2, 3]) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert statistics.t_interval([1.0]) is None
    assert statistics.t_interval([0.1 + 0.2, 0.3]) is None  # no spread


def test_exact_tests_of_textbooks():
    assert statistics.sign_test(SLEEP) == pytest.approx(2 / 2**9)  # nine patients changed, all in one direction
    assert statistics.wilcoxon(SLEEP) == pytest.approx(2 / 2**9)
    assert statistics.sign_test(MAIZE) == pytest.approx(242 / 2**15)  # 2 · (1 + 15 + 105) ways for two or fewer
    assert statistics.wilcoxon(MAIZE) == pytest.approx(0.0413, abs=5e-5)  # scipy's documentation of wilcoxon
    halves = np.array([0.5, -0.5, 1.0, 1.0, 1.5, -2.0, 2.5, 0.0])  # equal sizes and a pair without a difference
    assert statistics.wilcoxon(halves) == pytest.approx(by_enumeration(halves))
    assert statistics.sign_test(np.zeros(6)) == statistics.wilcoxon(np.zeros(6)) == 1
    assert statistics.wilcoxon([0, 0, 0, 0, 0, 5.0]) == 1


@pytest.mark.parametrize("pairs", [1, 2, 3, 5, 6, 12])
def test_too_few_pairs_are_told_by_no_test(pairs):
    """However large the difference, 2 · 2^-n is the smallest p-value: 0.25 for three pairs, 0.0625 for five."""
    largest = np.arange(1.0, pairs + 1)
    assert by_enumeration(largest) == statistics.smallest_p(pairs)
    found = statistics.sign_test(largest), statistics.wilcoxon(largest)
    assert found == ((None, None) if pairs < 6 else (statistics.smallest_p(pairs),) * 2)


def test_pairs_needed_after_correction():
    assert [statistics.pairs_needed(comparisons) for comparisons in (1, 3, 10, 45)] == [6, 7, 9, 11]


def test_welch():
    first = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4]
    second = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4]
    interval, p = statistics.welch(first, second)
    assert p == pytest.approx(0.021, abs=5e-4)  # t = -2.46 with 25.0 degrees of freedom
    assert np.mean(interval) == pytest.approx(np.mean(second) - np.mean(first))
    assert interval[0] > 0
    assert statistics.welch([1, 2, 3], [7, 8, 9])[1] is None  # 2 of 20 ways to divide six runs: 0.1
    assert statistics.welch([1, 2, 3], [7, 8, 9])[0] is not None
    assert statistics.welch([1, 2, 3, 4], [7, 8, 9, 10])[1] < 0.01
    assert statistics.welch([1], [7, 8, 9]) == (None, None)


def test_mcnemar():
    def images(both, only_first, only_second, neither):
        first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
        return first, np.repeat([True, False, True, False], [both, only_first, only_second, neither])

    # A table of statsmodels' tests, 101, 121, 59, 33, with the exact p-value.
    assert statistics.mcnemar(*images(101, 121, 59, 33)) == pytest.approx(4.434e-6, rel=1e-3)
    assert statistics.mcnemar(*images(50, 1, 7, 2)) == pytest.approx(2 * (1 + 8) / 2**8)
    assert statistics.mcnemar(*images(5, 0, 0, 5)) == 1


def test_holm():
    # Wikipedia's example: 0.01, 0.04, 0.03, 0.005 of four; only the first and the last are below 5 % after it.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.04, None, 0.01]) == [pytest.approx(0.04), None, pytest.approx(0.02)]
    assert statistics.holm([0.9, 0.8]) == [1, 1]
    assert statistics.holm([]) == []


def drawn(generator, pairs, images, seed_sd, shift=0.0):
    """Return whether two methods are right on each image: images and seeds differ in difficulty, methods by shift."""
    difficulty, noise = generator.normal(0, 0.3, images), generator.normal(0, seed_sd, (2, pairs, 1))
    chance = np.clip(0.6 + difficulty + noise + np.array([0, shift])[:, None, None], 0, 1)
    return generator.random((2, pairs, images)) < chance


def test_the_bootstrap_resamples_within_classes_and_pairs_images():
    labels = np.repeat([0, 1], [30, 10])
    shares = np.stack([np.full(40, 1 / 40), np.repeat([0, 0.1], [30, 10])])  # all images; class 1
    right = np.zeros((3, 40), bool)
    right[1, :30] = True  # all of class 0: every resample of it is right
    right[2, ::2] = True
    found = statistics.resampled_images(right, labels, shares, 200)
    assert found.shape == (200, 3, 2)
    assert not found[:, 0].any()
    np.testing.assert_allclose(found[:, 1], np.broadcast_to([75, 0], (200, 2)), rtol=1e-5)
    np.testing.assert_allclose(found[:, 2].mean(0), 50, atol=3)
    binomial = 100 * np.sqrt(np.array([40, 10]) * 0.25) / [40, 10]
    np.testing.assert_allclose(found[:, 2].std(0), binomial, rtol=0.2)
    # The same images for both: two equal networks never differ.
    twice = statistics.resampled_images(right[[2, 2]], labels, shares, 50)
    assert not np.diff(twice, axis=1).any()


def test_the_bootstrap_covers_the_true_difference():
    """Of 95 % intervals over seeds × images, about 95 % or more hold the truth; over images alone, fewer do."""
    generator, labels, shares = np.random.default_rng(0), np.zeros(100, int), np.full((1, 100), 0.01)
    covered = []
    for _ in range(100):
        right = drawn(generator, 6, 100, 0.05)
        found = statistics.resampled_images(right.reshape(12, 100), labels, shares, 300)[:, :, 0]
        differences = found[:, 6:] - found[:, :6]
        low, high = statistics.bootstrap_interval(differences)
        quantiles = np.quantile(differences.mean(1), (0.025, 0.975))
        covered.append((low <= 0 <= high, quantiles[0] <= 0 <= quantiles[1]))
    both, images_alone = np.mean(covered, axis=0)
    assert both >= 0.9
    assert images_alone < both


def test_the_bootstrap_of_one_pair_and_of_too_few():
    differences = np.linspace(-1, 1, 4001)[:, None]
    assert statistics.bootstrap_interval(differences) == pytest.approx((-0.95, 0.95))
    assert statistics.bootstrap_interval(np.repeat(differences, 5, 1)) is None
    # With equal images, only seeds vary: for normal differences, close to Student's interval.
    seeds = stats.norm.ppf((np.arange(20) + 0.5) / 20)
    low, high = statistics.bootstrap_interval(np.broadcast_to(seeds, (4000, 20)))
    assert (low, high) == pytest.approx(statistics.t_interval(seeds), rel=0.1)
