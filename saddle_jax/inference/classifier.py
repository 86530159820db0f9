"""A trained network, ready to classify images. It needs nothing but the run's directory."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy.special import softmax

from saddle_jax import longtail, posthoc
from saddle_jax.data.encoded import Contents
from saddle_jax.data.sources import Images, Splits
from saddle_jax.data.sources.base import decoding
from saddle_jax.errors import ConfigError, DataError
from saddle_jax.experiment import adjustment
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.catalogue import images_stay_encoded
from saddle_jax.inference import inputs
from saddle_jax.inference.inputs import Item
from saddle_jax.inference.outputs import Predictions
from saddle_jax.training import checkpoint, evaluate
from saddle_jax.training.program import Program, make_program


class Classifier:
    """The network of a run at one of its checkpoints."""

    def __init__(self, workdir: pathlib.Path, which: str | None = None, *, adjust: str = "none", trusted: bool = False):
        """Restore the network.

        Args:
          workdir: the run's directory.
          which: latest, best, or a step; None: the best if validation images chose it, else the latest.
          adjust: how to adjust its classifier to rare classes, such as "logit:1"; see `experiment.adjustment`.
          trusted: import the code outside saddle_jax that the run names.

        Raises:
          ConfigError: the directory holds no run, or its classifier can't be adjusted like this.
          CheckpointError: the checkpoint is missing or damaged.
        """
        self.workdir = workdir
        self.config = _config(workdir, trusted=trusted)
        self.stats, self.image_shape = _stored_images(workdir)
        self.program = _program(self.config, self.stats, self.image_shape)
        like = jax.eval_shape(lambda: self.program.init(0))
        found = checkpoint.find(workdir / "checkpoints", which or "latest")
        if which is None and found.best is not None and found.best.split == "validation":
            found = checkpoint.find(workdir / "checkpoints", "best")
        self.step = found.step
        state = checkpoint.restore_weights(found, like)
        self.adjustment = adjustment.resolve(adjust, workdir, self.step)
        self.params = posthoc.adjusted_params(self.adjustment, state.params, self.program.linear)
        self.offsets_C = posthoc.offsets_C(self.adjustment, self.stats).astype(np.float32)  # subtracted from the logits
        self.model_state = state.model_state

    @property
    def is_encoded(self) -> bool:
        """Whether its images are decoded batch by batch, cut from photographs of any size."""
        return _is_encoded(self.config.data)

    def logits(self, images: Any) -> np.ndarray:
        """Return the logits of images, (N, C) float32; their softmax is the probabilities.

        Args:
          images: (N, H, W, K) uint8 pixels as the network sees them before normalization, or images that are encoded.
        """
        some = Images(images, np.zeros(len(images), np.int32))
        evaluator = evaluate.Evaluator(self.config, self.program, some, self.stats, pipeline="numpy")
        found = evaluator.evaluate(self.params, self.model_state, with_logits=True).logits_NC
        assert found is not None
        return found - self.offsets_C if self.adjustment.kind == "logit" else found

    def predict(self, items: Sequence[Item]) -> Predictions:
        """Return the predictions for images, which are prepared as in evaluation. A bad image gets a reason instead."""
        images: Any
        if self.is_encoded:
            images, problems = inputs.prepare_encoded(items, decoding(self.config.data))
        else:
            images, problems = inputs.prepare(items, self.image_shape, turn=self.config.data.exif_orientation)
        sound = [place for place in range(len(items)) if place not in problems]
        logits_NC = np.full((len(items), self.stats.num_classes), np.nan, np.float32)
        if sound:
            logits_NC[sound] = self.logits(images)
        names = tuple(item.name for item in items)
        return Predictions(names, self.stats.names, softmax(logits_NC, axis=1), logits_NC, problems)


def _config(workdir: pathlib.Path, *, trusted: bool) -> ConfigDict:
    path = workdir / "config.json"
    if not path.is_file():
        runs = sorted(map(str, workdir.glob("seed-*")))
        fix = f"one of its seeds, e.g. {runs[0]}" if runs else "the directory of a run"
        raise ConfigError(f"{workdir} holds no run. Fix: name {fix}")
    return config_lib.from_json(path.read_bytes(), trusted=trusted)


def _stored_images(workdir: pathlib.Path) -> tuple[longtail.ClassStats, tuple[int, int, int]]:
    """Return the class statistics and the shape of the images that a run was trained on."""
    path = workdir / "class_stats.json"
    try:
        stored = json.loads(path.read_bytes())
        stats = longtail.ClassStats(np.array(stored["counts"]), tuple(stored["names"]), tuple(stored["labels"]))
        height, width, channels = map(int, stored["image_shape"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} can't be read ({error}), so the run's classes are not known. Fix: restore it from a copy"
        ) from error
    return stats, (height, width, channels)


def _program(config: ConfigDict, stats: longtail.ClassStats, shape: tuple[int, int, int]) -> Program:
    """Return the run's program. It is built for the number of images that the run had, but needs none of them."""
    number, data = int(stats.counts_C.sum()), config.data
    images: Any = np.broadcast_to(np.uint8(0), (number, *shape))
    if _is_encoded(data):
        images = Contents(lambda _: b"", [""] * number, decoding(data))
    blank = Images(images, np.repeat(np.arange(stats.num_classes, dtype=np.int32), stats.counts_C))
    return make_program(config, Splits(blank, None, blank, stats, "", ""), to_train=False)


def _is_encoded(data: ConfigDict) -> bool:
    return images_stay_encoded(data.source, data.augmentation, data.eval_resize)
