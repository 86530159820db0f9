"""What the process is asked and what it uses: requests to stop, memory."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax

from saddle_jax import processes


class StopRequest:
    """Note SIGTERM or SIGINT as a request for an orderly end; a second signal ends the process at once.

    Of several processes all stop at the same step, whichever was sent the signal. JAX has the handler of SIGTERM then,
    which no second one ends; SIGINT is passed on to it once.
    """

    def __init__(self):
        self.signal_name = ""  # of the signal that came
        self._previous: dict[int, Any] = {}
        self._asked = 0

    def __enter__(self) -> StopRequest:
        if processes.count() > 1:
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._pass_on)
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def agreed(self) -> str:
        """Return the name of the signal that came, or ""; every process has to ask after the same steps."""
        self._asked += 1
        if processes.count() > 1 and processes.stop_agreed(self._asked):
            self.signal_name = "SIGTERM"
        return self.signal_name

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def beside(act: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Run `act` in a thread of that name beside the block, at whose end the event is set and the thread awaited."""
    ended = threading.Event()
    thread = threading.Thread(target=act, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def peak_memory_mib() -> float:
    """Return the most memory used so far: of the first accelerator where it tells, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def memory_limit() -> int:
    """Return the bytes of a device's memory; of a CPU device its share of the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(jax.local_devices())


def free_memory() -> tuple[int, int]:
    """Return the free bytes of the first device and of the host beside it: 0 where the device is the host."""
    host = free_host_memory()
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"], host
    return host // len(jax.local_devices()), 0


def free_host_memory() -> int:
    """Return the bytes that the system says are available, within the limit of a container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = [total]
    for path, pattern in (("/proc/meminfo", r"MemAvailable:\s+(\d+) kB"), ("/sys/fs/cgroup/memory.max", r"(\d+)$")):
        with contextlib.suppress(OSError):
            if match := re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE):
                found.append(int(match[1]) * (1024 if "meminfo" in path else 1))
    if len(found) == 1:  # no Linux: what is free is not told in one way
        found.append(total // 2)
    return min(found)
