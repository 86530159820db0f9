"""`--mode spectra`: measure the class-wise Hessian spectra of a run, or compare the spectra of several runs."""

from __future__ import annotations

import pathlib

from saddle_jax import __version__
from saddle_jax.data import sources
from saddle_jax.errors import ConfigError
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import console
from saddle_jax.host.signals import StopRequest
from saddle_jax.modes import stored_run
from saddle_jax.report import spectra as plots
from saddle_jax.spectra import results
from saddle_jax.spectra.spectrometer import Spectrometer
from saddle_jax.training.directory import different_config, require_own_images
from saddle_jax.training.program import make_program


def run(command: Command) -> int:
    """Measure class-wise Hessian spectra at one of a run's checkpoints, or compare runs if the command says so.

    Raises:
      ConfigError: the config differs from the run's in more than config.spectra.
      DataError: the images are not those that the run was trained on.
    """
    if command.compare:
        return compare(command)
    config, workdir = command.config, pathlib.Path(command.workdir)
    if differing := stored_run.differences(command):
        raise ConfigError(different_config(workdir, differing, "change only fields of config.spectra here"))
    with StopRequest() as stop:
        with console.doing("reading the images"):
            splits = sources.load(config)
        require_own_images(workdir, splits, "use the run's data set")
        spectrometer = Spectrometer(config, splits)
        like = make_program(config, splits).init(config.seed)
        _, state = stored_run.restore_from_a_running_run(workdir / "checkpoints", command.checkpoint or "latest", like)
        console.say(f"saddle_jax {__version__} ", f"spectra of {workdir} at step {int(state.step):,}")
        console.say("loss", spectrometer.describe())
        folder = spectrometer.measure(state, workdir, stop=stop)
    pictures = [*plots.draw_folder(folder), plots.draw_ratio(workdir)]
    console.say("done", f"{folder}: summary.json, {len([p for p in pictures if p])} figures as PNG and PDF")
    return 0


def compare(command: Command) -> int:
    """Draw the measured spectra of several runs side by side, at the command's step or each run's last."""
    step = int(command.checkpoint) if command.checkpoint else None
    runs = [pathlib.Path(run).resolve() for run in command.compare]
    unique = len({run.name for run in runs}) == len(runs)
    folders = {run.name if unique else str(run): results.folder_at(run, step) for run in runs}
    steps = sorted({folder.name for folder in folders.values()}, key=int)
    out = pathlib.Path(command.workdir) / "_".join([*folders, *steps]).replace("/", "-")
    console.say("done", f"{plots.draw_comparison(folders, out)}, and the same as PDF")
    return 0
