"""What the process is asked and what it uses: requests to stop, peak memory."""

from __future__ import annotations

import resource
import signal
import sys
from types import FrameType
from typing import Any

import jax


class StopRequest:
    """Note SIGTERM or SIGINT as a request for an orderly end; a second signal ends the process at once."""

    def __init__(self):
        self.signal_name = ""  # of the signal that came
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def peak_memory_mib() -> float:
    """Return the most memory used so far: of the first accelerator where it tells, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
