"""saddle_jax from Python: train, load a run, classify, evaluate, measure curvature, and plot."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from saddle_jax import longtail
from saddle_jax.errors import ConfigError, DataError, did_you_mean
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment import configure
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import console
from saddle_jax.inference import export as export_lib
from saddle_jax.inference import inputs
from saddle_jax.inference.classifier import Classifier
from saddle_jax.inference.outputs import Predictions
from saddle_jax.longtail import ClassStats
from saddle_jax.report import score_tables

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow only feeds images here; its start-up notes are noise

_NO_WATCHDOG = {"watchdog_secs": 0}  # a watchdog would end the whole Python process


def train(
    config: str | ConfigDict,
    *,
    workdir: str | pathlib.Path | None = None,
    root: str | pathlib.Path | None = None,
    path: str | pathlib.Path | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Run:
    """Train a run, or continue it, and return it. It prints the same progress as the command.

    Args:
      config: what `--config` takes, such as "folder:la_sam" or a file of your own, or a complete config.
      workdir: directory of the run; by default, runs/<name of the config>.
      root: data.root, such as a folder with one folder per class.
      path: data.path, an .npz of images.
      fields: values of any other fields by their names, such as {"data.flip": False, "batch_size": 64}.

    Raises:
      ConfigError: reports everything that is wrong with the config.
      DataError: the images can't be used.
      Preempted: training was interrupted. The same call continues it.
    """
    from saddle_jax.modes import start
    from saddle_jax.modes import train as mode

    changes = dict(fields or {})
    changes |= {"data.root": str(root)} if root is not None else {}
    changes |= {"data.path": str(path)} if path is not None else {}
    done, _, notes = configure.from_python(
        config, _NO_WATCHDOG | changes, lambda config: not config_lib.has_saved(config, workdir)
    )
    if done.num_seeds != 1:
        raise ConfigError(
            "num_seeds: found several, expected 1. Fix: call train once for each seed, or use the command"
        )
    folder = pathlib.Path(workdir if workdir is not None else config_lib.default_workdir(done)).expanduser()
    words = ["saddle-jax", *([f"--config={config}"] if isinstance(config, str) else []), f"--workdir={folder}"]
    words += [f"--config.{name}={value}" for name, value in changes.items()]
    start.run(Command("train", str(folder), done, config_named=True, notes=notes, words=words), mode.run)
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
      adjust: shift its classifier toward rare classes: "logit:TAU" or "tau_norm:TAU"; without TAU, the value that
        `--mode eval --adjust` has chosen.
      import_code: import the code outside saddle_jax that the run names.

    Raises:
      ConfigError: there is no run.
      CheckpointError: the checkpoint is missing or damaged.
    """
    which = None if checkpoint is None else str(checkpoint)
    return Run(pathlib.Path(workdir).expanduser(), which, adjust=adjust, import_code=import_code)


class Report(dict):
    """The results of an evaluation, as in eval/<step>-test.json. A notebook shows tables of scores and classes."""

    def __init__(self, figures: Mapping[str, Any], stats: ClassStats):
        super().__init__(figures)
        self._stats = stats

    def __repr__(self) -> str:
        names, counts_C = self._stats.names, self._stats.counts_C.tolist()
        tables = score_tables.scores(self), score_tables.classes(self, names, counts_C)
        notes = (f"note: {note}" for note in score_tables.notes(self, names))
        return "\n\n".join([*map(console.as_text, tables), *notes])


class Run:
    """A trained run: its network at one checkpoint, with its config, classes, and results."""

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
            raise DataError(
                f"{file} can't be read ({error}). It is written when the run has finished. Fix: finish the training"
            ) from error

    def predict(self, images: Any) -> Predictions:
        """Return the predictions for images, which are prepared as in evaluation.

        Args:
          images: a path (file, folder, glob, list, or .npz); an array of pixels, (N, H, W[, K]) or (H, W[, K]); a
            Pillow image; or a list of any of these.

        Raises:
          DataError: the argument holds no images.
        """
        return self._classifier.predict(inputs.of_python(images, turn=self.config.data.exif_orientation))

    def evaluate(self, images: Any = None, labels: Sequence[Any] | None = None) -> Report:
        """Return the report on the run's test images, or on images of your own, as `--mode eval` writes it.

        Args:
          images: as `predict` takes them; all must be readable. By default, the run's test images.
          labels: a class name, or its number in the training set, for each of your own images.

        Raises:
          DataError: an image can't be read, a label is not a class of this run, or the run's images are missing.
        """
        from saddle_jax.training import evaluate

        ranks_N, logits_NC = self._test() if images is None and labels is None else self._own(images, labels)
        seen = evaluate.from_logits(ranks_N, logits_NC)
        figures = evaluate.full_report(seen, self._stats, self.config.eval.rank_bounds)
        return Report(figures, self._stats)

    def _test(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels and the logits of the run's test images."""
        from saddle_jax.data import sources
        from saddle_jax.training.directory import require_own_images

        splits = sources.load(self.config)
        fix = "put the images back as they were, or give evaluate images and labels"
        require_own_images(self.workdir, splits, fix)
        return splits.test.labels, self._classifier.logits(splits.test.images)

    def _own(self, images: Any, labels: Sequence[Any] | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels and the logits of the user's images."""
        found = self.predict(images)
        if found.problems:
            place, reason = next(iter(found.problems.items()))
            raise DataError(
                f"{len(found.problems)} images can't be read, such as {found.names[place]}: {reason}. "
                "Fix: leave them out"
            )
        if labels is None or len(labels) != len(found):
            given = "no" if labels is None else len(labels)
            raise DataError(f"found {given} labels for {len(found)} images. Fix: give one label for each image")
        return np.array([self._rank_of(label) for label in labels], np.int32), found.logits_NC

    def export(self, out: str | pathlib.Path, formats: Sequence[str] = ()) -> export_lib.Written:
        """Write the network for use without saddle_jax, as `--mode export` does, and return what was written.

        Args:
          out: a folder that does not exist yet, is empty, or holds an export of this run, which is replaced.
          formats: some of stablehlo, safetensors, onnx; if empty, all that are possible.

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
        """Measure the Hessian spectra of classes at this checkpoint, and return their summary.

        The training images are read again. An adjusted classifier is measured as it was trained. The summary, the
        spectra, and their figures are in spectra/<step>/ of the run. Spectra that are already there are not measured
        again.

        Args:
          classes: as in `spectra.classes`, separated by commas: names, groups such as tail, whole, auto, or each.
          fields: other fields of `spectra`, such as steps=40, probes=2.

        Raises:
          ConfigError: reports everything that is wrong with the fields.
          DataError: the images that it was trained on are missing.
        """
        from saddle_jax.modes import spectra as mode
        from saddle_jax.modes import start
        from saddle_jax.spectra import results

        values = {f"spectra.{name}": value for name, value in {"classes": classes, **fields}.items()}
        overrides = [f"--config.{name}={value}" for name, value in (_NO_WATCHDOG | values).items()]
        config, problems, _ = configure.of_run((self.workdir / "config.json").read_bytes(), overrides)
        if problems:
            raise ConfigError(problems)
        start.run(Command("spectra", str(self.workdir), config, checkpoint=str(self.step)), mode.run)
        return results.read_summary(self.workdir / "spectra" / str(self.step))

    def plot(self, reports: Mapping[str, Any] | None = None) -> Any:
        """Return a matplotlib figure: the accuracy of every class, from the largest to the rarest.

        Args:
          reports: what `evaluate` returns, or a list of that for several seeds, keyed by the name for the legend. By
            default, the report on this run's test images.
        """
        from saddle_jax.report import plots

        shown = {self.workdir.name: self._test_report()} if reports is None else reports
        accuracy = {
            name: [one["class_accuracy"] for one in ([found] if isinstance(found, Mapping) else found)]
            for name, found in shown.items()
        }
        groups = longtail.rank_groups(self._stats.num_classes, self.config.eval.rank_bounds)
        sizes = [len(group.classes) for group in groups]
        return plots.classes_figure(accuracy, self.class_names, self._stats.counts_C, rank_sizes=sizes)

    def _test_report(self) -> Mapping[str, Any]:
        """Return the report on the test images that training wrote at this step, or evaluate now."""
        if self._classifier.adjustment.kind == "none":
            with contextlib.suppress(OSError, ValueError):
                return json.loads((self.workdir / "eval" / f"{self.step}-test.json").read_bytes())
        return self.evaluate()
