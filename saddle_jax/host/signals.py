"""Requests to stop a run: SIGTERM and SIGINT."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from saddle_jax.host import processes


class StopRequest:
    """Treat SIGTERM or SIGINT as a request to stop in an orderly way. A second signal ends the process at once.

    If there are several processes, all stop at the same step, whichever one got the signal. JAX then handles SIGTERM,
    and a second SIGTERM does not end the process. The first SIGINT is passed on as SIGTERM.

    Python handles signals in its main thread alone. In any other thread, such as one in a server or in some
    notebooks, this class does nothing, and signals have their usual effect.
    """

    def __init__(self):
        self.signal_name = ""  # the signal that arrived, if any
        self._previous: dict[int, Any] = {}
        self._asked = 0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        if processes.count() > 1:
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._pass_on)
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def agreed(self) -> str:
        """Return the name of the signal that arrived, or "". Every process must call this after the same steps."""
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
