"""Threads that run beside a block of code."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def beside(act: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Run `act` in a thread beside the block. After the block, set the event and join the thread."""
    ended = threading.Event()
    thread = threading.Thread(target=act, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
