"""Several seeds of one experiment: a complete run directory seed-<n>/ for each, and their mean ± sd in summary.json."""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.sources import Splits
from saddle_jax.errors import ConfigError, NonFiniteError
from saddle_jax.host import console, devices, processes
from saddle_jax.host.files import write_atomically
from saddle_jax.host.lock import exclusive
from saddle_jax.host.signals import StopRequest
from saddle_jax.report import tables
from saddle_jax.training import loop
from saddle_jax.training.cohort import Cohort
from saddle_jax.training.directory import require_same_run
from saddle_jax.training.program import Program
from saddle_jax.training.run import Member, open_runs
from saddle_jax.training.state import Observer

T = TypeVar("T")


def train(
    config: ConfigDict,
    workdir: pathlib.Path,
    splits: Splits,
    program: Program,
    command: list[str],
    *,
    quiet: bool = False,
    stop: StopRequest | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Train `config.num_seeds` runs (two or more) from `config.seed` on; write and return the summary over them.

    Raises:
      ConfigError: the directory holds a run of one seed, or a seed's directory holds another config's run.
      NonFiniteError: some seeds ended early. All others have finished, and the summary is over those.
      Any error of `loop.train`.
    """
    processes.on_first(functools.partial(_require_several, workdir, config.num_seeds))
    members = [
        Member(config_of_seed, folder, splits, observer, folder.name)
        for config_of_seed, folder in runs_of(config, workdir)
    ]
    for member in members:  # check all of them before the first one trains
        processes.on_first(functools.partial(require_same_run, member.workdir, member.config, splits))
    errors: list[str] = []
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(StopRequest())
        processes.on_first(functools.partial(stack.enter_context, exclusive(workdir)))
        for group in groups(members, seeds_at_once(config.num_seeds, config.seeds_at_once)):
            try:
                train_at_once(group, program, command, quiet=quiet, stop=stop)
            except NonFiniteError as error:
                errors.append(str(error))
        summary = processes.on_first(functools.partial(_write_summary, workdir, members))
    if errors:
        raise NonFiniteError("\n".join(errors))
    return summary


def train_at_once(
    members: Sequence[Member],
    program: Program,
    command: list[str],
    *,
    quiet: bool = False,
    stop: StopRequest | None = None,
) -> list[dict[str, Any]]:
    """Train runs in the same steps, each as it would train alone; return their reports.

    Raises:
      NonFiniteError: some runs stopped being finite. All others have finished.
      Any error of `loop.train`.
    """
    with (
        contextlib.nullcontext(stop) if stop else StopRequest() as stop,
        open_runs(members, program, command, quiet=quiet) as runs,
    ):
        # After an interruption between two saves, runs may be at different steps. Those at one step go together.
        for start in sorted({run.start for run in runs}):
            group = [run for run in runs if run.start == start]
            with contextlib.suppress(NonFiniteError):  # every run keeps its own error
                loop.take_steps(Cohort(group) if len(group) > 1 else group[0], program, stop)
        reports = [run.finish() for run in runs if run.error is None]
        errors = [str(run.error) for run in runs if run.error]
        if errors:
            raise NonFiniteError("\n".join(errors))
        return reports


def _require_several(workdir: pathlib.Path, num_seeds: int) -> None:
    if (workdir / "config.json").is_file():
        raise ConfigError(
            f"--workdir: {workdir} holds a run of one seed, but num_seeds is {num_seeds}. Fix: another --workdir"
        )


def _write_summary(workdir: pathlib.Path, members: Sequence[Member]) -> dict[str, Any]:
    summary = summarize([member.workdir for member in members])
    write_atomically(workdir / "summary.json", json.dumps(summary, indent=1))
    return summary


def seeds_of(config: ConfigDict) -> range:
    """Return the seeds of an experiment."""
    return range(config.seed, config.seed + config.num_seeds)


def member_config(config: ConfigDict, seed: int) -> ConfigDict:
    """Return the config of one seed's run, the same as if it were trained alone."""
    member = config.copy_and_resolve_references()
    member.update(seed=seed, num_seeds=1, seeds_at_once=0)
    return member


def runs_of(config: ConfigDict, workdir: pathlib.Path) -> list[tuple[ConfigDict, pathlib.Path]]:
    """Return the config and the directory of every run of an experiment: one, or one for each of several seeds."""
    if config.num_seeds == 1:
        return [(config, workdir)]
    return [(member_config(config, seed), workdir / f"seed-{seed}") for seed in seeds_of(config)]


def first_runs(config: ConfigDict, workdir: pathlib.Path) -> list[tuple[ConfigDict, pathlib.Path]]:
    """Return the config and the directory of the runs that share the first steps of an experiment."""
    return runs_of(config, workdir)[: seeds_at_once(config.num_seeds, config.seeds_at_once)]


def seeds_at_once(num_seeds: int, asked: int = 0) -> int:
    """Return how many runs share a step: as many as asked, else all, but one on CPUs, where sharing takes longer."""
    return min(asked or (1 if devices.on_cpu() else num_seeds), num_seeds)


def groups(members: Sequence[T], size: int) -> list[Sequence[T]]:
    """Return the members in groups of `size`; the last group may be smaller."""
    return [members[start : start + size] for start in range(0, len(members), size)]


def summarize(workdirs: Sequence[pathlib.Path]) -> dict[str, Any]:
    """Return the mean, standard deviation, and values of every accuracy, in percent, at the last and at the best step.

    They cover the runs that have finished; the others are named.
    """
    finished = [workdir for workdir in workdirs if (workdir / "results.json").is_file()]

    def spread(values: Sequence[float]) -> dict[str, Any]:
        if np.isnan(values).any():  # a group without a test image
            return {"mean": None, "sd": None, "n": 0, "values": [None] * len(values)}
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return {"mean": float(np.mean(values)), "sd": deviation, "n": len(values), "values": list(values)}

    def columns(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if not reports:
            return {}
        names = ["overall"] + [name for name, group in reports[0]["groups"].items() if group["classes"]]
        return {name: spread([tables.accuracy(report, name) for report in reports]) for name in names}

    return {
        "runs": [workdir.name for workdir in finished],
        "not_finished": [workdir.name for workdir in workdirs if workdir not in finished],
        **{which: columns([tables.read_results(run, which) for run in finished]) for which in ("last", "best")},
    }


def table(workdirs: Sequence[pathlib.Path]) -> str:
    """Return mean ± sd over the seeds as text, for the last and for the best step."""
    rows = {which: [tables.read_results(workdir, which) for workdir in workdirs] for which in ("last", "best")}
    return tables.comparison(rows, width=console.columns())
