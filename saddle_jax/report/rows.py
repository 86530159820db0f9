"""Arrange runs into rows: group the seeds of a method, and group methods on the same images, each link next to SGD."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from saddle_jax import longtail
from saddle_jax.experiment.catalogue import ENTRIES, Link, Loss, Method, group_of, title_of
from saddle_jax.experiment.schema import fixed_fields
from saddle_jax.report.runs import Run

_SEEDS = ("seed", "data.subset_seed")
_SET = ("data.source", "data.name")
_WITH_FIELDS = (Link.choice, Loss.choice, Method.choice)  # each chosen entry may have its own group of fields
_WITH_THE_LINK = ("optim.name", "optim.batch_stats")


class Row(NamedTuple):
    """A method: all seeds of one config."""

    name: str  # such as CE + DRW + SAM; unique within a set
    config: dict[str, Any]  # without seeds and fields that have no effect
    runs: list[Run]  # finished runs, each seed once, in order
    unfinished: list[Run]
    repeated: list[Run]  # finished runs with a seed that `runs` already has

    @property
    def link(self) -> str:
        """Link that changes gradients before weight decay and momentum; "sgd" means none."""
        return self.config["optim.name"]


class ImageSet(NamedTuple):
    """Rows with comparable accuracies: the same classes and groups, and the same images for the same seeds."""

    title: str
    rows: list[Row]
    groups: dict[str, np.ndarray]  # classes of head, mid, tail, many, medium, few

    @property
    def group_sizes(self) -> dict[str, int]:
        """Number of classes in each group."""
        return {name: len(classes) for name, classes in self.groups.items()}

    @property
    def counts_C(self) -> tuple[int, ...]:
        return all_runs(self.rows[0])[0].images.counts_C

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return all_runs(self.rows[0])[0].images.names


def all_runs(row: Row) -> list[Run]:
    """Return all runs of a row, finished or not."""
    return [*row.runs, *row.unfinished, *row.repeated]


def arrange(runs: Iterable[Run]) -> tuple[list[ImageSet], list[Run]]:
    """Return the sets of comparable rows, and the runs that are too damaged to belong to one."""
    placed, lost = [], []
    for run in runs:
        (placed if run.known else lost).append(run)
    sets: list[list[Run]] = []
    for run in placed:
        home = next((members for members in sets if all(_same_images(run, other) for other in members)), None)
        if home is None:
            sets.append(home := [])
        home.append(run)
    titles = [_title(members[0]) for members in sets]
    found = []
    for title, members in zip(titles, sets, strict=True):
        content = f"; images {members[0].images.hashes[1]}" if titles.count(title) > 1 else ""
        found.append(ImageSet(f"{title}{content}", _rows(members), _groups(members[0])))
    return found, lost


def _same_images(one: Run, other: Run) -> bool:
    if _classes(one) != _classes(other):
        return False
    if one.seeds[1] == other.seeds[1]:
        return one.images.hashes == other.images.hashes
    return all(one.config.get(field) == other.config.get(field) for field in _SET)


def _classes(run: Run) -> tuple[Any, ...]:
    images = run.images
    return images.counts_C, images.names, images.test_images, tuple(map(len, _groups(run).values()))


def _groups(run: Run) -> dict[str, np.ndarray]:
    counts_C = np.array(run.images.counts_C)
    groups = longtail.rank_groups(len(counts_C), run.config["eval.rank_bounds"]) + longtail.count_groups(counts_C)
    return {group.name: group.classes for group in groups}


def _title(run: Run) -> str:
    images = run.images
    return (
        f"{data_name(run.config)}: {len(images.counts_C)} classes of {max(images.counts_C):,} to "
        f"{min(images.counts_C):,} training images, {images.test_images:,} test images"
    )


def data_name(config: Mapping[str, Any]) -> str:
    """Return what a config's images are called: the data set, else their folder, else the source."""
    return config["data.name"] or pathlib.PurePath(str(config["data.path"])).name or config["data.source"]


def _rows(runs: Sequence[Run]) -> list[Row]:
    members: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        members.setdefault(tuple(_method(run.config).items()), []).append(run)
    configs = [dict(key) for key in members]
    rows = []
    for name, config, row_runs in zip(_names(configs), configs, members.values(), strict=True):
        first: dict[Any, Run] = {}
        finished = [run for run in row_runs if run.finished]
        for run in sorted(finished, key=lambda run: run.seeds):
            first.setdefault(run.seeds, run)
        kept = list(first.values())
        repeated = [run for run in finished if not any(run is one for one in kept)]
        rows.append(Row(name, config, kept, [run for run in row_runs if not run.finished], repeated))
    return [row for family in families(rows) for row in family]


def _method(config: Mapping[str, Any]) -> dict[str, Any]:
    acting = {group_of(config[choice]) for choice in _WITH_FIELDS}
    idle = {group_of(name) for choice in _WITH_FIELDS for name in ENTRIES[choice]} - acting
    fixed = fixed_fields(config)
    return {f: value for f, value in config.items() if _tells_rows_apart(f, fixed) and _group(f) not in idle}


def _group(field: str) -> str:
    return field.partition(".")[0]


def _tells_rows_apart(field: str, fixed: set[str]) -> bool:
    """Return whether runs that differ in this field belong to different rows.

    `eval.every` counts although a run may continue with another value: the best of many epochs is better than the best
    of few.
    """
    return field == "eval.every" or (field in fixed and field not in _SEEDS)


def _names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the methods' titles, plus the fields that differ between methods of equal title."""
    names = list(map(title_of, configs))
    result = []
    for config, name in zip(configs, names, strict=True):
        alike = [other for other, other_name in zip(configs, names, strict=True) if other_name == name]
        parts = [f"{_short_field(f, config)}={shown(config[f])}" for f in differing_fields(alike) if f in config]
        result.append(", ".join([name, *parts]))
    return result


def _short_field(field: str, config: Mapping[str, Any]) -> str:
    """Return the last part of a field, such as rho for sam.rho, or all of it if several fields end in that part."""
    last = field.rpartition(".")[2]
    return field if [f.rpartition(".")[2] for f in config].count(last) > 1 else last


def differing_fields(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fields that have more than one value over the configs."""
    fields = sorted({field for config in configs for field in config})
    return [field for field in fields if len({config.get(field) for config in configs}) > 1]


def shown(value: Any) -> str:
    """Return a field's value for a table; an empty string for None."""
    if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], tuple) and value[0][:1] in ((0,), ("0%",)):
        value = value[0][-1]  # a single knot at the start is a constant
    elif isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], float):
        value = value[0]
    return "" if value is None else str(value).removesuffix(".0")


def families(rows: Sequence[Row]) -> list[list[Row]]:
    """Group the rows that differ only in the link and its fields; plain SGD comes first."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    links = {group_of(name) for name in ENTRIES[Link.choice]}
    for row in rows:
        of_link = links | {group_of(row.link)}
        key = tuple((f, v) for f, v in row.config.items() if f not in _WITH_THE_LINK and _group(f) not in of_link)
        found.setdefault(key, []).append(row)
    return [sorted(family, key=lambda row: (row.link != "sgd", row.name)) for family in found.values()]


def pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return (SGD, link) for every two rows that differ only in the link and its fields."""
    return [(first, second) for first, *others in families(rows) if first.link == "sgd" for second in others]


def same_seeds(first: Row, second: Row) -> list[tuple[Run, Run]]:
    """Return pairs of runs from two rows that have the same seeds."""
    others = {run.seeds: run for run in second.runs}
    return [(run, others[run.seeds]) for run in first.runs if run.seeds in others]
