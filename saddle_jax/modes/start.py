"""What every mode that computes needs first: the other processes, the compilation cache, a watch over stalls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from saddle_jax.errors import ConfigError, tell
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import devices, processes, watchdog, xla
from saddle_jax.train.directory import package_versions, source_hash


def run(command: Command, mode: Callable[[Command], int]) -> int:
    """Run a mode and return its exit code; with several processes, each ends with its own exit code."""
    if command.processes is None:
        return _run(command, mode)
    try:
        processes.start(*command.processes)
        processes.require_agreement(_facts(command))
        exit_code = _run(command, mode)
    except BaseException as error:
        exit_code = tell(error, f"process {jax.process_index()}: ")
    return processes.end(exit_code)


def _facts(command: Command) -> dict[str, Any]:
    """Return what has to be the same in all processes before data are read."""
    elsewhere = ("data.root", "data.path", "compilation_cache")  # may lie in another folder on another machine
    fields = {name: value for name, value in config_lib.flatten(command.config).items() if name not in elsewhere}
    versions = {"code": source_hash(), **package_versions()}
    return {**fields, **versions}


def _run(command: Command, mode: Callable[[Command], int]) -> int:
    if command.config.compilation_cache:
        devices.keep_compiled(command.config.compilation_cache)  # JAX asks for the folder at its first compilation
    xla.require_right_sums()
    # Training begins its own watch, when its data have been read.
    limit = 0 if command.mode in ("train", "check") else command.config.watchdog_secs
    try:
        with watchdog.watch(limit):
            return mode(command)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigError(
            f"a device's memory is not enough ({str(error).splitlines()[0]}). Fix: a smaller --config.seeds_at_once, "
            "--config.batch_size or --config.eval.batch_size; --config.data.pipeline=tfdata keeps images off the device"
        ) from error
