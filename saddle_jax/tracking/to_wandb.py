"""Send a run to Weights & Biases. The settings of its environment variables, such as WANDB_MODE, apply."""

from __future__ import annotations

import os
import pathlib
import shlex
import subprocess
import sys
import uuid
from collections.abc import Sequence

import wandb  # pyright: ignore[reportMissingImports]

from saddle_jax.tracking.about import About
from saddle_jax.tracking.follow import Classes, Record, State


class WeightsAndBiases:
    """A run of Weights & Biases. Its horizontal axis is our step: W&B's own may not go back, and counts uploads."""

    def __init__(self, about: About, state: State):
        self._state = state
        if not state.own:
            state.own["id"] = uuid.uuid4().hex[:8]
            state.save()
        elif "open" in state.own and wandb.setup().settings.mode in (None, "online"):
            # The last process was killed. Send what W&B had not sent before anything new.
            subprocess.run([sys.executable, "-m", "wandb", "sync", "--include-online", state.own["open"]], check=True)
        given = {
            "project": ("WANDB_PROJECT", about.project),
            "name": ("WANDB_NAME", about.name),
            "group": ("WANDB_RUN_GROUP", about.group or None),
            "dir": ("WANDB_DIR", str(state.folder)),
        }
        self._run = wandb.init(
            id=state.own["id"],
            resume="allow",
            config=about.hyperparameters,
            settings=wandb.Settings(console="off"),
            **{name: value for name, (variable, value) in given.items() if variable not in os.environ},
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        state.own["open"] = str(pathlib.Path(self._run.dir).parent)
        state.own["where"] = self._run.url or f"offline; to send it: wandb sync {shlex.quote(state.own['open'])}"

    def scalars(self, records: Sequence[Record]) -> None:
        for record in records:
            self._run.log({"step": record.step, **record.values})

    def classes(self, step: int, classes: Classes) -> None:
        split = classes.split
        table = wandb.Table(["class", "training images", "accuracy"], [list(row) for row in classes.rows()])
        histogram = wandb.Histogram(classes.known())
        self._run.log({"step": step, f"classes/{split}": table, f"class_accuracy/{split}": histogram})

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        self._run.log({"step": step, name: wandb.Image(str(path))})

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
        del self._state.own["open"]
