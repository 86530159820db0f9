"""Set up the modes that compute: the other processes, the compilation cache, and the watchdog for stalls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from saddle_jax.errors import ConfigError, tell
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import console, devices, machines, processes, watchdog, xla
from saddle_jax.training.directory import package_versions, source_hash


def run(command: Command, mode: Callable[[Command], int]) -> int:
    """Run a mode and return its exit code. With several processes, each process ends with its own exit code."""
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
    """Return the facts that must be the same in all processes before data is read."""
    elsewhere = ("data.root", "data.path", "compilation_cache")  # folders that may differ between machines
    fields = {name: value for name, value in config_lib.flatten(command.config).items() if name not in elsewhere}
    versions = {"code": source_hash(), **package_versions()}
    return {**fields, **versions}


def _run(command: Command, mode: Callable[[Command], int]) -> int:
    if command.config.compilation_cache:
        devices.keep_compiled(
            command.config.compilation_cache
        )  # before JAX's first compilation, when it reads the setting
    if command.target is not None:
        machines.compute_on_cpu()  # before JAX looks for devices
    xla.require_right_sums()
    # Training starts its own watch after the data is read. Check runs without one.
    limit = 0 if command.mode in ("train", "check") else command.config.watchdog_secs
    try:
        with watchdog.watch(limit):
            return mode(command)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigError(
            f"a device is out of memory ({str(error).splitlines()[0]}). Fix: a smaller --config.seeds_at_once, "
            "--config.batch_size, or --config.eval.batch_size; or --config.data.pipeline=tfdata, which keeps images "
            "off the device"
        ) from error
    finally:
        console.hide()  # so that an error is printed below everything else
