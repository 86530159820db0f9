"""How good predictions are: figures of merit over test images, each with an interval. Does not need JAX.

Shapes: N images, C classes, K bins of confidence, R resamples. All figures are in percent, except the NLL, in nats.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from scipy.special import logsumexp

BINS = 15  # of equal width, of the confidence, which is the probability of the predicted class
RESAMPLES, LEVEL, SEED = 1000, 0.95, 0
OVERALL = ("accuracy", "balanced_accuracy", "macro_f1", "g_mean", "nll", "ece")
_SHIFTED = ("macro_f1", "ece")  # lower and higher in resamples than in the images that they are drawn from
_BLOCK = 2**22  # how many numbers of the logits are processed at once


class _Sums(NamedTuple):
    """Sums over images. Sums over resamples have a leading axis for the resamples."""

    images_C: np.ndarray  # images whose label is the class
    predicted_C: np.ndarray
    correct_C: np.ndarray
    nll: np.ndarray
    bin_correct_K: np.ndarray
    bin_confidence_K: np.ndarray


def measure(labels_N: np.ndarray, predictions_N: np.ndarray, logits_NC: np.ndarray) -> dict[str, Any]:
    """Return the figures of predictions and logits, for a report that JSON can hold.

    scores: accuracy, balanced accuracy (mean recall), macro F1, G-mean (geometric mean of the recalls), NLL, and
    expected calibration error (Guo et al., ICML 2017, eq. 3), each {value, low, high}. The means over classes cover the
    classes that have test images. classes: precision and recall of each class as lists, with None where a class is
    never predicted, or has no test image.

    The intervals of precision and recall are Jeffreys' for a proportion (Brown, Cai, and DasGupta, Statistical Science
    2001), which hold for few images, too. low and high of the other figures are the 2.5 % and 97.5 % quantiles over
    resamples (percentile bootstrap). Images are resampled within their classes, so that no resample lacks a class.
    Resamples have a lower macro F1 and a higher ECE than the images themselves. For these two, the quantiles are
    reflected at the value (basic bootstrap). The interval is then widened to hold the value.
    """
    nll_N, confidence_N = _nll_and_confidence(labels_N, logits_NC)
    bins_N = np.clip(np.ceil(confidence_N * BINS).astype(int) - 1, 0, BINS - 1)
    correct_N, num_classes = (labels_N == predictions_N).astype(float), logits_NC.shape[1]

    def sums(weights_N: np.ndarray) -> _Sums:
        right_N = weights_N * correct_N
        return _Sums(
            images_C=np.bincount(labels_N, weights_N, num_classes),
            predicted_C=np.bincount(predictions_N, weights_N, num_classes),
            correct_C=np.bincount(labels_N, right_N, num_classes),
            nll=np.dot(weights_N, nll_N),
            bin_correct_K=np.bincount(bins_N, right_N, BINS),
            bin_confidence_K=np.bincount(bins_N, weights_N * confidence_N, BINS),
        )

    seen = sums(np.ones(len(labels_N)))
    values = _figures(seen)
    drawn = map(sums, resamples(labels_N, RESAMPLES, SEED))
    reports = {}
    for name, found_R in _figures(_Sums(*map(np.stack, zip(*drawn, strict=True)))).items():
        value, (low, high) = values[name], _quantiles(found_R)
        if name in _SHIFTED:
            low, high = np.clip((min(2 * value - high, value), max(2 * value - low, value)), 0, 100)
        reports[name] = {"value": _plain(value), "low": _plain(low), "high": _plain(high)}
    return {
        "scores": {name: reports[name] for name in OVERALL},
        "classes": {
            "test_images": np.bincount(labels_N, minlength=num_classes).tolist(),
            "precision": _proportions(seen.correct_C, seen.predicted_C),
            "recall": _proportions(seen.correct_C, seen.images_C),
        },
        "intervals": {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED},
        "ece_bins": BINS,
    }


def _nll_and_confidence(labels_N: np.ndarray, logits_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return -log softmax(logits)[label] and the largest probability, of every image."""
    parts = []
    for rows in blocks(logits_NC):
        logits = logits_NC[rows].astype(float)
        total = logsumexp(logits, axis=1)
        own = np.take_along_axis(logits, labels_N[rows, None], axis=1)[:, 0]
        parts.append((total - own, np.exp(logits.max(axis=1) - total)))
    nll_N, confidence_N = map(np.concatenate, zip(*parts, strict=True))
    return nll_N, confidence_N


def blocks(logits_NC: np.ndarray) -> Iterator[slice]:
    """Yield slices of the images, small enough for temporary copies of their logits."""
    size = max(1, _BLOCK // logits_NC.shape[1])
    for start in range(0, len(logits_NC), size):
        yield slice(start, start + size)


def resamples(labels_N: np.ndarray, number: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each image occurs in each resample, which draws as many of each class with replacement."""
    generator, images = np.random.default_rng(seed), len(labels_N)
    by_class_N = np.argsort(labels_N, kind="stable")
    sizes_C = np.bincount(labels_N)
    first_N, size_N = (np.repeat(values_C, sizes_C) for values_C in (np.cumsum(sizes_C) - sizes_C, sizes_C))
    for _ in range(number):
        yield np.bincount(by_class_N[first_N + generator.integers(size_N)], minlength=images)


def _figures(sums: _Sums) -> dict[str, np.ndarray]:
    """Return the figures over all classes. Figures of resamples have a leading axis for the resamples."""
    total = sums.images_C.sum(-1)
    present = sums.images_C > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        recall_C = sums.correct_C / sums.images_C
        f1_C = 2 * sums.correct_C / (sums.images_C + sums.predicted_C)
        log_recall_C = np.log(recall_C)

    def over_classes(values_C: np.ndarray) -> np.ndarray:
        return np.sum(np.where(present, values_C, 0), -1) / present.sum(-1)

    gaps_K = np.abs(sums.bin_correct_K - sums.bin_confidence_K)
    return {
        "accuracy": 100 * sums.correct_C.sum(-1) / total,
        "balanced_accuracy": 100 * over_classes(recall_C),
        "macro_f1": 100 * over_classes(f1_C),
        "g_mean": 100 * np.exp(over_classes(log_recall_C)),
        "nll": sums.nll / total,
        "ece": 100 * gaps_K.sum(-1) / total,
    }


def _proportions(hits_C: np.ndarray, of_C: np.ndarray) -> dict[str, list[float | None]]:
    """Return each class's percentage of hits with Jeffreys' interval, whose end is 0 or 100 where the percentage is."""
    misses_C = of_C - hits_C
    with np.errstate(invalid="ignore"):
        value_C = np.where(of_C > 0, hits_C / of_C, np.nan)
    tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    low_C, high_C = (stats.beta.ppf(tail, hits_C + 0.5, misses_C + 0.5) for tail in tails)
    low_C, high_C = np.where(hits_C > 0, low_C, 0), np.where(misses_C > 0, high_C, 1)
    ends = {"value": value_C, "low": low_C, "high": high_C}
    return {name: _plain(100 * np.where(of_C > 0, end_C, np.nan)) for name, end_C in ends.items()}


def _quantiles(values_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(values_R, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return low, high


def _plain(value: np.ndarray) -> Any:
    """Return numbers for JSON, with None for NaN."""
    if np.ndim(value):
        return [_plain(one) for one in value]
    return None if np.isnan(value) else float(value)
