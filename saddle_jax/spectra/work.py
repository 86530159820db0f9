"""The targets that remain to be measured, and the progress over them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from saddle_jax.errors import Preempted
from saddle_jax.host import watchdog
from saddle_jax.host.progress import Progress
from saddle_jax.host.signals import StopRequest
from saddle_jax.spectra import plan
from saddle_jax.spectra.targets import Target


class Job(NamedTuple):
    """A target to measure."""

    target: Target
    positions: np.ndarray  # of its images
    plan: plan.Plan
    num_chunks: int
    num_products: int


class Work:
    """Progress over all targets; also checks for signals."""

    def __init__(self, progress: Progress, stop: StopRequest | None):
        self._progress, self._stop = progress, stop
        self._began, self._done, self._end = False, 0, 0
        self._num_chunks, self._title, self._line = 0, "", ""
        self.say = progress.say

    def start(self, job: Job) -> None:
        """Start counting at the job's first product, even if the job before it ended early."""
        self._done, self._end = self._end, self._end + job.num_chunks * job.num_products
        self._num_chunks, self._title = job.num_chunks, job.target.title
        if job.plan.line != self._line:
            self._line = job.plan.line
            self.say("memory", self._line)
        self.poll()
        watchdog.alive("spectra")

    def poll(self) -> None:
        """Report progress to the watchdog; raise Preempted if a signal has arrived."""
        watchdog.alive()
        if self._stop is not None and self._stop.signal_name:
            raise Preempted(
                f"{self._stop.signal_name}: stopped while measuring {self._title}; finished targets are kept, and the "
                "same command continues with the rest"
            )

    def step(self, vectors: int) -> None:
        """Count a product with this many vectors."""
        self.poll()
        self._done += vectors * self._num_chunks
        if not self._began:  # everything is compiled by now, so start the clock
            self._began = True
            self._progress.begin(self._done)
        self._progress.update(self._done, self._title)
