"""Compare every pair of rows of a set of images: differences, intervals, and tests, corrected for their number."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from saddle_jax.report import predictions, rows, statistics, tables
from saddle_jax.report.rows import ImageSet, Row
from saddle_jax.report.runs import Run
from saddle_jax.report.statistics import Interval

TOO_SMALL = "n too small to say"


class Difference(NamedTuple):
    """The difference between two rows in one column, second - first, in percentage points."""

    mean: float
    up: int = 0  # pairs in which accuracy went up
    down: int = 0
    t: Interval | None = None  # Student's over pairs, or Welch's
    bootstrap: Interval | None = None  # over seeds and test images; of one pair, over test images
    tests: Mapping[str, float] = {}  # p-values: "Wilcoxon" and "sign", "Welch", or "McNemar"; the first one counts
    adjusted: float | None = None  # the first test's p-value after Holm's correction over all pairs of rows

    @property
    def p(self) -> float | None:
        return next(iter(self.tests.values()), None)

    @property
    def differs(self) -> bool:
        """Whether chance is not enough to explain the difference."""
        return self.adjusted is not None and self.adjusted <= statistics.ALPHA

    @property
    def verdict(self) -> str:
        return TOO_SMALL if self.p is None else "differs" if self.differs else "not distinguishable"


class Comparison(NamedTuple):
    """Two rows."""

    first: Row
    second: Row
    pairs: Sequence[tuple[Run, Run]]  # runs with the same seeds and images; none: the rows are compared as they are
    differences: Mapping[str, Difference]  # by column; columns without an accuracy are absent

    @property
    def n(self) -> tuple[int, int]:
        """Number of runs of each row that are compared."""
        paired = len(self.pairs)
        return (paired, paired) if paired else (len(self.first.runs), len(self.second.runs))


def compare(images: ImageSet, columns: Sequence[str], which: str) -> list[Comparison]:
    """Compare every pair of rows with finished runs; links with plain SGD come first.

    Args:
      images: the rows.
      columns: columns of the table, such as "overall" and "tail".
      which: "last" or "best" epoch.
    """
    finished = [row for row in images.rows if row.runs]
    links = {(first.name, second.name) for first, second in rows.pairs(finished)}
    both = sorted(itertools.combinations(finished, 2), key=lambda two: (two[0].name, two[1].name) not in links)
    paired = [rows.same_seeds(*two) for two in both]
    with_images = {run.folder: run for pairs in paired if _takes_images(len(pairs)) for pair in pairs for run in pair}
    known = _Predictions(images, columns, which, list(with_images.values()))
    compared = [
        Comparison(*two, pairs, _differences(*two, pairs, columns, which, known))
        for two, pairs in zip(both, paired, strict=True)
    ]
    return _corrected(compared, columns)


def leading(images: ImageSet, compared: Sequence[Comparison], column: str, which: str) -> set[str]:
    """Return the names of the rows that are not distinguishable from the one with the highest mean in a column."""
    means = {row.name: _mean(row, column, which) for row in images.rows if row.runs}
    means = {name: mean for name, mean in means.items() if not np.isnan(mean)}
    if len(means) < 2:
        return set()
    best = max(means, key=lambda name: means[name])
    told_apart = {
        name
        for one in compared
        if best in (names := {one.first.name, one.second.name}) and column in one.differences
        for name in names - {best}
        if one.differences[column].differs
    }
    return set(means) - told_apart


def _mean(row: Row, column: str, which: str) -> float:
    return float(np.mean([tables.accuracy(run.results[which], column) for run in row.runs]))


def _takes_images(pairs: int) -> bool:
    """Return whether single test images matter: for one pair, and where the bootstrap has enough pairs."""
    return pairs == 1 or statistics.smallest_p(pairs) <= statistics.ALPHA


class _Predictions:
    """What runs predict for the test images, and their accuracies on resampled test images."""

    def __init__(self, images: ImageSet, columns: Sequence[str], which: str, runs: Sequence[Run]):
        self._images = images
        self._columns = columns
        self._right: dict[object, tuple[np.ndarray, np.ndarray]] = {}  # labels, and whether the run is right
        self._resampled: dict[object, np.ndarray] = {}  # (B, K)
        for run in runs:
            found = predictions.read(run, which)
            if found is None:
                continue
            labels_N, right_N = found[0], found[0] == found[1]
            # Predictions of another evaluation of that step say nothing about the table's accuracy.
            if abs(100 * right_N.mean() - tables.accuracy(run.results[which], "overall")) < 1e-6:
                self._right[run.folder] = labels_N, right_N
        self._resample()

    def _resample(self) -> None:
        alike: dict[bytes, list[object]] = {}
        for folder, (labels_N, _) in self._right.items():
            alike.setdefault(labels_N.tobytes(), []).append(folder)
        for folders in alike.values():
            labels_N = self._right[folders[0]][0]
            right_nN = np.stack([self._right[folder][1] for folder in folders])
            shares_KN = np.stack([self._shares(labels_N, column) for column in self._columns])
            accuracies_BnK = statistics.resampled_images(right_nN, labels_N, shares_KN)
            self._resampled |= {folder: accuracies_BnK[:, n] for n, folder in enumerate(folders)}

    def _shares(self, labels_N: np.ndarray, column: str) -> np.ndarray:
        """Return each image's share in a column's accuracy."""
        if column == "overall":
            return np.full(len(labels_N), 1 / len(labels_N))
        inside_N = self._inside(labels_N, column)
        sizes_C = np.bincount(labels_N)
        classes = len(np.unique(labels_N[inside_N]))
        return inside_N / (sizes_C[labels_N] * max(1, classes))

    def _inside(self, labels_N: np.ndarray, column: str) -> np.ndarray:
        if column in ("overall", "balanced"):
            return np.ones(len(labels_N), bool)
        return np.isin(labels_N, self._images.groups[column])

    def bootstrap(self, pairs: Sequence[tuple[Run, Run]], column: str) -> Interval | None:
        if not (pairs and _takes_images(len(pairs)) and all(self._same(*pair) for pair in pairs)):
            return None
        k = self._columns.index(column)
        resampled = [self._resampled[b.folder][:, k] - self._resampled[a.folder][:, k] for a, b in pairs]
        return statistics.bootstrap_interval(np.stack(resampled, axis=1))

    def mcnemar(self, first: Run, second: Run, column: str) -> float | None:
        if not self._same(first, second):
            return None
        labels_N, right_N = self._right[first.folder]
        inside_N = self._inside(labels_N, column)
        return statistics.mcnemar(right_N[inside_N], self._right[second.folder][1][inside_N])

    def _same(self, first: Run, second: Run) -> bool:
        """Return whether the predictions of both runs are known and for the same images."""
        if first.folder not in self._right or second.folder not in self._right:
            return False
        return np.array_equal(self._right[first.folder][0], self._right[second.folder][0])


def _differences(
    first: Row, second: Row, pairs: Sequence[tuple[Run, Run]], columns: Sequence[str], which: str, known: _Predictions
) -> dict[str, Difference]:
    found = {}
    for column in columns:
        sides = list(zip(*pairs, strict=True)) if pairs else [first.runs, second.runs]
        values = [np.array([tables.accuracy(run.results[which], column) for run in side]) for side in sides]
        if np.isnan(np.concatenate(values)).any():
            continue
        mean = float(values[1].mean() - values[0].mean())
        if not pairs:
            interval, p = statistics.welch(*values)
            found[column] = Difference(mean, t=interval, tests=_known({"Welch": p}))
            continue
        each = values[1] - values[0]
        if len(pairs) == 1:
            tests = {"McNemar": known.mcnemar(*pairs[0], column)}
        else:
            tests = {"Wilcoxon": statistics.wilcoxon(each), "sign": statistics.sign_test(each)}
        found[column] = Difference(
            mean,
            up=int((each > 1e-9).sum()),
            down=int((each < -1e-9).sum()),
            t=statistics.t_interval(each),
            bootstrap=known.bootstrap(pairs, column),
            tests=_known(tests),
        )
    return found


def _known(tests: Mapping[str, float | None]) -> dict[str, float]:
    return {name: p for name, p in tests.items() if p is not None}


def _corrected(compared: Sequence[Comparison], columns: Sequence[str]) -> list[Comparison]:
    """Correct each column's p-values for the number of pairs of rows."""
    adjusted = {}
    for column in columns:
        having = [number for number, one in enumerate(compared) if column in one.differences]
        p_values = statistics.holm([compared[number].differences[column].p for number in having])
        adjusted |= {(number, column): p for number, p in zip(having, p_values, strict=True)}
    return [
        one._replace(differences={c: d._replace(adjusted=adjusted[n, c]) for c, d in one.differences.items()})
        for n, one in enumerate(compared)
    ]
