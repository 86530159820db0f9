"""saddle_jax from Python: train, load a run, classify, evaluate, measure curvature, and draw."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError, DataError, did_you_mean
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment import configure
from saddle_jax.experiment.command_line import Command
from saddle_jax.inference import export as export_lib
from saddle_jax.inference import inputs
from saddle_jax.inference.classifier import Classifier, Predictions
from saddle_jax.longtail import ClassStats


def train(
    config: str | ConfigDict,
    *,
    workdir: str | pathlib.Path | None = None,
    root: str | pathlib.Path | None = None,
    path: str | pathlib.Path | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Run:
    """Train a run, or continue it, and return it. Progress is printed as the command prints it.

    Args:
      config: what --config takes, such as "folder:la_sam" or a file of your own, or a complete config.
      workdir: directory of the run; by default, runs/<name of the config>.
      root: data.root, such as the folder of the classes' folders.
      path: data.path, an .npz of images.
      fields: values of any other fields by their names, such as {"data.flip": False, "batch_size": 64}.

    Raises:
      ConfigError: reports everything that is wrong with the config.
      DataError: the images can't be used.
      Preempted: it was interrupted. The same call continues it.
    """
    from saddle_jax.modes import start
    from saddle_jax.modes import train as mode

    changes = {"watchdog_secs": 0, **(fields or {})}  # a watchdog would end the whole Python process
    changes |= {"data.root": str(root)} if root is not None else {}
    changes |= {"data.path": str(path)} if path is not None else {}
    done, _, notes = configure.from_python(config, changes)
    if done.num_seeds != 1:
        raise ConfigError(
            "num_seeds: found several, expected 1. Fix: call train once for each seed, or use the command"
        )
    folder = pathlib.Path(workdir if workdir is not None else config_lib.default_workdir(done)).expanduser()
    start.run(Command("train", str(folder), done, config_named=True, notes=notes), mode.run)
    return load(folder)


def load(
    workdir: str | pathlib.Path,
    checkpoint: str | int | None = None,
    *,
    adjust: str = "none",
    import_code: bool = False,
) -> Run:
    """Return a trained run.

    Args:
      workdir: its directory.
      checkpoint: "latest", "best", or a step. By default, the best if validation images chose it, else the latest.
      adjust: adjust its classifier to rare classes: "logit:TAU" or "tau_norm:TAU", or without TAU the one that
        `--mode eval --adjust` has chosen.
      import_code: import the code outside saddle_jax that the run names.

    Raises:
      ConfigError: there is no run.
      CheckpointError: the checkpoint is missing or damaged.
    """
    which = None if checkpoint is None else str(checkpoint)
    return Run(pathlib.Path(workdir).expanduser(), which, adjust=adjust, import_code=import_code)


class Run:
    """A trained run: its network at one checkpoint, and what is known about it."""

    def __init__(self, workdir: pathlib.Path, which: str | None, *, adjust: str, import_code: bool):
        self.workdir = workdir
        self._classifier = Classifier(workdir, which, adjust=adjust, trusted=import_code)

    def __repr__(self) -> str:
        sizes_C = self._stats.counts_C
        return (
            f"<Run {self.workdir} at step {self.step:,}: {len(sizes_C)} classes of {sizes_C.max():,} to "
            f"{sizes_C.min():,} training images>"
        )

    @property
    def _stats(self) -> ClassStats:
        return self._classifier.stats

    @property
    def config(self) -> ConfigDict:
        """The config that it was trained with."""
        return self._classifier.config

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return self._classifier.step

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, from the one with the most training images to the rarest."""
        return self._stats.names

    @property
    def class_sizes(self) -> dict[str, int]:
        """Training images of each class."""
        return dict(zip(self.class_names, map(int, self._stats.counts_C), strict=True))

    @property
    def results(self) -> dict[str, Any]:
        """The test reports of the "last" and of the "best" step, as in results.json.

        Raises:
          DataError: the run has not finished.
        """
        file = self.workdir / "results.json"
        try:
            return dict(json.loads(file.read_bytes()))
        except (OSError, ValueError) as error:
            raise DataError(f"{file} can't be read ({error}). It is written when the run has finished") from error

    def predict(self, images: Any) -> Predictions:
        """Return the predictions for images, which are prepared as in evaluation.

        Args:
          images: a path (file, folder, glob, list, or .npz) or several, an array (N, H, W[, K]) or (H, W[, K]) of
            pixels, one of Pillow's images, or a list of any of these.

        Raises:
          DataError: these are no images.
        """
        return self._classifier.predict(inputs.of_python(images))

    def evaluate(self, images: Any, labels: Sequence[Any]) -> dict[str, Any]:
        """Return the report on images of your own, as `--mode eval` writes it on the test images.

        Args:
          images: as `predict` takes them; all must be readable.
          labels: a class name, or its number in the training set, for each image.

        Raises:
          DataError: an image can't be read, or a label is not a class of this run.
        """
        from saddle_jax.training import evaluate

        found = self.predict(images)
        if found.problems:
            place, reason = next(iter(found.problems.items()))
            raise DataError(f"{len(found.problems)} images can't be read, such as {found.names[place]}: {reason}")
        if len(labels) != len(found.names):
            raise DataError(f"found {len(labels)} labels for {len(found.names)} images")
        ranks_N = np.array([self._rank_of(label) for label in labels], np.int32)
        seen = evaluate.from_logits(ranks_N, found.logits_NC)
        return evaluate.full_report(seen, self._stats, self.config.eval.rank_bounds)

    def export(self, out: str | pathlib.Path, formats: Sequence[str] = ()) -> export_lib.Written:
        """Write the network for use without saddle_jax, as `--mode export` does, and return what was written.

        Args:
          out: a folder that does not exist yet, is empty, or holds an export of this run, which is replaced.
          formats: some of stablehlo, safetensors, onnx; none: all that are possible.

        Raises:
          ConfigError: the folder can't be used, or a format that was named is impossible.
        """
        folder = pathlib.Path(out).expanduser()
        export_lib.require_possible(folder, formats)
        return export_lib.write(self._classifier, folder, formats)

    def _rank_of(self, label: Any) -> int:
        if isinstance(label, str) and label in self.class_names:
            return self.class_names.index(label)
        if isinstance(label, int | np.integer) and int(label) in self._stats.labels:
            return self._stats.labels.index(int(label))
        hint = did_you_mean(str(label), self.class_names)
        raise DataError(
            f"labels: {label!r} is not a class of this run.{hint} Classes: {', '.join(self.class_names[:10])}"
        )

    def spectra(self, classes: str = "auto", **fields: Any) -> dict[str, Any]:
        """Measure the Hessian spectra of classes and return their summary, as in spectra/<step>/summary.json.

        Args:
          classes: as `spectra.classes`: names, groups such as tail, whole, auto, or each; separated by commas.
          fields: other fields of `spectra`, such as steps=40, probes=2.

        Raises:
          DataError: the images that it was trained on are not there.
        """
        from saddle_jax.modes import spectra as mode
        from saddle_jax.modes import start
        from saddle_jax.spectra import results

        config = self.config.copy_and_resolve_references()
        config.update_from_flattened_dict(
            {"spectra.classes": classes, **{f"spectra.{name}": value for name, value in fields.items()}}
        )
        start.run(Command("spectra", str(self.workdir), config, checkpoint=str(self.step)), mode.run)
        return results.read_summary(self.workdir / "spectra" / str(self.step))

    def plot(self) -> Any:
        """Return a matplotlib figure: test accuracy of every class, from the largest to the rarest."""
        from saddle_jax.report import plots

        accuracy = {"last step": [self.results["last"]["class_accuracy"]]}
        return plots.classes_figure(accuracy, self.class_names, self._stats.counts_C)
