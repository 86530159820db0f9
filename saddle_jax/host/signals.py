"""What the process is asked and what it uses: requests to stop, memory."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

from saddle_jax.host import processes


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
