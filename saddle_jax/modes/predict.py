"""`--mode predict`: classify images with a run's network."""

from __future__ import annotations

import pathlib

from saddle_jax.errors import DataError
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import console
from saddle_jax.inference import inputs, outputs
from saddle_jax.inference.classifier import Classifier


def run(command: Command) -> int:
    """Classify the images that the command names, print a table, and write the file that it asks for.

    Raises:
      ConfigError: the workdir holds no run, or the file can't be written.
      DataError: an argument names no image, or none can be read.
    """
    out = pathlib.Path(command.out).expanduser() if command.out else None
    if out is not None:
        outputs.require_known(out)
    items = inputs.find(command.images)
    classifier = Classifier(
        pathlib.Path(command.workdir), command.checkpoint, adjust=command.adjust, trusted=command.import_code
    )
    console.say("run", f"{command.workdir} at step {classifier.step:,}; {len(items):,} images")
    with console.doing("classifying"):
        found = classifier.predict(items)
    console.table(outputs.table(found))
    for reason in outputs.unread(found):
        console.say("note", reason)
    if found.problems:
        console.say("note", f"{len(found.problems):,} of {len(items):,} images could not be read")
    if out is not None:
        outputs.write(found, out)
        console.say("done", f"{out} has the probability of every class")
    return 0 if len(found.problems) < len(items) else DataError.exit_code
