"""Write a run for TensorBoard, into the folder tensorboard/<name of the run> of its directory."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from clu import metric_writers

from saddle_jax.tracking.about import About
from saddle_jax.tracking.follow import Classes, Record, State


class TensorBoard:
    """Events of TensorBoard. A resumed run writes another file of events beside the first."""

    def __init__(self, about: About, state: State):
        tf.config.set_visible_devices([], "GPU")  # training has the accelerator's memory
        folder = about.folder / "tensorboard" / about.name  # TensorBoard shows folders as the names of runs
        self._writer = metric_writers.SummaryWriter(str(folder))
        if not state.sent:
            self._writer.write_hparams(about.hyperparameters)

    def scalars(self, records: Sequence[Record]) -> None:
        for record in records:
            self._writer.write_scalars(record.step, record.values)
        self._writer.flush()

    def classes(self, step: int, classes: Classes) -> None:
        lines = ["| class | training images | accuracy |", "|:--|--:|--:|"]
        for name, count, accuracy in classes.rows():
            cells = (name.replace("|", r"\|"), f"{count:,}", "n/a" if accuracy is None else f"{accuracy:.1f} %")
            lines.append(f"| {' | '.join(cells)} |")
        self._writer.write_texts(step, {f"classes/{classes.split}": "\n".join(lines)})
        self._writer.write_histograms(step, {f"class_accuracy/{classes.split}": np.array(classes.known())})
        self._writer.flush()

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        self._writer.write_images(step, {name: tf.io.decode_png(path.read_bytes(), channels=3).numpy()})
        self._writer.flush()

    def close(self, finished: bool) -> None:
        del finished  # the run's folder shows it
        self._writer.close()
