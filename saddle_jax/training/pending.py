"""The metrics of queued steps, read when that does not hold up the devices."""

from __future__ import annotations

from collections.abc import Callable

import jax

from saddle_jax.host import watchdog
from saddle_jax.training.feed import Segment
from saddle_jax.training.state import unstack
from saddle_jax.training.steps import StepMetrics

_MOST_STEPS = 1000  # steps that may go unread


class PendingMetrics:
    """Segments whose metrics have not been read.

    Reading makes the host wait for the devices. It happens once per logging interval and before each event. Otherwise
    the host only makes sure that it is not more than one segment ahead.
    """

    def __init__(self, log: Callable[[int, StepMetrics, int], None], log_every: int):
        """Begin without a segment.

        Args:
          log: takes a step's number, its metrics on the host, and how many steps have been taken by then.
          log_every: steps of a logging interval.
        """
        self._log, self._log_every = log, log_every
        self._queue: list[tuple[int, int, StepMetrics]] = []  # (start, stop, metrics) of each segment

    def add(self, segment: Segment, metrics: StepMetrics) -> None:
        """Append a segment, whose metrics may not have been computed yet."""
        self._queue.append((segment.start, segment.stop, metrics))

    def read_all(self) -> None:
        """Wait for all segments and log their steps."""
        self._read(len(self._queue))

    def read_older(self) -> None:
        """Wait for all segments but the newest, which keeps the devices busy; log their steps if it is time."""
        if len(self._queue) < 2:
            return
        first, (_, last, metrics) = self._queue[0][0], self._queue[-2]
        if last // self._log_every > first // self._log_every or last - first >= _MOST_STEPS:
            self._read(len(self._queue) - 1)
        else:
            jax.block_until_ready(metrics)
            watchdog.alive()

    def _read(self, segments: int) -> None:
        """Log the steps of the oldest segments and forget them."""
        if not segments:
            return
        oldest, self._queue = self._queue[:segments], self._queue[segments:]
        done = oldest[-1][1]
        on_host = jax.device_get([metrics for _, _, metrics in oldest])
        for (start, stop, _), metrics in zip(oldest, on_host, strict=True):
            for step, values in enumerate(unstack(metrics, stop - start), start=start + 1):
                self._log(step, values, done)
        watchdog.alive()
