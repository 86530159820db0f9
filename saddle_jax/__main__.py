"""Train, evaluate, inspect, check, and report on long-tailed experiments: `saddle-jax --help`.

This file only handles flags, one mode, and exit codes. Each mode imports JAX and TensorFlow only if it needs them.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from absl import app

from saddle_jax import modes
from saddle_jax.errors import SaddleError, tell
from saddle_jax.experiment import command_line, config_file, help
from saddle_jax.host import console, output


def run() -> NoReturn:
    """Run the command in sys.argv, and exit."""
    # TensorFlow only feeds images here. Its start-up notes are noise, and oneDNN would speed up none of its work.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if os.path.basename(sys.argv[0]) != "main.py":
        sys.argv[0] = "saddle-jax"  # runs record the command as people type it
    output.keep_going()
    code = None
    try:
        app.run(main, flags_parser=parse_flags)
    except SystemExit as ended:
        code = ended.code
    sys.exit(output.exit_code(code))


def main(arguments: list[command_line.Command]) -> int:
    """Run the chosen mode and return its exit code."""
    try:
        return modes.run(arguments[0])
    except (Exception, KeyboardInterrupt) as error:
        return tell(error)


def parse_flags(argv: list[str]) -> list[command_line.Command]:
    """Parse the command line, or print help or all problems and exit. absl passes the result to `main`."""
    try:
        if (topics := help.topics(argv)) is not None:
            console.lines(help.text(topics, config_file.SHIPPED, min(console.columns(), 100)))
            sys.exit(0)
        return [command_line.parse(argv)]
    except SaddleError as error:
        sys.exit(tell(error))


if __name__ == "__main__":
    run()
