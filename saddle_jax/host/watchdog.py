"""End a process that gets on no longer, so that whoever started it can start it again.

A device that hangs, a collective that waits for a process that is gone, a file system that does not answer: all look
the same, nothing happens. What makes progress calls `alive`; if nothing has for longer than the limit, the stacks of
all threads are printed and the process ends with the exit code of one that was preempted. Seconds in which the process
was stopped do not count; a thread that never lets go of Python's own lock stops the watch as well.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import sys
import threading
from collections.abc import Iterator

from saddle_jax.errors import Preempted
from saddle_jax.host.threads import beside

_COMPILING = 4  # times the limit, for what has to be compiled first
_TELLING = 10  # seconds to print the stacks


class _Signs:
    """Of life, of this process."""

    idle = 0.0  # seconds without one
    times = 1  # the limit, until the next
    known: set[str] = set()  # what has been compiled


_signs = _Signs()


def alive(begins: str = "") -> None:
    """Tell that the process gets on; what `begins` may take longer the first time, for it has to be compiled."""
    _signs.idle = 0.0
    _signs.times = _COMPILING if begins and begins not in _signs.known else 1
    _signs.known.add(begins)


@contextlib.contextmanager
def watch(limit: float) -> Iterator[None]:
    """End the process if it is not `alive` for `limit` seconds; never if that is 0."""
    if not limit:
        yield
        return
    _signs.known.clear()
    alive("everything")
    with beside(functools.partial(_count, limit), "watchdog"):
        yield


def _count(limit: float, ended: threading.Event) -> None:
    tick = min(1.0, limit / 10)
    while not ended.wait(tick):
        _signs.idle += tick
        if _signs.idle > limit * _signs.times:
            threading.Timer(_TELLING, os._exit, (Preempted.exit_code,)).start()  # the terminal may hang as well
            stalled = f"no progress for {_signs.idle:,.0f} s (watchdog_secs is {limit:g}): all threads were at"
            print(f"\n{stalled}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(all_threads=True)
            print("stopped; the same command continues from the last checkpoint", file=sys.stderr, flush=True)
            os._exit(Preempted.exit_code)
