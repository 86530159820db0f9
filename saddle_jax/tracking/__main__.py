"""Send a run to a tracker: `python -m saddle_jax.tracking wandb RUN`. What has been sent is not sent again.

Training starts this with --follow as a process beside itself. Run it yourself later to send what is missing, or a run
that was not followed.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import os
import pathlib
import sys
import threading

from saddle_jax.host import console
from saddle_jax.tracking.follow import follow, make_folder, read_state

_TRACKERS = {
    "tensorboard": "to_tensorboard:TensorBoard",
    "wandb": "to_wandb:WeightsAndBiases",
    "mlflow": "to_mlflow:MLflow",
}
_PATIENCE = 60  # seconds after the end of training, when nobody waits for this process anymore


def main() -> None:
    """Send one run, or several one after another."""
    parser = argparse.ArgumentParser("python -m saddle_jax.tracking", description=__doc__)
    parser.add_argument("tracker", choices=_TRACKERS)
    parser.add_argument("run", type=pathlib.Path, nargs="+", help="directory of a run")
    parser.add_argument("--follow", action="store_true", help="keep sending until standard input ends")
    arguments = parser.parse_args()
    ended = threading.Event()
    if arguments.follow:
        os.nice(10)  # training comes first; TensorFlow's import alone takes seconds
        threading.Thread(target=_wait_for_the_end, args=(ended,), daemon=True).start()
    else:
        ended.set()
    module, _, name = _TRACKERS[arguments.tracker].partition(":")
    make = getattr(importlib.import_module(f"saddle_jax.tracking.{module}"), name)
    for run in arguments.run:
        folder = make_folder(run, arguments.tracker)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the process of a killed run may still send its last records
            follow(run, arguments.tracker, make, ended)
        console.say("sent", f"{run}: {read_state(folder).own.get('where', '')}")


def _wait_for_the_end(ended: threading.Event) -> None:
    sys.stdin.readline()  # returns at a line, or when the training process ends
    ended.set()
    timer = threading.Timer(_PATIENCE, os._exit, (1,))
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    main()
