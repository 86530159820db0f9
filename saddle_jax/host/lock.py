"""A lock that lets only one process use a run's directory.

`.lock` names the process that holds it. If the file system supports locks, the system's own lock (flock) decides. It
disappears with the process, however that ends. On other file systems, the holder touches the file regularly. It
counts as gone if it has not done so for two minutes, or if it was on this host and no longer exists.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from saddle_jax.errors import ConfigError, WorkdirInUse
from saddle_jax.host.console import duration
from saddle_jax.host.files import writing
from saddle_jax.host.threads import beside

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_BEAT, _FORGOTTEN = 30, 120  # seconds between signs of life; seconds without one until a holder counts as gone
_SETTLE = 5  # seconds until another host sees a write


@contextlib.contextmanager
def exclusive(workdir: pathlib.Path, fix: str = "another --workdir") -> Iterator[list[str]]:
    """Create a run's directory and keep other processes out of it. Yield notes for the user.

    Args:
      fix: what the error message suggests.

    Raises:
      ConfigError: the directory can't be written.
      WorkdirInUse: another process holds the lock.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / ".lock").open("a+")
    except OSError as error:
        raise ConfigError(f"--workdir: {workdir} can't be written ({error}). Fix: {fix}") from error
    with file, contextlib.ExitStack() as stack:
        before = _holder(file)
        is_kept = _take(file, workdir, fix)
        notes = [f"took over the lock of {_named(before)}, which ended without releasing it"] if before else []
        ours = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        _write(file, json.dumps(ours))
        if not is_kept:
            notes.append(
                f"{workdir}: its file system has no locks, so the age of {file.name} shows whether another process runs"
            )
            time.sleep(_SETTLE)
            if _holder(file) != ours:
                raise _in_use(workdir, file, fix)
            stack.enter_context(beside(functools.partial(_beat, file), "lock"))
        try:
            yield notes
        finally:
            _write(file, "")


def require_free(workdir: pathlib.Path) -> None:
    """Check whether `exclusive` would be refused, without taking or writing anything.

    Raises:
      WorkdirInUse: it would.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context((workdir / ".lock").open("r+"))
        except OSError:  # nobody has been here yet, or `exclusive` will say what is wrong
            return
        _take(file, workdir, "another --workdir")


def _take(file: TextIO, workdir: pathlib.Path, fix: str) -> bool:
    """Take the lock. Return whether the file system supports locks; False means that nobody else seems to hold it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(workdir, file, fix) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise ConfigError(f"--workdir: {workdir} can't be locked ({error}). Fix: {fix}") from error
        if (holder := _holder(file)) and _seems_alive(holder, file):
            raise _in_use(workdir, file, fix) from error
        return False
    return True


def _seems_alive(holder: dict[str, Any], file: TextIO) -> bool:
    if holder["host"] == socket.gethostname():
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's process, but it exists
            pass
    return time.time() - os.fstat(file.fileno()).st_mtime < _FORGOTTEN


def _beat(file: TextIO, ended: threading.Event) -> None:
    while not ended.wait(_BEAT):
        os.utime(file.fileno())


def _in_use(workdir: pathlib.Path, file: TextIO, fix: str) -> WorkdirInUse:
    return WorkdirInUse(f"{workdir} is in use by {_named(_holder(file))}. Fix: {fix}")


def _holder(file: TextIO) -> dict[str, Any]:
    """Return who wrote the file, or {} if nobody did or its content can't be read."""
    try:
        found = json.loads(os.pread(file.fileno(), 4096, 0))
        return {"pid": int(found["pid"]), "host": str(found["host"]), "since": float(found["since"])}
    except (ValueError, TypeError, KeyError):
        return {}


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder['pid']} on {holder['host']}, started {duration(time.time() - holder['since'])} ago"


def _write(file: TextIO, text: str) -> None:
    with writing(pathlib.Path(file.name), len(text)):
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), text.encode())
