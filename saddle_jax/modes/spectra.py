"""`--mode spectra`: measure the class-wise Hessian spectra of a run, or compare the spectra of several runs."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
from ml_collections import ConfigDict

from saddle_jax import __version__
from saddle_jax.data import sources
from saddle_jax.errors import ConfigError
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import console
from saddle_jax.host.signals import StopRequest
from saddle_jax.modes import stored_run
from saddle_jax.report import spectra as plots
from saddle_jax.spectra import results
from saddle_jax.spectra.spectrometer import Spectrometer
from saddle_jax.training import checkpoint
from saddle_jax.training.directory import different_config, require_own_images
from saddle_jax.training.program import make_program
from saddle_jax.training.state import TrainState


def run(command: Command) -> int:
    """Measure class-wise Hessian spectra at checkpoints of a run, or compare runs if the command says so.

    Raises:
      ConfigError: the config differs from the run's in more than config.spectra.
      DataError: the images are not those that the run was trained on.
    """
    if command.compare:
        return compare(command)
    config, workdir = command.config, pathlib.Path(command.workdir)
    if differing := stored_run.differences(command):
        raise ConfigError(different_config(workdir, differing, "change only fields of config.spectra here"))
    other = other_run(config, workdir)
    with StopRequest() as stop:
        with console.doing("reading the images"):
            splits = sources.load(config)
        require_own_images(workdir, splits, "use the run's data set")
        spectrometer = Spectrometer(config, splits)
        like = make_program(config, splits, to_train=False).init(config.seed)
        paths = paths_of([workdir, *other], like) if config.spectra.landscape else {}
        console.say(f"saddle_jax {__version__} ", f"spectra of {workdir}")
        console.say("loss", spectrometer.describe())
        pictures = []
        for state in _states(workdir / "checkpoints", command.checkpoint or "latest", like):
            console.say("step", f"{int(state.step):,}")
            folder = spectrometer.measure(state, workdir, paths=paths, stop=stop)
            pictures += plots.draw_folder(folder)
    pictures.append(plots.draw_ratio(workdir))
    if moving := plots.draw_animation({"": workdir}, workdir / "spectra" / "training"):
        console.say("plot", f"{moving}: the spectra along training")
    console.say("done", f"{folder}: summary.json, {len([p for p in pictures if p])} figures as PNG, PDF, and SVG")
    return 0


def _states(checkpoints: pathlib.Path, chosen: str, like: TrainState) -> Iterable[TrainState]:
    """Return the states at the checkpoints that the command names: one, several separated by commas, or all."""

    def read(which: str) -> TrainState:
        return stored_run.restore_from_a_running_run(checkpoints, which, like)[1]

    return _left(checkpoints, read) if chosen == "all" else map(read, chosen.split(","))


def _left(checkpoints: pathlib.Path, read: Callable[[str], TrainState]) -> Iterator[TrainState]:
    """Yield what is read from every checkpoint; without any, from the latest one, whose error says that there is none.

    A checkpoint that a running run deletes in the meantime is left out.
    """
    found = False
    for step in checkpoint.available(checkpoints):
        try:
            state = read(str(step))
        except Exception:  # orbax and the file system raise many kinds of errors for a deleted file
            if step in checkpoint.available(checkpoints):
                raise
            console.say("note", f"left out step {step:,}: its checkpoint in {checkpoints} has been deleted")
        else:
            found = True
            yield state
    if not found:
        yield read("latest")


def other_run(config: ConfigDict, workdir: pathlib.Path) -> list[pathlib.Path]:
    """Return the other run that spectra.landscape names, or [] if it names none.

    Raises:
      ConfigError: there is no other run of the same network and classes.
    """
    named = config.spectra.landscape
    if named in ("", "alone"):
        return []
    other = pathlib.Path(named)
    fix = "Fix: the directory of a run, e.g. --config.spectra.landscape=runs/sgd, or alone"
    if not (other / "config.json").is_file() or other.resolve() == workdir.resolve():
        raise ConfigError(f"spectra.landscape: found {named!r}, expected the directory of another run. {fix}")
    theirs = config_lib.from_json((other / "config.json").read_bytes())
    ours = config.model.to_dict()
    if unlike := [f"model.{field}" for field, value in ours.items() if theirs.model.get(field) != value]:
        found = f"{named} differs from {workdir} in {', '.join(unlike)}"
        raise ConfigError(f"spectra.landscape: {found}, expected the same network. {fix}")
    return [other]


def paths_of(runs: Sequence[pathlib.Path], like: TrainState) -> dict[str, list[TrainState]]:
    """Return the weights at every checkpoint that the runs still have, by their links, or by their folders."""
    configs = [config_lib.from_json((run / "config.json").read_bytes()) for run in runs]
    names = [config.optim.name.upper() for config in configs]
    if len(set(names)) < len(runs):
        names = [run.name for run in runs] if len({run.name for run in runs}) == len(runs) else list(map(str, runs))

    def read(checkpoints: pathlib.Path, which: str) -> TrainState:
        one = checkpoint.find(checkpoints, which)
        return jax.device_get(checkpoint.restore_weights(one, like))._replace(step=one.step)

    folders = [run / "checkpoints" for run in runs]
    return {
        name: list(_left(folder, functools.partial(read, folder))) for name, folder in zip(names, folders, strict=True)
    }


def compare(command: Command) -> int:
    """Draw the measured spectra of several runs side by side, at the command's step or each run's last."""
    step = int(command.checkpoint) if command.checkpoint else None
    runs = [pathlib.Path(run).resolve() for run in command.compare]
    unique = len({run.name for run in runs}) == len(runs)
    folders = {run.name if unique else str(run): results.folder_at(run, step) for run in runs}
    steps = sorted({folder.name for folder in folders.values()}, key=int)
    out = pathlib.Path(command.workdir) / "_".join([*folders, *steps]).replace("/", "-")
    if not step and (moving := plots.draw_animation(dict(zip(folders, runs, strict=True)), out)):
        console.say("plot", f"{moving}: the spectra along training")
    console.say("done", f"{plots.draw_comparison(folders, out)}, and the same as PDF and SVG")
    return 0
