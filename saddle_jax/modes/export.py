"""`--mode export`: write a run's network for use without saddle_jax."""

from __future__ import annotations

import pathlib

from saddle_jax.experiment.command_line import Command
from saddle_jax.host import console
from saddle_jax.inference import export
from saddle_jax.inference.classifier import Classifier


def run(command: Command) -> int:
    """Write the formats that the command names, or all that are possible, into the folder that it names.

    Raises:
      ConfigError: the workdir holds no run, the folder holds something else, or a format that was named is impossible.
      CheckpointError: the checkpoint is missing or damaged, or a file can't be written.
    """
    out = pathlib.Path(command.out or "").expanduser()
    export.require_possible(out, command.formats)
    classifier = Classifier(
        pathlib.Path(command.workdir), command.checkpoint, adjust=command.adjust, trusted=command.import_code
    )
    shape = " x ".join(map(str, classifier.image_shape))
    classes = classifier.stats.num_classes
    console.say("run", f"{command.workdir} at step {classifier.step:,}; {classes:,} classes; pixels {shape}")
    with console.doing("writing"):
        written = export.write(classifier, out, command.formats)
    for name, size in written.files.items():
        console.say("wrote", f"{name:18s} {size:>13,} bytes")
    for reason in written.left_out:
        console.say("note", f"left out {reason}")
    if written.replaced is not None:
        console.say("note", f"replaced the export of step {written.replaced:,} that was there")
    console.say("done", str(out))
    return 0
