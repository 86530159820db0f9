"""`--mode train`: train a run, or several seeds, or continue what was interrupted."""

from __future__ import annotations

import pathlib
import sys

import jax

from saddle_jax.data import sources
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import lock, processes
from saddle_jax.host.signals import StopRequest
from saddle_jax.modes import plan
from saddle_jax.modes.observer import make_observer
from saddle_jax.train import loop, origin, seeds
from saddle_jax.train.feed import pipeline_of
from saddle_jax.train.program import make_program


def run(command: Command) -> int:
    """Train, or continue, the run in the command's workdir."""
    config, workdir = command.config, pathlib.Path(command.workdir)
    processes.on_first(lambda: _require_free(workdir))
    processes.on_first(lambda: [None for member in plan.members_of(config, workdir) if origin.find(*member)])
    with StopRequest() as stop:  # a signal while data are read or code is compiled is answered before the first step
        splits = sources.load(config.data)
        images = {"split_hash": splits.split_hash, "content_hash": splits.content_hash}
        pipeline = {"data.pipeline": pipeline_of(config, [splits]), "device": jax.devices()[0].device_kind}
        processes.require_agreement({**images, **pipeline})  # what each one chooses by its memory, too
        program = make_program(config, splits)
        observer = make_observer(config, splits, program.schedules)
        if processes.is_first():
            plan.describe(config, splits, program, str(workdir))
        if config.num_seeds == 1:
            loop.train(config, workdir, splits, program, sys.argv, stop=stop, observer=observer)
            return 0
        summary = seeds.train(config, workdir, splits, program, sys.argv, stop=stop, observer=observer)
    if not processes.is_first():
        return 0
    print("\nTest accuracy in percent, mean ± sd over the seeds:\n")
    print(seeds.table([workdir / run for run in summary["runs"]]))
    print(f"\ndone   all seeds have finished; their summary is {workdir / 'summary.json'}")
    return 0


def _require_free(workdir: pathlib.Path) -> None:
    plan.require_directory(workdir)
    lock.require_free(workdir)
