"""Atomic file writes that survive a crash, one error for every write that fails, hashes, and words for users."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import socket
import threading
from collections.abc import Iterator

from saddle_jax.errors import CheckpointError


def write_atomically(path: pathlib.Path, content: str | bytes, *, shared: bool = False) -> None:
    """Write a file completely, or leave the old one in place.

    Args:
      path: of the file.
      content: of the file; text is written as UTF-8.
      shared: other processes may write the file at the same time, so each needs a temporary file of its own.

    Raises:
      CheckpointError: the file can't be written.
    """
    content = content.encode() if isinstance(content, str) else content
    own = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}." if shared else ""
    temporary = path.with_name(f".{path.name}.{own}tmp")
    with writing(path, len(content)):
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)


def readable(name: str) -> str:
    r"""Return the name of a file as it can be written anywhere: bytes that are not UTF-8 become \xe9 and the like."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def reason_of(error: Exception) -> str:
    """Return why a file can't be used: the system's words if it gives any, which leave out the file's name."""
    return getattr(error, "strerror", None) or str(error)


def sha256_of(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: pathlib.Path) -> None:
    """Make a file, or the names inside a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@contextlib.contextmanager
def writing(path: pathlib.Path, needed: int = 0) -> Iterator[None]:
    """Turn a system error while `path` (`needed` bytes) is written into the error that `refusal` returns."""
    try:
        yield
    except OSError as error:
        raise refusal(path, needed, error) from error


def refusal(path: pathlib.Path, needed: int, error: Exception) -> CheckpointError:
    """Return an error that says which file can't be written, why, and how much space is needed and free."""
    room = f"; it needs {needed:,} bytes" if needed else ""
    with contextlib.suppress(OSError, StopIteration):
        there = next(folder for folder in path.parents if folder.is_dir())
        room += f"; {shutil.disk_usage(there).free:,} bytes are free there"
    return CheckpointError(
        f"{path} can't be written ({error}){room}. Earlier saves are untouched. "
        "Fix: free up space or restore access, then run the same command again"
    )
