"""Fault points where a test can kill, stall, or break a real run. They do nothing unless SADDLE_FAULTS is set.

SADDLE_FAULTS="save:commit=SIGKILL@2"                 sends the signal the second time this point is passed
SADDLE_FAULTS="save:arrays=SIGKILL@1+0.02"            sends it 20 ms after the point is passed
SADDLE_FAULTS="feed=stall@20,save:manifest=ENOSPC"    sets two faults; a name from `errno` raises that error
"""

from __future__ import annotations

import collections
import errno
import os
import re
import signal
import threading
import time

_FAULT = re.compile(r"(?P<point>[\w:]+)=(?P<act>\w+)(@(?P<passing>\d+))?(\+(?P<delay>[\d.]+))?")


def _act(act: str, delay: float) -> None:
    if act.startswith("SIG") and delay:
        threading.Timer(delay, os.kill, (os.getpid(), signal.Signals[act])).start()
    elif act.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[act])
    elif act == "stall":
        time.sleep(3600)
    else:
        raise OSError(getattr(errno, act), os.strerror(getattr(errno, act)))


if _text := os.environ.get("SADDLE_FAULTS"):
    _faults = [fault for part in _text.split(",") if (fault := _FAULT.fullmatch(part))]
    _passed: collections.Counter[str] = collections.Counter()
    if len(_faults) != len(_text.split(",")):
        raise ValueError(f"SADDLE_FAULTS: found {_text!r}, expected POINT=ACT[@PASSING][+SECONDS],...")

    def fault_point(name: str) -> None:
        """Do what SADDLE_FAULTS says about this point."""
        _passed[name] += 1
        for fault in _faults:
            if fault["point"] == name and int(fault["passing"] or 1) == _passed[name]:
                _act(fault["act"], float(fault["delay"] or 0))
else:

    def fault_point(name: str) -> None:  # noqa: ARG001
        """Do nothing."""
