"""What main.py can run: train, eval, spectra, check, import. Each takes the parsed command and returns an exit code."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import default
from saddle_jax import __version__, devices, processes, seeds, sheet
from saddle_jax import config as config_lib
from saddle_jax.command_line import Command
from saddle_jax.data import inspection, sources
from saddle_jax.errors import CheckpointError, ConfigError, DataError, NonFiniteError, tell
from saddle_jax.host import xla
from saddle_jax.models import kernels
from saddle_jax.observer import make_observer
from saddle_jax.optim.chain import tail_C
from saddle_jax.spectra import results
from saddle_jax.spectra.spectrometer import Spectrometer
from saddle_jax.train import checkpoint, evaluate, lock, loop, origin, watchdog
from saddle_jax.train.directory import different_config, differing_images, package_versions, source_hash
from saddle_jax.train.feed import Feed, pipeline_of
from saddle_jax.train.program import Program, make_program
from saddle_jax.train.runtime import StopRequest
from saddle_jax.train.state import TrainState, stack


def run(command: Command) -> int:
    """Run the program of the command's mode; of several processes each ends with its own exit code."""
    if command.processes is None:
        return _run(command)
    try:
        processes.start(*command.processes)
        processes.require_agreement(_facts(command))
        exit_code = _run(command)
    except BaseException as error:
        exit_code = tell(error, f"process {jax.process_index()}: ")
    return processes.end(exit_code)


def _facts(command: Command) -> dict[str, Any]:
    """Return what has to be the same in all processes before data are read."""
    elsewhere = ("data.root", "data.path", "compilation_cache")  # may lie in another folder on another machine
    fields = {name: value for name, value in config_lib.flatten(command.config).items() if name not in elsewhere}
    versions = {"code": source_hash(), **package_versions()}
    return {**fields, **versions}


def _run(command: Command) -> int:
    if command.config.compilation_cache:
        devices.keep_compiled(command.config.compilation_cache)  # JAX asks for the folder at its first compilation
    xla.require_right_sums()
    if command.compare:
        return compare_spectra(command)
    programs = {"train": train, "eval": evaluate_run, "spectra": spectra, "check": check, "import": import_run}
    # Training begins its own watch, when its data have been read.
    limit = 0 if command.mode in ("train", "check") else command.config.watchdog_secs
    try:
        with watchdog.watch(limit):
            return programs[command.mode](command)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigError(
            f"a device's memory is not enough ({str(error).splitlines()[0]}). Fix: a smaller --config.seeds_at_once, "
            "--config.batch_size or --config.eval.batch_size; --config.data.pipeline=tfdata keeps images off the device"
        ) from error


def train(command: Command) -> int:
    """Train, or continue, the run in the command's workdir."""
    config, workdir = command.config, pathlib.Path(command.workdir)
    processes.on_first(lambda: _require_free(workdir))
    processes.on_first(lambda: [None for member in _members(config, workdir) if origin.find(*member)])
    with StopRequest() as stop:  # a signal while data are read or code is compiled is answered before the first step
        splits = sources.load(config.data)
        images = {"split_hash": splits.split_hash, "content_hash": splits.content_hash}
        pipeline = {"data.pipeline": pipeline_of(config, [splits]), "device": jax.devices()[0].device_kind}
        processes.require_agreement({**images, **pipeline})  # what each one chooses by its memory, too
        program = make_program(config, splits)
        observer = make_observer(config, splits, program.schedules)
        if processes.is_first():
            _describe(config, splits, program, str(workdir))
        if config.num_seeds == 1:
            loop.train(config, workdir, splits, program, sys.argv, stop=stop, observer=observer)
            return 0
        summary = seeds.train(config, workdir, splits, program, sys.argv, stop=stop, observer=observer)
    if not processes.is_first():
        return 0
    print("\nTest accuracy in percent, mean ± sd over the seeds:\n")
    print(seeds.table([workdir / run for run in summary["runs"]]))
    print(f"\ndone   all seeds have finished; their summary is {workdir / 'summary.json'}")
    return 0


def _require_directory(workdir: pathlib.Path) -> None:
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"--workdir: {workdir} is a file, expected a directory. Fix: another --workdir")


def _require_free(workdir: pathlib.Path) -> None:
    _require_directory(workdir)
    lock.require_free(workdir)


def evaluate_run(command: Command) -> int:
    """Evaluate a run's checkpoints on the test set."""
    config, workdir = command.config, pathlib.Path(command.workdir)
    differing = _differences(command)
    if differing and command.config_named:
        raise ConfigError(different_config(workdir, differing, "leave --config out, or the run's own"))
    splits = sources.load(config.data)
    program = make_program(config, splits)
    # With other images or groups than the run's own, the result is shown but not filed among the run's.
    folder = None if differing or differing_images(workdir, splits) else workdir
    checkpoints, like = workdir / "checkpoints", program.init(config.seed)
    which = command.checkpoint or "latest"
    found, state = _restore_from_a_running_run(checkpoints, which, like)
    states = {which: state}
    if command.checkpoint is None and (best := found.best):
        is_latest = best.step == found.step
        states[f"best on {best.split}"] = (
            state if is_latest else _restore_from_a_running_run(checkpoints, "best", like)[1]
        )
    evaluator = evaluate.Evaluator(config, program, splits.test, splits.stats, pipeline_of(config, [splits]))
    for name, state in states.items():
        report = evaluator.report(state, folder, "test")
        print(f"{name} (step {int(state.step):,}): {evaluate.one_line(report)}")
        for label, (count, accuracy) in enumerate(zip(splits.stats.counts_C, report["class_accuracy"], strict=True)):
            shown = "n/a" if accuracy is None else f"{accuracy:6.2f}"
            print(f"  class {label:4d}  {splits.stats.names[label]:20.20s} {count:6,d} training images  {shown}")
    return 0


def spectra(command: Command) -> int:
    """Measure class-wise Hessian spectra at one of a run's checkpoints."""
    from saddle_jax.report import spectra as plots

    config, workdir = command.config, pathlib.Path(command.workdir)
    if differing := _differences(command):
        raise ConfigError(different_config(workdir, differing, "only fields of config.spectra may change here"))
    with StopRequest() as stop:
        splits = sources.load(config.data)
        if differing := differing_images(workdir, splits):
            raise DataError(f"{workdir} was trained on other images ({', '.join(differing)} differ). Fix: its data set")
        spectrometer = Spectrometer(config, splits)
        like = make_program(config, splits).init(config.seed)
        _, state = _restore_from_a_running_run(workdir / "checkpoints", command.checkpoint or "latest", like)
        print(f"saddle_jax {__version__}  spectra of {workdir} at step {int(state.step):,}")
        print(f"loss   {spectrometer.describe()}", flush=True)
        folder = spectrometer.measure(state, workdir, stop=stop)
    pictures = [*plots.draw_folder(folder), plots.draw_ratio(workdir)]
    print(f"done   {folder}: summary.json, {len([p for p in pictures if p])} pictures as PNG and PDF")
    return 0


def import_run(command: Command) -> int:
    """Make a run of a PyTorch checkpoint."""
    from saddle_jax.pytorch import program

    return program.run(command)


def compare_spectra(command: Command) -> int:
    """Draw the measured spectra of several runs side by side."""
    from saddle_jax.report import spectra as plots

    step = int(command.checkpoint) if command.checkpoint else None
    runs = [pathlib.Path(run).resolve() for run in command.compare]
    unique = len({run.name for run in runs}) == len(runs)
    folders = {run.name if unique else str(run): results.folder_at(run, step) for run in runs}
    steps = sorted({folder.name for folder in folders.values()}, key=int)
    out = pathlib.Path(command.workdir) / "_".join([*folders, *steps]).replace("/", "-")
    print(f"done   {plots.draw_comparison(folders, out)}, and as PDF")
    return 0


def check(command: Command) -> int:
    """Build everything, print its sizes, run one step, draw what the views look like; write nothing else."""
    from clu import parameter_overview

    config, workdir = command.config, pathlib.Path(command.workdir)
    _require_directory(workdir)
    splits = sources.load(config.data)
    program = make_program(config, splits)
    _describe(config, splits, program, command.workdir)
    for line in inspection.class_lines(splits):
        print(line)
    inspection.require_readable(splits, decode=config.data.check_decode)
    state = program.init(config.seed)
    print(parameter_overview.get_parameter_overview(state.params, include_stats=False))
    at_once = seeds.seeds_at_once(config.num_seeds, config.seeds_at_once)
    members = _members(config, workdir)[:at_once]
    configs = [config for config, _ in members]
    feed = Feed(configs, [splits] * at_once, program)
    segment = next(feed.segments(0, 1, lambda _: True))
    start = jax.device_get(program.init(config.seed))
    states = stack([origin.adopt(found, start) if (found := origin.find(*member)) else start for member in members])
    memory = feed.lower(states, segment).compile().memory_analysis()
    if memory is not None:
        used = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
        used -= memory.alias_size_in_bytes
        print(f"memory a step needs about {used / 2**20:,.0f} MiB on each device, by the compiler's count")
    metrics = jax.device_get(feed.advance(states, segment)[1])
    loss, perturbed = np.mean(metrics.loss), np.mean(metrics.perturbed_loss)
    print(f"step   loss {loss:.4f}, at w + e {perturbed:.4f}; nothing of it was kept", flush=True)
    print(f"views  {sheet.draw(config, splits, program.views, workdir)}")
    if not np.all(metrics.finite):
        raise NonFiniteError("step 1: loss or update is not finite. Fix: a lower learning rate or rho")
    return 0


def _members(config: ConfigDict, workdir: pathlib.Path) -> list[tuple[ConfigDict, pathlib.Path]]:
    """Return the config and the directory of every seed's run."""
    if config.num_seeds == 1:
        return [(config, workdir)]
    return [(seeds.member_config(config, seed), workdir / f"seed-{seed}") for seed in seeds.seeds_of(config)]


def _restore_from_a_running_run(
    checkpoints: pathlib.Path, which: str, like: TrainState
) -> tuple[checkpoint.Checkpoint, TrainState]:
    """Return a checkpoint and its state on the host; the run may delete it for a newer one meanwhile."""
    for last_try in (False, True):
        try:
            found = checkpoint.find(checkpoints, which)
            return found, jax.device_get(checkpoint.restore(found, like))
        except CheckpointError:
            raise
        except Exception as error:  # orbax and the file system have many names for a file that has gone
            if last_try:
                raise CheckpointError(f"{checkpoints}: {which} can't be read ({error}). Fix: try again") from error
    raise AssertionError


def _differences(command: Command) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which the command's config is not its run's.

    Raises:
      ConfigError: there is no run.
    """
    path = pathlib.Path(command.workdir, "config.json")
    if not path.is_file():
        runs = sorted(map(str, pathlib.Path(command.workdir).glob("seed-*")))
        fix = f"one of its seeds, e.g. --workdir {runs[0]}" if runs else "--workdir of a run"
        raise ConfigError(f"--mode {command.mode}: {command.workdir} holds no run. Fix: {fix}")
    trained = config_lib.from_json(path.read_bytes(), default.get_config())
    return config_lib.differences(trained, command.config)


def _describe(config: ConfigDict, splits: sources.Splits, program: Program, workdir: str) -> None:
    """Print what is about to run, a line each for program, directory, data, model and plan."""
    counts_C, schedules = splits.stats.counts_C, program.schedules
    held_out = 0 if splits.validation is None else len(splits.validation.labels)
    parts = devices.num_devices()
    at_once = seeds.seeds_at_once(config.num_seeds, config.seeds_at_once)
    several = f"s {config.seed} to {seeds.seeds_of(config)[-1]}, {at_once} at once"
    seed = several if config.num_seeds > 1 else f" {config.seed}"
    print(f"saddle_jax {__version__}  {config.name}  seed{seed}  {parts} x {jax.devices()[0].device_kind}")
    print(f"run    {workdir}")
    print(
        f"data   {len(splits.train.labels):,} training images ({held_out:,} held out), {splits.stats.num_classes} "
        f"classes of {counts_C.max():,} to {counts_C.min():,}; {len(splits.test.labels):,} test images; "
        f"split {splits.split_hash}"
    )
    drw = "" if schedules.drw_start is None else f"; DRW from step {schedules.drw_start:,}"
    parameters = sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda: program.init(0)).params))
    by_onednn = jax.default_backend() == "cpu" and kernels.uses_onednn(config.model.kernels)
    print(
        f"model  {config.model.name}, width {config.model.width:g}, {config.model.head} head: {parameters:,} "
        f"parameters{'; layers by onednn' if by_onednn else ''}"
    )
    print(
        f"plan   {schedules.total_steps:,} steps of {config.batch_size}, {schedules.steps_per_epoch} an epoch; "
        f"method {config.method}, loss {config.loss.name}{drw}; {_link_of(config, splits)}",
        flush=True,
    )


def _link_of(config: ConfigDict, splits: sources.Splits) -> str:
    """Return the chosen link with its size and its own fields, as a user reads it."""
    name = config.optim.name
    if name == "sgd":
        return "plain SGD"
    own = config.get(name, {}) if name != "sam" else {}  # that group is shared by all
    fields = [f"rho {', '.join(f'{value:g}' for _, value in config.sam.rho_knots)}"]
    fields += [f"{field} {value}" for field, value in own.items()]
    if "tail_below" in own:
        fields.append(f"{tail_C(config, splits.stats.counts_C).sum()} classes are tail")
    return f"{name} with {'; '.join(fields)}"
