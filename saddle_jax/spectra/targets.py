"""Targets of a spectrum: a class, a group of classes, or the whole training set. Does not need JAX."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from saddle_jax.errors import ConfigError, did_you_mean
from saddle_jax.longtail import ClassStats, count_groups, rank_groups

_MOST_BY_DEFAULT = 10
_WORDS = ("auto", "each", "whole")


class Target(NamedTuple):
    """A set of classes. The mean loss of their images is measured."""

    name: str  # in file names: class-7 (its number in the data set), tail, whole
    title: str  # for display: class 7 (horse)
    classes: np.ndarray


def find_targets(text: str, stats: ClassStats, rank_bounds: tuple[int, ...]) -> list[Target]:
    """Return the targets in a comma-separated list, each once.

    Args:
      text: class names, numbers that the data set gives its classes, groups, or the words auto, each, whole. A word or
        a group wins over a class of the same name, and a name over a number.
      stats: sizes and names of the classes.
      rank_bounds: the ranks at which head and mid end.

    Raises:
      ConfigError: an item names nothing, or its classes have no training images. The error lists all such items.
    """
    groups = {g.name: g.classes for g in (*rank_groups(stats.num_classes, rank_bounds), *count_groups(stats.counts_C))}
    labels = stats.labels_C.tolist()
    with_images = np.flatnonzero(stats.counts_C > 0)
    found: dict[str, Target] = {}
    problems = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part == "whole":
            targets = [Target("whole", "whole training set", with_images)]
        elif part in ("auto", "each"):
            targets = [_class(rank, stats) for rank in (with_images if part == "each" else _spread(stats))]
        elif part in groups:
            targets = [Target(part, f"{part} ({len(groups[part])} classes)", groups[part])]
        elif part in stats.names:
            targets = [_class(stats.names.index(part), stats)]
        elif part.isdecimal() and int(part) in labels:
            targets = [_class(labels.index(int(part)), stats)]
        else:
            known = [*_WORDS, *groups, *stats.names]
            hint = did_you_mean(part, known) or f" Groups: {', '.join(groups)}"
            problems.append(
                f"spectra.classes: {part!r} is neither the name of a class or a group nor a class's number "
                f"({min(labels)} to {max(labels)}).{hint}"
            )
            continue
        for target in targets:
            if stats.counts_C[target.classes].sum() == 0:
                problems.append(
                    f"spectra.classes: {target.title} has no training image, so it has no loss. Fix: leave it out"
                )
            found[target.name] = target
    if problems:
        raise ConfigError(problems)
    return list(found.values())


def _class(rank: int, stats: ClassStats) -> Target:
    label = int(stats.labels_C[rank])
    name = stats.names[rank] if stats.names else str(label)
    title = f"class {label}" if name == str(label) else f"class {label} ({name})"
    return Target(f"class-{label}", title, np.array([rank]))


def _spread(stats: ClassStats) -> list[int]:
    """Return all classes that have images, or ten of them spread from the largest to the smallest if there are more."""
    number = int(np.count_nonzero(stats.counts_C))  # empty classes rank last
    return np.unique(np.linspace(0, number - 1, min(number, _MOST_BY_DEFAULT)).round().astype(int)).tolist()
