"""A folder's manifest: size and sha256 of every file in it, to detect damage before anything is read."""

from __future__ import annotations

import json
import pathlib

from saddle_jax.host.files import sha256_of, sync, write_atomically

_MANIFEST = "MANIFEST.json"


def write(folder: pathlib.Path) -> None:
    """Write MANIFEST.json over all files now in `folder`, after syncing them so that a power cut can't change them."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    write_atomically(folder / _MANIFEST, json.dumps(_digests(folder), indent=1))


def damage(folder: pathlib.Path) -> str:
    """Return how a folder differs from its manifest, or "" if it does not.

    Raises:
      FileNotFoundError: a file disappeared in the meantime, as in a folder that is being deleted.
    """
    try:
        expected = dict(json.loads((folder / _MANIFEST).read_bytes()))
    except FileNotFoundError:
        return f"{_MANIFEST} is missing"
    except (OSError, ValueError, TypeError) as error:
        return f"{_MANIFEST} can't be read ({error})"
    found = _digests(folder)
    names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if names and not (folder / _MANIFEST).is_file():
        raise FileNotFoundError(folder)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"it differs from its manifest in {', '.join(names[:5])}{more}" if names else ""


def _digests(folder: pathlib.Path) -> dict[str, list]:
    """Return {file: [size, sha256]}; [] for a file that can't be read."""
    digests: dict[str, list] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _MANIFEST:
            name = path.relative_to(folder).as_posix()
            try:
                digests[name] = [path.stat().st_size, sha256_of(path)]
            except FileNotFoundError:
                raise
            except OSError:  # a bad sector: the file is damaged
                digests[name] = []
    return digests
