"""Standard output and standard error that can fail without ending the work.

A pager quits, a terminal closes, or the disk that a log goes to is full. The work goes on, because its results are
files in its directory; output that can't be written is dropped.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TextIO

from saddle_jax.errors import CheckpointError

_lost: list[str] = []  # why output was lost although somebody may be waiting for it


def keep_going() -> None:
    """Replace sys.stdout and sys.stderr with streams whose writes never raise."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed, as by `>&-`: else the next file that is opened gets this number, and our lines
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)


def exit_code(code: int | None) -> int | None:
    """Return the exit code of the work. If it succeeded but output was lost, say so and return a full disk's code."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code or not _lost:
        return code
    print(f"the output could not be written in full: {_lost[0]}. Everything else is done", file=sys.stderr)
    return CheckpointError.exit_code


class _Unfailing(io.FileIO):
    """A file descriptor that takes every write. After a failure, it leads to /dev/null."""

    def __init__(self, number: int):
        super().__init__(number, "w", closefd=False)
        self._is_terminal = self.isatty()

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE and not self._is_terminal:  # else the reader has left, and misses nothing
                _lost.append(error.strerror)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # libraries and child processes write there, too
            os.close(nowhere)
            return len(data)


def _stream(number: int, old: TextIO | None) -> TextIO:
    if old is None:
        return io.TextIOWrapper(io.BufferedWriter(_Unfailing(number)), line_buffering=True)
    if not isinstance(old, io.TextIOWrapper):  # something has already replaced it
        return old
    old.flush()
    raw = _Unfailing(number)
    buffer = raw if old.write_through else io.BufferedWriter(raw)
    errors = "backslashreplace" if old.errors == "strict" else old.errors  # such as for file names that are not UTF-8
    return io.TextIOWrapper(
        buffer, old.encoding, errors, line_buffering=old.line_buffering, write_through=old.write_through
    )
