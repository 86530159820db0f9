"""Describe a run before it starts: data, model, and plan."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from saddle_jax import __version__
from saddle_jax.data import sources
from saddle_jax.errors import ConfigError
from saddle_jax.experiment.catalogue import find, group_of, is_dotted
from saddle_jax.experiment.fields import knots
from saddle_jax.host import console, devices
from saddle_jax.models import kernels
from saddle_jax.optim.chain import fields_of, tail_C
from saddle_jax.training import seeds
from saddle_jax.training.program import Program


def describe(
    config: ConfigDict, splits: sources.Splits, program: Program, workdir: str, chosen_fields: Sequence[str] = ()
) -> None:
    """Print the program, run directory, data, model, and plan; on a terminal, as a panel.

    Args:
      chosen_fields: what `data.fit_to_images` chose, and why.
    """
    counts_C, schedules = splits.stats.counts_C, program.schedules
    held_out = 0 if splits.validation is None else len(splits.validation.labels)
    parts = devices.num_devices()
    seed = f"seed {config.seed}"
    if config.num_seeds > 1:
        at_once = seeds.seeds_at_once(config.num_seeds, config.seeds_at_once)
        seed = f"seeds {config.seed} to {seeds.seeds_of(config)[-1]}, {at_once} at once"
    profile = config.data.profile
    chosen = "" if profile == "as_is" else f" of {splits.available:,} (profile={profile}, ratio {config.data.ratio:g})"
    data = [
        f"{len(splits.train.labels):,}{chosen} training images ({held_out:,} held out), "
        f"{splits.stats.num_classes} classes of {counts_C.max():,} to {counts_C.min():,}",
        f"{len(splits.test.labels):,} test images",
        f"split {splits.split_hash}",
    ]
    drw = "" if schedules.drw_start is None else f"; DRW from step {schedules.drw_start:,}"
    params = jax.eval_shape(lambda: program.init(0)).params
    trained = f", {_size(params, program.trained(params)):,} of them trained" if program.trained else ""
    plan = [
        f"{schedules.total_steps:,} steps of {config.batch_size}, {schedules.steps_per_epoch} an epoch",
        f"method {config.method}, loss {config.loss.name}{drw}",
        _link_of(config, splits),
    ]
    console.panel(
        f"saddle_jax {__version__}",
        f"{config.name}  {seed}  {parts} x {devices.target().devices[0].device_kind}",
        [
            ("run", [workdir]),
            ("data", data),
            *(("note", [note]) for note in splits.notes),
            *(("chose", [note]) for note in chosen_fields),
            ("model", [f"{_network_of(config)}: {_size(params):,} parameters{trained}"]),
            ("plan", plan),
        ],
    )


def _size(params: Any, mask: Any = None) -> int:
    """Return how many numbers are in the parameters, or in those that a tree of bools marks."""
    marks = jax.tree.leaves(mask) if mask is not None else [True] * len(jax.tree.leaves(params))
    return sum(leaf.size for leaf, marked in zip(jax.tree.leaves(params), marks, strict=True) if marked)


def _network_of(config: ConfigDict) -> str:
    """Return the network and its settings; for a user's own network, its own fields."""
    name = config.model.name
    if is_dotted(name):
        return ", ".join([name, *(f"{field} {value}" for field, value in (config.get(group_of(name)) or {}).items())])
    by_onednn = devices.on_cpu() and kernels.uses_onednn(config.model.kernels)
    layers = ", layers by onednn" if by_onednn else ""
    return f"{name}, width {config.model.width:g}, {config.model.head} head{layers}"


def _link_of(config: ConfigDict, splits: sources.Splits) -> str:
    """Return the chosen link, its size, and its own fields as text, and the optimizer behind it if that is not SGD."""
    name, base = config.optim.name, {"sgd": "SGD", "adamw": "AdamW"}[config.optim.base]
    link, own = find("optim.name", name), fields_of(config)
    title = f"plain {base}" if name == "sgd" else name if base == "SGD" else f"{name} on {base}"
    if not own:
        return title
    fields = []
    for field in link.fields:
        if field == link.size:
            fields.append(f"{field} {', '.join(f'{value:g}' for _, value in knots(own[field]))}")
        elif field != f"{link.size}_interpolation":
            fields.append(f"{field} {own[field]}")
    if "tail_below" in own:
        tail = tail_C(splits.stats.counts_C, own.tail_below, config.eval.rank_bounds)
        fields.append(f"{tail.sum()} classes are tail")
    return f"{title} with {'; '.join(fields)}"


def require_directory(workdir: pathlib.Path) -> None:
    """Check that the path of a run is not a file."""
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"--workdir: {workdir} is a file, expected a directory. Fix: another --workdir")
