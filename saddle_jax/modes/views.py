"""Draw some training images with every view of them into the run's directory, for `--mode check` and for trackers."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from saddle_jax.data import inspection
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.sources import Splits
from saddle_jax.errors import CheckpointError, ConfigError, DataError
from saddle_jax.experiment import config as config_lib
from saddle_jax.host import console
from saddle_jax.host.files import write_atomically, writing
from saddle_jax.tracking import start
from saddle_jax.training import seeds


def draw(config: ConfigDict, splits: Splits, views: Sequence[Augmentation], workdir: pathlib.Path) -> str:
    """Draw the run's plots/views.png and return its path. If that is not possible, return the reason and the fix.

    Raises:
      DataError: images can't be read or decoded.
    """
    if _holds_another_run(workdir, config):
        return f"not drawn: {workdir} holds a run of another config. Fix: another --workdir"
    try:
        from saddle_jax.report import views as pictures
    except ImportError as error:
        return f"not drawn: {error}. Fix: pip install matplotlib"
    samples = inspection.sample(splits, views, config.seed)
    stats = splits.stats
    names = [f"{stats.names[label]}\n{stats.counts_C[label]:,} images" for label in samples.labels_N]
    titles = [f"view {number}: {view.name}" for number, view in enumerate(views, 1)]
    drawn = list(map(pictures.View, titles, samples.views_VDNHWK))
    path = workdir / "plots" / "views.png"
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, pictures.draw(names, samples.images_NHWK, drawn))
    except CheckpointError as error:
        return f"not drawn: {error}"
    return str(path)


def draw_for_trackers(config: ConfigDict, splits: Splits, views: Sequence[Augmentation], workdir: pathlib.Path) -> None:
    """Draw the sheet of a run that begins, if a tracker follows it. A note says why if that is impossible."""
    if not start.names_of(config) or (workdir / "plots" / "views.png").exists() or _configs(workdir):
        return
    try:
        told = draw(config, splits, views, workdir)
    except DataError as error:  # training reports it when it reaches the image
        told = f"not drawn: {error}"
    if told.startswith("not drawn"):
        console.say("note", f"augmented images are {told}")


def _configs(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Return the configs of the run, or of the seeds' runs, that the workdir holds."""
    return [path for path in (workdir / "config.json", *workdir.glob("seed-*/config.json")) if path.is_file()]


def _holds_another_run(workdir: pathlib.Path, config: ConfigDict) -> bool:
    """Return whether the workdir holds a run that can't be read or that training with this config would refuse."""
    for path in _configs(workdir):
        if (path.parent == workdir) != (config.num_seeds == 1):
            return True
        try:
            trained = config_lib.from_json(path.read_bytes())
        except (OSError, ConfigError):
            return True
        own = config if config.num_seeds == 1 else seeds.member_config(config, trained.seed)
        if config_lib.differences(trained, own):
            return True
    return False
