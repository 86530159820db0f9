"""Find, read, and check run directories, finished or not, whole or damaged. Does not need JAX."""

from __future__ import annotations

import glob
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from saddle_jax.errors import ConfigError
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.schema import default_config
from saddle_jax.longtail import RANK_GROUPS
from saddle_jax.training import metrics as metrics_lib

GROUPS = (*RANK_GROUPS, "many", "medium", "few")
_MARKS = (
    "config.json",
    "run.json",
    "class_stats.json",
    "metrics.jsonl",
    "results.json",
)  # any of them marks a run, whole or not


class Images(NamedTuple):
    """Images that a run was trained and evaluated on."""

    counts_C: tuple[int, ...]  # training images per class
    names: tuple[str, ...]
    train_images: int
    test_images: int
    hashes: tuple[str, str]  # of the choice of training images, and of every pixel and label


_NEVER_ABSENT = ("seed", "loss.name", "optim.name", "data.source", "data.subset_seed")
_NO_IMAGES = Images((), (), 0, 0, ("", ""))


class Run(NamedTuple):
    """One run directory. A missing or damaged part is empty here and named in `problems`."""

    folder: pathlib.Path
    config: dict[str, Any]  # flat, with every field of this version
    images: Images
    results: dict[str, Any]  # {"last": report, "best": report}
    starts: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    problems: tuple[str, ...]

    @property
    def seeds(self) -> tuple[Any, Any]:
        """The run's seed, and the seed that chose its images."""
        return self.config.get("seed"), self.config.get("data.subset_seed")

    @property
    def known(self) -> bool:
        """Whether the config and the images are known."""
        return bool(self.config and self.images.counts_C)

    @property
    def finished(self) -> bool:
        return self.known and bool(self.results)


def find(patterns: Iterable[str]) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Return the run directories that match glob patterns, each once, and the matching directories that hold no run.

    A directory of several seeds stands for its seed-* directories.

    Raises:
      ConfigError: no run matches.
    """
    patterns = list(patterns)
    found: dict[pathlib.Path, pathlib.Path] = {}
    others = []
    for pattern in map(os.path.expanduser, patterns):
        names = [pattern] if pathlib.Path(pattern).is_dir() else glob.glob(pattern, recursive=True)
        for folder in sorted(map(pathlib.Path, names), key=_natural):
            if not folder.is_dir():
                continue
            runs = _runs_in(folder)
            found.update({run.resolve(): run for run in runs if run.resolve() not in found})
            if not runs:
                others.append(folder)
    if not found:
        matched = (
            f"no run among {len(others)} directories" if len(others) > 1 else "no run" if others else "no directory"
        )
        raise ConfigError(
            f"--runs: found {matched} at {', '.join(map(repr, patterns))}, expected run directories (they hold "
            "config.json, or seed-*/config.json). Fix: e.g. --runs 'runs/*'"
        )
    return list(found.values()), others


def _runs_in(folder: pathlib.Path) -> list[pathlib.Path]:
    itself = [folder] if any((folder / mark).exists() for mark in _MARKS) else []
    seeds = sorted((path for path in folder.glob("seed-*") if path.is_dir()), key=_natural)
    several = any((path / "config.json").is_file() for path in seeds)
    return [*itself, *(seeds if several else [])]


def _natural(path: pathlib.Path) -> list[Any]:
    """Return a key that sorts seed-2 before seed-10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def read(folder: pathlib.Path) -> Run:
    """Read a run directory, whatever state it is in."""
    problems: list[str] = []

    def part(name: str, parse: Callable[[Any], Any]) -> Any:
        try:
            return parse(json.loads((folder / name).read_bytes()))
        except FileNotFoundError:
            problems.append(f"no {name}")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            problems.append(f"{name} can't be read ({type(error).__name__}: {error})")
        return None

    config, images = part("config.json", _config) or {}, part("class_stats.json", _images) or _NO_IMAGES
    starts = part("run.json", _starts) or []
    try:
        metrics = [record for record in metrics_lib.read(folder) if is_number(record["step"])]
    except (OSError, ValueError):
        metrics = []
    if not metrics:
        problems.append("no records in metrics.jsonl")
    results = part("results.json", lambda stored: _results(stored, len(images.counts_C))) or {}
    if not results and metrics:
        problems.append(f"last record at step {metrics[-1]['step']}")
    return Run(folder, config, images, results, starts, metrics, tuple(problems))


def _config(stored: Any) -> dict[str, Any]:
    # Keep fields that this version does not know, because they may distinguish rows. Fields that did not exist yet when
    # the run was made acted like today's defaults.
    own = config_lib.flatten(stored)
    if absent := [field for field in _NEVER_ABSENT if field not in own]:
        raise ValueError(f"no {', '.join(absent)}")
    flat = {**config_lib.flatten(default_config()), **own}
    config = {field: _frozen(value) for field, value in sorted(flat.items())}
    bounds = config["eval.rank_bounds"]
    whole = [config["seed"], config["data.subset_seed"], *bounds]
    texts = ("method", "optim.name", "loss.name", "loss.class_weights", "data.source", "data.name", "data.path")
    words = [config[field] for field in texts]
    sound = all(isinstance(n, int) for n in whole) and all(isinstance(w, str) for w in words)
    if not sound or len(bounds) not in (0, 2) or sorted(bounds) != list(bounds) or min((0, *bounds)) < 0:
        raise ValueError("a seed, a bound, or a name has an impossible value")
    return config


def _frozen(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return value if isinstance(value, (str, int, float, type(None))) else json.dumps(value)


def _images(stored: Any) -> Images:
    counts_C = tuple(map(int, stored["counts"]))
    names = tuple(map(str, stored["names"]))
    if len(names) != len(counts_C) or not counts_C:
        raise ValueError(f"found {len(names)} names for {len(counts_C)} classes")
    hashes = (str(stored["split_hash"]), str(stored["content_hash"]))
    return Images(counts_C, names, int(stored["train_images"]), int(stored["test_images"]), hashes)


def _starts(stored: Any) -> list[dict[str, Any]]:
    starts = [dict(start) for start in stored["starts"]]
    for start in starts:
        if not isinstance(start.get("command"), list) or not isinstance(start.get("packages", {}), dict):
            raise ValueError("a start has no command")
    return starts


def _results(stored: Any, num_classes: int) -> dict[str, Any]:
    for which in ("last", "best"):
        report = stored[which]
        numbers = [report["accuracy"], report["step"], report["balanced_accuracy"]]
        optional = [*(report["groups"][name]["accuracy"] for name in GROUPS), *report["class_accuracy"]]
        sound = all(map(is_number, numbers)) and all(value is None or is_number(value) for value in optional)
        if not sound:
            raise ValueError(f"{which}: an accuracy or a step is not a number")
        if num_classes not in (0, len(report["class_accuracy"])):
            raise ValueError(f"{which}: found {len(report['class_accuracy'])} classes, expected {num_classes}")
    return {which: stored[which] for which in ("last", "best")}


def is_number(value: Any) -> bool:
    """Return whether a value from a file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def chosen_by(report: Mapping[str, Any]) -> str:
    """Return the split that chose the best step: test, validation, or "?" if unknown."""
    return str(report.get("chosen_by") or "").rpartition(" ")[2] or "?"
