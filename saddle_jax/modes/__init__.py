"""Modes of main.py: one file per --mode, each with a `run` function that maps the parsed command to an exit code."""

from __future__ import annotations

import importlib

from saddle_jax.experiment.command_line import MODES, Command

_WITHOUT_JAX = ("report",)  # modes that only read files


def run(command: Command) -> int:
    """Run the command's mode and return its exit code. Only modes that need JAX and TensorFlow import them."""
    mode = importlib.import_module(f"saddle_jax.modes.{MODES[command.mode].module}").run
    if command.mode in _WITHOUT_JAX:
        return mode(command)
    from saddle_jax.modes import start

    return start.run(command, mode)
