"""Threads that run beside a block of code."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


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
