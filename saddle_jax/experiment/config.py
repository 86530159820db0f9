"""A config as data: its fields by name, its JSON, its fingerprint, and its differences from another. Needs no JAX."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from saddle_jax.errors import ConfigError
from saddle_jax.experiment import catalogue, schema
from saddle_jax.experiment.durations import parse_duration
from saddle_jax.experiment.fields import knots


def rescale_to_percent(config: ml_collections.ConfigDict) -> None:
    """Rewrite every position that `config` gives in epochs as a percentage, so that the run's length can change.

    Does nothing if the run's length is given in steps: the length of an epoch then depends on the data.
    """
    total, unit = parse_duration(config.duration)
    if unit != "epochs":
        return

    def percent(position: Any) -> Any:
        duration = parse_duration(position)
        return f"{100 * duration.amount / total:g}%" if duration.unit == "epochs" else position

    flat = flatten(config)
    idle = {group for choice in catalogue.ENTRIES for group in catalogue.other_groups(choice, flat[choice])}
    for name, field in schema.fields_of(flat).items():
        if name.partition(".")[0] in idle:
            continue
        if field.is_position:
            flat[name] = percent(flat[name])
        elif field.is_schedule and len(knots(flat[name])) > 1:
            flat[name] = tuple((percent(position), value) for position, value in knots(flat[name]))
    config.update_from_flattened_dict(flat)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"data.ratio": 100.0, ...} for every field."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, (Mapping, ml_collections.ConfigDict)):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def to_json(config: ml_collections.ConfigDict) -> str:
    """Return the config as JSON that `from_json` reads back."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def from_json(text: str | bytes, *, trusted: bool = False) -> ml_collections.ConfigDict:
    """Return the config that `to_json` wrote. A field that it lacks gets its default.

    Args:
      trusted: whether code that it names may be imported. Code that this process has imported already is used.

    Raises:
      ConfigError: the text is not JSON, has fields that this version does not know, or names code that is not trusted.
    """
    try:
        stored = flatten(json.loads(text))
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"the run's config.json can't be read: {error}. Fix: restore it from a copy") from error
    foreign = {f: name for f, name in catalogue.dotted_names(stored).items() if name not in catalogue.ENTRIES[f]}
    if foreign and not trusted:
        named = ", ".join(f"{field}={name}" for field, name in foreign.items())
        raise ConfigError(
            f"the run's config.json names code from outside saddle_jax ({named}), and importing it runs it. "
            "Fix: add --import_code if you trust it, or repeat the command that trained the run"
        )
    config = schema.default_config(stored)
    known = flatten(config)
    if unknown := sorted(set(stored) - set(known)):
        raise ConfigError(
            f"the run's config.json has fields that this version does not know: {', '.join(unknown)}. "
            "Fix: use the version of saddle_jax that wrote it, which run.json names"
        )
    with config.ignore_type():
        config.update_from_flattened_dict({key: _as_tuples(value) for key, value in stored.items()})
    return config


def differences(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Return {field: (old, new)} for every field that has changed although a resumed run may not change it."""
    before, after = flatten(old), flatten(new)
    fixed = schema.fixed_fields(before) | schema.fixed_fields(after)
    return {name: (before.get(name), after.get(name)) for name in sorted(fixed) if before.get(name) != after.get(name)}


def fingerprint(config: ml_collections.ConfigDict) -> str:
    """Return eight hex digits that are equal for runs that differ only in the seed."""
    flat = flatten(config)
    fields = {name: flat[name] for name in schema.fixed_fields(flat) if name != "seed"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


def default_workdir(config: ml_collections.ConfigDict) -> str:
    """Return the directory that the same config and (first) seed always get."""
    first = "s" if config.num_seeds == 1 else "from-s"
    return f"runs/{config.name}-{fingerprint(config)}-{first}{config.seed}"


def has_saved(config: ml_collections.ConfigDict, workdir: str | pathlib.Path | None) -> bool:
    """Return whether the config's run has a checkpoint.

    Args:
      config: before it is fitted to its images, which may change the run's default name.
      workdir: the run's directory; by default, any in runs/ whose run began with the same file of weights.
    """
    folders = [pathlib.Path(workdir).expanduser()] if workdir else [*pathlib.Path("runs").glob("*")]
    for run in (run for folder in folders for run in (folder, *folder.glob("seed-*"))):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            if not any((run / "checkpoints").iterdir()):
                continue
            stored = (run / "config.json").read_bytes()
            if workdir or json.loads(stored)["model"]["weights"] == config.model.weights:
                return True
    return False


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
