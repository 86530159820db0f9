"""Long-tail statistics: class sizes, subset selection, and the numbers that losses and tables derive from sizes.

Shapes: C classes, N images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from saddle_jax.errors import DataError


class ClassStats(NamedTuple):
    """Training images per class, largest class first, and what the user calls the classes.

    A class's index is its rank. An empty class has weight 0. Where a formula would become infinite, it counts as the
    rarest nonempty class.
    """

    counts_C: np.ndarray
    names: tuple[str, ...]
    labels: tuple[int, ...] = ()  # of each class in its source, from 0 or from 1; () if they are the ranks

    @property
    def num_classes(self) -> int:
        return len(self.counts_C)

    @property
    def labels_C(self) -> np.ndarray:
        """Label of each class in its source, which counts from 0 or from 1."""
        return np.array(self.labels, np.int32) if self.labels else np.arange(self.num_classes, dtype=np.int32)

    @property
    def places_C(self) -> np.ndarray:
        """Place of each class in the order of its source's labels, from 0."""
        return self.labels_C - self.labels_C.min()

    @property
    def ratio(self) -> float:
        """Size of the largest class over that of the smallest nonempty class."""
        return float(self.counts_C.max() / self.safe_counts_C.min())

    @property
    def safe_counts_C(self) -> np.ndarray:
        """The counts, with those of empty classes raised to the smallest nonzero count."""
        return np.maximum(self.counts_C, self.counts_C[self.counts_C > 0].min())

    def priors_C(self) -> np.ndarray:
        """Return each class's share of the training images. All entries are positive."""
        return self.safe_counts_C / self.counts_C.sum()

    def effective_weights_C(self, beta: float) -> np.ndarray:
        """Return effective-number class weights that sum to C (Cui et al., CVPR 2019, eq. 2)."""
        weights_C = np.where(self.counts_C > 0, (1 - beta) / (1 - np.power(beta, self.safe_counts_C)), 0.0)
        return weights_C / weights_C.sum() * self.num_classes

    def custom_weights_C(self, pairs: Sequence[tuple[str, float]]) -> np.ndarray:
        """Return the user's class weights, from (class name, weight) pairs; 1 for classes without one."""
        weights = dict(pairs)
        return np.array([weights.get(name, 1.0) for name in self.names])

    def ldam_margins_C(self, max_margin: float) -> np.ndarray:
        """Return margins ∝ n^(-1/4), with `max_margin` for the rarest class (Cao et al., NeurIPS 2019, eq. 13)."""
        margins_C = self.safe_counts_C**-0.25
        return margins_C * (max_margin / margins_C.max())

    def multiplicative_factors_C(self, gamma: float) -> np.ndarray:
        """Return Δ = (n_max / n)^gamma, by which CDT and VS divide logits (Kini et al., NeurIPS 2021)."""
        return (self.safe_counts_C.max() / self.safe_counts_C) ** gamma

    def sampling_C(self, sampling: str, beta: float) -> np.ndarray | None:
        """Return each class's share of an epoch's draws, or None if every image is drawn once.

        balanced: every nonempty class equally often. effective: in proportion to n · effective weight.
        """
        if sampling == "instance":
            return None
        share_C = (self.counts_C > 0).astype(float)
        if sampling == "effective":
            share_C = self.counts_C * self.effective_weights_C(beta)
        return share_C / share_C.sum()


RANK_GROUPS = ("head", "mid", "tail")


class Group(NamedTuple):
    """A named set of classes, such as the tail."""

    name: str
    classes: np.ndarray  # class indices; may be empty


def rank_groups(num_classes: int, bounds: tuple[int, ...]) -> tuple[Group, ...]:
    """Return the paper's head, mid, and tail: classes [0, a), [a, b), [b, C); a and b default to 30% and 70% of C."""
    first, second = bounds or (round(0.3 * num_classes), round(0.7 * num_classes))
    classes = np.arange(num_classes)
    parts = classes[:first], classes[first:second], classes[second:]
    return tuple(map(Group, RANK_GROUPS, parts))


def count_groups(counts_C: np.ndarray) -> tuple[Group, ...]:
    """Return the usual groups: many (> 100 training images), medium (20 to 100), and few (< 20)."""
    return (
        Group("many", np.flatnonzero(counts_C > 100)),
        Group("medium", np.flatnonzero((counts_C >= 20) & (counts_C <= 100))),
        Group("few", np.flatnonzero(counts_C < 20)),
    )


def by_size(counts_C: np.ndarray) -> np.ndarray:
    """Return the classes from the largest to the smallest; ties stay in their order.

    The paper's code sorts the same way, but its sort is not stable. Where classes tie, it may number them differently.
    """
    return np.argsort(-counts_C, kind="stable")


def profile_counts(profile: str, ratio: float, available_C: np.ndarray, largest_class: int = 0) -> np.ndarray:
    """Return how many images of each class to keep.

    Args:
      profile: exp keeps n_i = ⌊n_max · ratio^(-i/(C-1))⌋. step keeps n_max in the first half of the classes and ⌊n_max
        / ratio⌋ in the rest. as_is keeps all images.
      ratio: n_max / n_min.
      available_C: images available per class, in the order in which sizes are to fall. An empty class stays empty.
      largest_class: n_max. 0 means the largest value for which every class has enough images (for a balanced set, its
        class size).

    Raises:
      DataError: a class has fewer images than the profile needs.
    """
    if profile == "as_is":
        return np.array(available_C)
    num_classes = len(available_C)
    # These are exactly the reference's expressions, because rounding can change a count by one.
    smallest = 1.0 / ratio
    if profile == "exp":
        factors = [smallest ** (c / (num_classes - 1.0)) if num_classes > 1 else 1.0 for c in range(num_classes)]
    else:
        factors = [1.0 if c < num_classes // 2 else smallest for c in range(num_classes)]
    fitting = int(min(int(n) / factor for n, factor in zip(available_C, factors, strict=True) if n > 0) + 1e-9)
    counts_C = np.array([int((largest_class or fitting) * factor) for factor in factors]) * (available_C > 0)
    short = np.flatnonzero(counts_C > available_C)
    if short.size:
        c = short[0]
        raise DataError(
            f"the class of rank {c} has {available_C[c]} images, but a largest class of {largest_class} needs "
            f"{counts_C[c]} ({short.size} classes fall short). Fix: --config.data.largest_class={fitting} or less"
        )
    return counts_C


def choose_subset(labels_N: np.ndarray, counts_C: np.ndarray, seed: int) -> np.ndarray:
    """Return the positions of the images to keep, class by class: shuffle each class and take the first n.

    This matches the reference's choice exactly: NumPy's legacy generator, one stream over the classes in order.
    """
    generator = np.random.RandomState(seed)  # noqa: NPY002 (the reference's stream)
    kept = []
    for label, count in enumerate(counts_C):
        positions = np.flatnonzero(labels_N == label)
        generator.shuffle(positions)
        kept.append(positions[:count])
    return np.concatenate(kept)


def split_validation(
    labels_N: np.ndarray, num_classes: int, fraction: float, floor: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return training and validation positions. Hold out `fraction` of each class, but keep at least `floor` images."""
    generator = np.random.default_rng([seed, 1])
    held_out = []
    for label in range(num_classes):
        positions = np.flatnonzero(labels_N == label)
        count = max(0, min(round(fraction * len(positions)), len(positions) - floor))
        held_out.append(generator.permutation(positions)[:count])
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels_N)), validation), validation


def split_hash(positions_N: np.ndarray, labels_N: np.ndarray) -> str:
    """Return 16 hex digits that identify the chosen training images and their order."""
    digest = hashlib.sha256(np.ascontiguousarray(positions_N, np.int64).tobytes())
    digest.update(np.ascontiguousarray(labels_N, np.int64).tobytes())
    return digest.hexdigest()[:16]
