"""`--mode eval`: evaluate a run's checkpoints on the test set, as they are or with an adjusted classifier."""

from __future__ import annotations

import json
import pathlib

from ml_collections import ConfigDict

from saddle_jax import posthoc
from saddle_jax.data import sources
from saddle_jax.errors import ConfigError
from saddle_jax.experiment import adjustment
from saddle_jax.experiment.catalogue import find
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import console
from saddle_jax.host.files import write_atomically
from saddle_jax.modes import adjust, stored_run
from saddle_jax.report import score_tables
from saddle_jax.training import evaluate
from saddle_jax.training.directory import different_config, differing_images
from saddle_jax.training.feed import pipeline_of
from saddle_jax.training.program import make_program


def run(command: Command) -> int:
    """Evaluate the command's checkpoint, or the latest and the best; print the scores, and every class.

    Raises:
      ConfigError: --config names a config that differs from the run's, or the classifier can't be adjusted as asked.
    """
    config, workdir = command.config, pathlib.Path(command.workdir)
    asked = adjustment.parse(command.adjust)
    differing = stored_run.differences(command)
    if differing and command.config_named:
        raise ConfigError(different_config(workdir, differing, "leave out --config, or pass the run's own"))
    with console.doing("reading the images"):
        splits = sources.load(config)
    program = make_program(config, splits, to_train=False)
    posthoc.require_possible(asked, program.linear)
    # With other images or groups than the run's own, the result is printed but not saved in the run's directory.
    folder = None if differing or differing_images(workdir, splits) else workdir
    checkpoints, like = workdir / "checkpoints", program.init(config.seed)
    which = command.checkpoint or "latest"
    found, state = stored_run.restore_from_a_running_run(checkpoints, which, like)
    states = {which: state}
    if command.checkpoint is None and (best := found.best):
        if best.step == found.step:
            states = {f"latest and best on {best.split}": state}
        else:
            states[f"best on {best.split}"] = stored_run.restore_from_a_running_run(checkpoints, "best", like)[1]
    pipeline, stats, bounds = pipeline_of(config, [splits]), splits.stats, config.eval.rank_bounds
    evaluator = evaluate.Evaluator(config, program, splits.test, stats, pipeline)
    validation = None
    if asked.kind != "none" and asked.tau is None and splits.validation is not None:
        validation = evaluate.Evaluator(config, program, splits.validation, stats, pipeline)
    if asked.kind == "logit":
        for name in _adjusting(config):
            console.say("note", f"trained with {name}, which adjusts logits: adjusting again may overshoot")
    for name, state in states.items():
        step = int(state.step)
        with console.doing("evaluating the test images"):
            seen = evaluator.evaluate(state.params, state.model_state, with_logits=True)
        report = evaluate.full_report(seen, stats, bounds)
        if folder is not None:
            evaluate.write(folder / "eval", step, "test", report, seen)
        shown = {name: {"step": step, **report}}
        if asked.kind != "none":
            classifier = adjust.Classifier(state.params, stats, bounds, program.linear)
            held_out = None
            if validation is not None:
                held_out = validation.evaluate(state.params, state.model_state, with_logits=True)
            chosen = adjust.choose(asked, classifier, step, held_out, seen, folder)
            if chosen is not None:
                report = evaluate.full_report(classifier.adjusted(chosen, seen), stats, bounds)
                if folder is not None:
                    named = {"step": step, "split": "test", "adjustment": chosen._asdict(), **report}
                    write_atomically(folder / "eval" / f"{step}-test-{chosen.kind}.json", json.dumps(named, indent=1))
                shown[f"with {chosen}"] = {"step": step, **report}
        console.table(evaluate.table(shown, stats, bounds))
        console.table(score_tables.scores(report))
        for note in score_tables.notes(report, stats.names):
            console.say("note", note)
        console.table(score_tables.classes(report, stats.names, stats.counts_C))
    if folder is not None:
        console.say("done", f"{folder / 'eval'} has every figure, and each image's label, prediction, and logits")
    return 0


def _adjusting(config: ConfigDict) -> list[str]:
    """Return what of the training has adjusted the logits to the class sizes: its loss or its method."""
    chosen = ("loss.name", str(config.loss.name)), ("method", str(config.method))
    return [name for choice, name in chosen if find(choice, name).adjusts_logits]
