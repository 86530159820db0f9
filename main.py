"""Train, evaluate, look into, check and report on long-tailed experiments: `python main.py --help`.

Kept short: flags, one mode, exit codes. The modes import JAX and TensorFlow where they need them.
"""

from __future__ import annotations

import os
import sys

from absl import app

from saddle_jax import modes
from saddle_jax.errors import SaddleError, tell
from saddle_jax.experiment import command_line, help

# TensorFlow only feeds images here: its start-up notes are noise, and it computes nothing that oneDNN would speed up.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def main(arguments: list[command_line.Command]) -> int:
    """Run the chosen mode and return its exit code."""
    try:
        return modes.run(arguments[0])
    except (Exception, KeyboardInterrupt) as error:
        return tell(error)


def parse_flags(argv: list[str]) -> list[command_line.Command]:
    """Parse the command line, or print help or all its problems and leave; absl hands `main` what this returns."""
    try:
        if (topics := help.topics(argv)) is not None:
            print(help.text(topics, command_line.SHIPPED))
            sys.exit(0)
        return [command_line.parse(argv)]
    except SaddleError as error:
        sys.exit(tell(error))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
