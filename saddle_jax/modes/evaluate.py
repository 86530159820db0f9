"""`--mode eval`: evaluate a run's checkpoints on the test set."""

from __future__ import annotations

import pathlib

from saddle_jax.data import sources
from saddle_jax.errors import ConfigError
from saddle_jax.experiment.command_line import Command
from saddle_jax.modes import stored_run
from saddle_jax.train import evaluate
from saddle_jax.train.directory import different_config, differing_images
from saddle_jax.train.feed import pipeline_of
from saddle_jax.train.program import make_program


def run(command: Command) -> int:
    """Evaluate the command's checkpoint, or the latest and the best, and print accuracies overall and per class.

    Raises:
      ConfigError: --config names a config that differs from the run's.
    """
    config, workdir = command.config, pathlib.Path(command.workdir)
    differing = stored_run.differences(command)
    if differing and command.config_named:
        raise ConfigError(different_config(workdir, differing, "leave out --config, or pass the run's own"))
    splits = sources.load(config)
    program = make_program(config, splits)
    # With other images or groups than the run's own, the result is printed but not saved in the run's directory.
    folder = None if differing or differing_images(workdir, splits) else workdir
    checkpoints, like = workdir / "checkpoints", program.init(config.seed)
    which = command.checkpoint or "latest"
    found, state = stored_run.restore_from_a_running_run(checkpoints, which, like)
    states = {which: state}
    if command.checkpoint is None and (best := found.best):
        is_latest = best.step == found.step
        states[f"best on {best.split}"] = (
            state if is_latest else stored_run.restore_from_a_running_run(checkpoints, "best", like)[1]
        )
    evaluator = evaluate.Evaluator(config, program, splits.test, splits.stats, pipeline_of(config, [splits]))
    for name, state in states.items():
        report = evaluator.report(state, folder, "test")
        print(f"{name} (step {int(state.step):,}): {evaluate.one_line(report)}")
        for label, (count, accuracy) in enumerate(zip(splits.stats.counts_C, report["class_accuracy"], strict=True)):
            shown = "n/a" if accuracy is None else f"{accuracy:6.2f}"
            print(f"  class {label:4d}  {splits.stats.names[label]:20.20s} {count:6,d} training images  {shown}")
    return 0
