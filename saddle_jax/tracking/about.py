"""What a tracker shows of a run besides its figures: names, hyperparameters, and classes. Does not need JAX."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from saddle_jax.experiment.catalogue import ENTRIES, other_groups, title_of
from saddle_jax.experiment.schema import fixed_fields
from saddle_jax.report import rows, runs

Value = bool | int | float | str


class About(NamedTuple):
    """A run, for people who look at many of them."""

    folder: pathlib.Path
    name: str  # such as "CE + DRW + SAM, digits, seed 0"
    project: str  # what the run is filed under: the config's name
    group: str  # what the seeds of an experiment have in common; "" for a run alone
    hyperparameters: dict[str, Value]  # the fields that decide what is learned
    counts_C: tuple[int, ...]  # training images per class
    names: tuple[str, ...]  # of the classes


def read(folder: pathlib.Path) -> About:
    """Read what a tracker shows of the run in a directory.

    Raises:
      ValueError: config.json or class_stats.json is missing or can't be read.
    """
    run = runs.read(folder)
    if not run.known:
        raise ValueError(f"{folder}: {'; '.join(run.problems)}")
    config = run.config
    name = f"{title_of(config)}, {rows.data_name(config)}, seed {config['seed']}"
    return About(
        folder,
        re.sub(r"[^\w .,+()-]", "_", name),  # also names a folder
        re.sub(r"[/\\#?%:]", "_", config["name"]) or "saddle_jax",  # W&B allows none of these
        folder.parent.name if re.fullmatch(r"seed-\d+", folder.name) else "",
        _hyperparameters(config),
        run.images.counts_C,
        run.images.names,
    )


def _hyperparameters(config: Mapping[str, Any]) -> dict[str, Value]:
    """Return the chosen entries' fields that a resumed run may not change. Values other than numbers become text."""
    fixed = fixed_fields(config)
    idle = {group for choice in ENTRIES for group in other_groups(choice, config[choice])}
    values = {name: value for name, value in config.items() if name in fixed and name.partition(".")[0] not in idle}
    return {
        name: value if isinstance(value, (bool, int, float)) else rows.shown(value) for name, value in values.items()
    }
