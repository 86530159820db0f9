"""Threads that run beside a block of code, or share the work on many items."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


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


def in_stretches(function: Callable[[T], R], items: Sequence[T], *, threads: int, stretch: int) -> Iterator[R]:
    """Yield the function's result for each item, in order. Each thread takes a stretch of items at a time.

    A pool queues all its tasks at once, so millions of items must not each be a separate task.
    """

    def take(start: int) -> list[R]:
        return [function(item) for item in items[start : start + stretch]]

    with ThreadPoolExecutor(threads) as pool:
        for results in pool.map(take, range(0, len(items), stretch)):
            yield from results
