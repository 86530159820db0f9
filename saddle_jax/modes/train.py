"""`--mode train`: train a run or several seeds, or continue an interrupted run."""

from __future__ import annotations

import functools
import pathlib
import shlex
import sys

import jax
from ml_collections import ConfigDict

from saddle_jax.data import sources
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import console, lock, processes
from saddle_jax.host.signals import StopRequest
from saddle_jax.modes import plan, views
from saddle_jax.modes.observer import make_observer
from saddle_jax.training import feature_cache, loop, origin, seeds
from saddle_jax.training.feed import pipeline_of
from saddle_jax.training.program import make_program


def run(command: Command) -> int:
    """Train or continue the run in the command's workdir."""
    config, workdir, words = command.config, pathlib.Path(command.workdir), list(command.words) or sys.argv
    processes.on_first(functools.partial(_require_place_and_origin, config, workdir))
    with StopRequest() as stop:  # already here, so that a signal during loading or compilation is not lost
        with console.doing("reading the images", quiet=not processes.is_first()):
            splits = sources.load(config)
        processes.require_agreement(
            {
                "split_hash": splits.split_hash,
                "content_hash": splits.content_hash,
                "data.pipeline": pipeline_of(config, [splits]),  # each process chooses it from its own memory
                "device": jax.devices()[0].device_kind,
            }
        )
        program = make_program(config, splits)
        observer = make_observer(config, splits, program.schedules)
        if processes.is_first():
            views.draw_for_trackers(config, splits, program.views, workdir)
        if config.model.cache_views:
            splits = feature_cache.with_features(config, workdir, splits, program)
            program = make_program(config, splits)
        if processes.is_first():
            plan.describe(config, splits, program, str(workdir), command.notes)
        if config.num_seeds == 1:
            results = loop.train(config, workdir, splits, program, words, stop=stop, observer=observer)
            if processes.is_first():
                _tell_where(workdir, results["best"]["step"])
            return 0
        summary = seeds.train(config, workdir, splits, program, words, stop=stop, observer=observer)
    if processes.is_first():
        print("\nTest accuracy in percent, mean ± standard deviation over the seeds:\n")
        print(seeds.table([workdir / run for run in summary["runs"]]))
        print()
        console.panel("done", f"all seeds have finished; the summary is in {workdir / 'summary.json'}")
    return 0


def _tell_where(workdir: pathlib.Path, best_step: int) -> None:
    """Print where the run's results are, and what to do next."""
    mode, run = "saddle-jax --mode", shlex.quote(str(workdir))
    curves = [str(workdir / "metrics.jsonl")]
    if (workdir / "tensorboard").is_dir():
        curves.append(f"tensorboard --logdir {run}")
    console.panel(
        "done",
        f"this run has finished; its results are in {workdir / 'results.json'}",
        [
            ("curves", curves),
            ("images", [f"{workdir / 'eval'}/ has each test image's prediction"]),
            ("saved", [f"{workdir / 'checkpoints'}/, best at step {best_step:,}"]),
            ("next", [f"{mode} eval --workdir {run}"]),
            ("use", [f"{mode} predict --workdir {run} IMAGES"]),
        ],
    )


def _require_place_and_origin(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Check, before data is read, that the workdir is free and that every run finds its initial weights."""
    plan.require_directory(workdir)
    lock.require_free(workdir)
    for config_of_run, folder in seeds.runs_of(config, workdir):
        origin.find(config_of_run, folder)
