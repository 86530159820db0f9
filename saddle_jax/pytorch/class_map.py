"""Which output of a checkpoint belongs to which of our classes, where training had put the classes in another order."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from saddle_jax.errors import ConfigError


def read(path: pathlib.Path, names: Sequence[str], labels_C: np.ndarray | None) -> np.ndarray:
    """Return the checkpoint's output for each of our classes, (C,).

    The file has one number a line, the output of the data set's label 0 first; or the same as a JSON list, which is
    what the reference calls class_map; or a JSON object {name of the class: output}.

    Args:
      names: of our classes.
      labels_C: the data set's label of each of our classes; None where they are the same.

    Raises:
      ConfigError: everything that keeps it from giving each class an output of its own.
    """
    try:
        text = path.expanduser().read_text()
        stored = json.loads(text) if text.lstrip()[:1] in ("[", "{") else text.split()
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--class_map: {str(path)!r} can't be read ({error})") from error
    problems: list[str] = []
    by_name = isinstance(stored, dict)
    if by_name:
        problems += [f"{name!r} is no class of the data set" for name in stored if name not in names]
        problems += [f"class {name!r} is missing" for name in names if name not in stored]
        stored = [stored.get(name) for name in names]
    elif len(stored) != len(names):
        problems.append(f"found {len(stored)} outputs, the data set has {len(names)} classes")
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
            return np.array(outputs) if by_name or labels_C is None else np.array(outputs)[labels_C]
    raise ConfigError([f"--class_map: {str(path)!r}: {problem}" for problem in problems])


def _whole(item: Any) -> int:
    if isinstance(item, str) and item.isascii() and item.isdecimal():
        return int(item[:20])
    return item if type(item) is int else -1
