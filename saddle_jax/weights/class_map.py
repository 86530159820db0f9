"""Read a class map: which output of a checkpoint belongs to which of our classes, if their orders differ."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from saddle_jax.errors import ConfigError


def read(path: pathlib.Path, names: Sequence[str], places_C: np.ndarray) -> np.ndarray:
    """Return the checkpoint's output for each of our classes, (C,).

    The file has one of three forms:

    - one number per line: the outputs of the data set's classes, in the order of their labels
    - the same numbers as a JSON list, which the reference calls class_map
    - a JSON object {class name: output}

    Args:
      path: the file.
      names: names of our classes.
      places_C: the place of each of our classes in the order of the data set's labels.

    Raises:
      ConfigError: the file can't be read or does not give every class its own output. The error lists all problems.
    """
    try:
        text = path.expanduser().read_text()
        stored = json.loads(text) if text.lstrip()[:1] in ("[", "{") else text.split()
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--class_map: {str(path)!r} can't be read ({error})") from error
    problems: list[str] = []
    by_name = isinstance(stored, dict)
    if by_name:
        problems += [f"{name!r} is not a class of the data set" for name in stored if name not in names]
        problems += [f"class {name!r} is missing" for name in names if name not in stored]
        stored = [stored.get(name) for name in names]
    elif len(stored) != len(names):
        problems.append(f"found {len(stored)} outputs, expected {len(names)}, one per class of the data set")
    if not problems:
        outputs = list(map(_whole, stored))
        first: dict[int, int] = {}
        for label, output in enumerate(outputs):
            if not 0 <= output < len(names):
                problems.append(
                    f"class {label}: found {stored[label]!r}, expected an output from 0 to {len(names) - 1}"
                )
            elif first.setdefault(output, label) != label:
                problems.append(f"classes {first[output]} and {label} both have output {output}")
        if not problems:
            return np.array(outputs) if by_name else np.array(outputs)[places_C]
    raise ConfigError([f"--class_map: {str(path)!r}: {problem}" for problem in problems])


def _whole(item: Any) -> int:
    if isinstance(item, str) and item.isascii() and item.isdecimal():
        return int(item[:20])
    return item if type(item) is int else -1
