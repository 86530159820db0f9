"""Observer that measures spectra during training, at the steps named in config.spectra."""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from saddle_jax.data.sources import Splits
from saddle_jax.errors import ConfigError, Preempted
from saddle_jax.experiment.durations import parse_duration
from saddle_jax.host.signals import StopRequest
from saddle_jax.schedules import Schedules
from saddle_jax.spectra.spectrometer import Spectrometer
from saddle_jax.training.state import Observer, TrainState


def make_observer(config: ConfigDict, splits: Splits, schedules: Schedules) -> Observer | None:
    """Return the observer that measures spectra at the steps named in `config.spectra`, or None if it names none.

    Raises:
      ConfigError: a step is past the end of the run, or a class to measure does not exist.
    """
    total, spectra = schedules.total_steps, config.spectra

    def steps(duration: str) -> int:
        return parse_duration(duration).steps(schedules.steps_per_epoch, total)

    chosen = {steps(position) for position in spectra.at}
    if spectra.every:
        every = max(1, steps(spectra.every))
        chosen.update(range(every, total + 1, every))
    if not chosen:
        return None
    if max(chosen) > total:
        raise ConfigError(f"spectra.at: found step {max(chosen):,}, expected at most {total:,}, the end of the run")
    along = config.copy_and_resolve_references()
    along.spectra.landscape = ""  # needs checkpoints, which --mode spectra reads
    spectrometer = Spectrometer(along, splits)

    def look(state: TrainState, workdir: pathlib.Path, stop: StopRequest, quiet: bool) -> tuple[str, str]:
        from saddle_jax.report import spectra as plots

        step = int(state.step)
        try:
            folder = spectrometer.measure(state, workdir, stop=stop, quiet=quiet)
            plots.draw_folder(folder)
            plots.draw_ratio(workdir)
            if step == max(chosen):
                plots.draw_animation({"": workdir}, workdir / "spectra" / "training")
        except Preempted:
            raise
        except Exception as error:  # a full disk, memory, a plot: training continues without spectra
            return "note", f"spectra at step {step:,} are not complete: {type(error).__name__}: {error}"
        return "spectra", f"at step {step:,}: {folder}"

    return Observer(frozenset(chosen), look)
