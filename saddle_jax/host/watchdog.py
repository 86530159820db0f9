"""A watchdog that ends a stalled process, so that whoever started it can start it again.

A device that hangs, a collective that waits for a dead process, and a file system that does not answer all look the
same: nothing happens. Code that makes progress calls `alive`. If nothing calls it for longer than the limit, the
watchdog prints the stacks of all threads and ends the process with the exit code of a preempted run. Time during which
the process was suspended does not count. A thread that never releases Python's global lock stops the watchdog as well.
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
from saddle_jax.host import console
from saddle_jax.host.threads import beside

_COMPILING = 4  # factor on the limit for work that has to compile first
_TELLING = 10  # seconds that printing the stacks may take


class _Signs:
    """This process's signs of life."""

    idle = 0.0  # seconds since the last sign
    times = 1  # factor on the limit, until the next sign
    known: set[str] = set()  # work that has been compiled


_signs = _Signs()


def alive(begins: str = "") -> None:
    """Report progress. `begins` names work that may take longer the first time, because it has to compile."""
    _signs.idle = 0.0
    _signs.times = _COMPILING if begins and begins not in _signs.known else 1
    _signs.known.add(begins)


@contextlib.contextmanager
def watch(limit: float) -> Iterator[None]:
    """End the process if nothing calls `alive` for `limit` seconds. 0 turns the watchdog off."""
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
            threading.Timer(_TELLING, os._exit, (Preempted.exit_code,)).start()  # the terminal may hang too
            console.hide()
            stalled = f"no progress for {_signs.idle:,.0f} s (watchdog_secs is {limit:g}). Stacks of all threads:"
            print(f"\n{stalled}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(all_threads=True)
            print("stopped; the same command continues from the last checkpoint", file=sys.stderr, flush=True)
            os._exit(Preempted.exit_code)
