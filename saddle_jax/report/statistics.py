"""Compare two methods by the accuracies of their runs: intervals, exact tests, correction. Does not need JAX.

Differences are second - first. A p-value is two-sided, and None where so few runs can't reach 5 %, whatever they show.

Shapes: n runs or pairs of runs, N images, K columns of a table, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from saddle_jax import scores

LEVEL = 0.95
ALPHA = 0.05
RESAMPLES, SEED = 4000, 1
_ENUMERATED = 13  # up to this many pairs, all 2^n exchanges are enumerated if some differences have equal sizes
_BLOCK = 256  # resamples of the images that are processed at once

Interval = tuple[float, float]


def smallest_p(pairs: int) -> float:
    """Return the smallest two-sided p-value that a sign or signed-rank test of so many pairs can reach, 2 · 2^-n."""
    return min(1.0, 2.0 ** (1 - pairs))


def pairs_needed(comparisons: int = 1) -> int:
    """Return how many pairs let an exact test reach 5 % after Holm's correction over so many comparisons."""
    return next(pairs for pairs in range(1, 1000) if comparisons * smallest_p(pairs) <= ALPHA)


def t_interval(differences_n: Sequence[float]) -> Interval | None:
    """Return Student's 95 % interval of the mean difference (Student, The Probable Error of a Mean, 1908).

    None for a single pair, and where no pair differs from another, which leaves no spread to judge by.
    """
    if len(differences_n) < 2 or np.ptp(differences_n) < 1e-9:
        return None
    return _plain(stats.ttest_1samp(differences_n, 0.0).confidence_interval(LEVEL))


def sign_test(differences_n: Sequence[float]) -> float | None:
    """Return the p-value of the exact sign test; pairs without a difference don't count (Conover, 1999, section 3.4).

    Its null hypothesis: either method is equally likely to be the better one of a pair.
    """
    if smallest_p(len(differences_n)) > ALPHA:
        return None
    changed = _changes(differences_n)
    return float(stats.binomtest(int((changed > 0).sum()), len(changed)).pvalue) if len(changed) else 1.0


def wilcoxon(differences_n: Sequence[float]) -> float | None:
    """Return the p-value of the signed-rank test (Wilcoxon, Individual Comparisons by Ranking Methods, 1945).

    Its null hypothesis: exchanging the methods of a pair changes nothing. Pairs without a difference don't count. The
    p-value is exact for up to 50 different sizes of differences, and for up to 13 pairs if some sizes are equal;
    otherwise it is the normal approximation.
    """
    if smallest_p(len(differences_n)) > ALPHA:
        return None
    changed = _changes(differences_n)
    if len(changed) < 2:
        return 1.0
    equal_sizes = len(np.unique(np.abs(changed))) < len(changed)
    enumerate_all = equal_sizes and len(changed) <= _ENUMERATED
    method = stats.PermutationMethod(n_resamples=2 ** len(changed)) if enumerate_all else "auto"
    return float(stats.wilcoxon(changed, method=method).pvalue)


def _changes(differences_n: Sequence[float]) -> np.ndarray:
    rounded_n = np.round(differences_n, 9)  # equal differences of percentages must be equal numbers
    return rounded_n[rounded_n != 0]


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[Interval | None, float | None]:
    """Return Welch's 95 % interval of the difference of means, and its p-value, of runs without pairs.

    From Welch, The Generalization of Student's Problem when Several Different Population Variances are Involved, 1947.
    The p-value is None if a permutation test of that many runs can't reach 5 %, since then the test rests on normality.
    """
    if min(len(first), len(second)) < 2 or max(np.ptp(first), np.ptp(second)) < 1e-9:
        return None, None
    result = stats.ttest_ind(second, first, equal_var=False)
    possible = 2 / math.comb(len(first) + len(second), len(first)) <= ALPHA
    return _plain(result.confidence_interval(LEVEL)), float(result.pvalue) if possible else None


def mcnemar(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """Return the p-value of McNemar's exact test of two networks on the same images.

    Among the images that exactly one network gets right, either is equally likely to be it (McNemar, 1947). The result
    is about these two networks, not about other seeds (Dietterich, Approximate Statistical Tests for Comparing
    Supervised Classification Learning Algorithms, 1998).

    Args:
      first_N: whether the first network is right.
      second_N: whether the second is.
    """
    only_second, only_first = int((second_N & ~first_N).sum()), int((first_N & ~second_N).sum())
    return float(stats.binomtest(only_second, only_second + only_first).pvalue) if only_second + only_first else 1.0


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for their number (Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979).

    A comparison without a p-value stays without one and does not count, since its test could not have found anything.
    """
    known = sorted((p, number) for number, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, number) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[number] = largest
    return adjusted


def resampled_images(
    correct_nN: np.ndarray, labels_N: np.ndarray, shares_KN: np.ndarray, resamples: int = RESAMPLES
) -> np.ndarray:
    """Return the accuracies of all runs in percent on resampled test images, (B, n, K).

    A resample draws each class's number of images with replacement, and all runs see the same ones.

    Args:
      correct_nN: whether each run classifies each image correctly.
      labels_N: the images' classes.
      shares_KN: share of each image in a column's accuracy; each row sums to 1.
      resamples: B.
    """
    weights = scores.resamples(labels_N, resamples, SEED)
    shares_KN = shares_KN.astype(np.float32)
    accuracies_BnK = np.empty((resamples, len(correct_nN), len(shares_KN)))
    for start in range(0, resamples, _BLOCK):
        block_BN = np.stack([next(weights) for _ in range(min(_BLOCK, resamples - start))]).astype(np.float32)
        for run, correct_N in enumerate(correct_nN):
            accuracies_BnK[start : start + _BLOCK, run] = 100 * (block_BN @ (shares_KN * correct_N).T)
    return accuracies_BnK


def bootstrap_interval(differences_Bn: np.ndarray) -> Interval | None:
    """Return the 95 % bootstrap interval of the mean difference over seeds × test images.

    Seeds are resampled independently of images (Owen, The Pigeonhole Bootstrap, 2007), which is slightly conservative.
    Quantiles of so few seeds would be too narrow. They are moved outward to where Student's t would have them: that is
    the expanded percentile interval (Hesterberg, What Teachers Should Know About the Bootstrap, 2015). A single pair
    has an interval over images alone. None for so few pairs that the widest possible interval has less than 95 %.

    Args:
      differences_Bn: each pair's difference on each resample of the images (`resampled_images`).
    """
    resamples, pairs = differences_Bn.shape
    tail = (1 - LEVEL) / 2
    if pairs == 1:
        return _plain(np.quantile(differences_Bn[:, 0], (tail, 1 - tail)))
    if smallest_p(pairs) > ALPHA:
        return None
    counts_Bn = np.random.default_rng(SEED).multinomial(pairs, np.full(pairs, 1 / pairs), resamples)
    means_B = (counts_Bn * differences_Bn).sum(1) / pairs
    tail = stats.norm.cdf(math.sqrt(pairs / (pairs - 1)) * stats.t.ppf(tail, pairs - 1))
    return _plain(np.quantile(means_B, (tail, 1 - tail)))


def _plain(interval: Sequence[float]) -> Interval:
    return float(interval[0]), float(interval[1])
