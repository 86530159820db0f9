"""Files that are there whole or not at all, whenever the process ends."""

from __future__ import annotations

import os
import pathlib


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Write a file and put it in its place, or leave what was there."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: pathlib.Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
