"""The experiment as data: arguments after the colon, durations in steps, names and fingerprints. Needs no JAX."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from saddle_jax.errors import ConfigError
from saddle_jax.experiment.durations import parse_duration

# What may differ when a run is continued: none of it changes what is trained. A name that ends in a dot is a group.
MAY_CHANGE_ON_RESUME = (
    "name",
    "checkpoint_every",
    "log_every",
    "steps_at_once",
    "compilation_cache",
    "watchdog_secs",
    "num_seeds",
    "seeds_at_once",
    "eval.every",
    "eval.batch_size",
    "data.path",
    "data.root",
    "data.train_list",
    "data.validation_list",
    "data.test_list",
    "data.pipeline",
    "data.max_bad_fraction",
    "data.check_decode",
    "model.remat",
    "model.kernels",
    "tensorboard",
    "spectra.",
)


def rescale_to_percent(config: ml_collections.ConfigDict) -> None:
    """Write every position that `config` gives in epochs as a part of the run, so that its length can change.

    Does nothing to a run whose length is given in steps: how long an epoch of it is, only its data tell.
    """
    total, unit = parse_duration(config.duration)
    if unit != "epochs":
        return

    def percent(position: Any) -> Any:
        duration = parse_duration(position)
        return f"{100 * duration.amount / total:g}%" if duration.unit == "epochs" else position

    config.optim.lr_knots = tuple((percent(position), value) for position, value in config.optim.lr_knots)
    config.sam.rho_knots = tuple((percent(position), value) for position, value in config.sam.rho_knots)
    config.loss.drw_start = percent(config.loss.drw_start)
    config.sse_sam.switch_at = percent(config.sse_sam.switch_at)


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


def from_json(text: str | bytes, default: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Read what `to_json` wrote into the fields of `default`.

    Raises:
      ConfigError: the text is no JSON, or has fields that this version does not know.
    """
    try:
        stored = flatten(json.loads(text))
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"the run's config.json can't be read: {error}") from error
    known = flatten(default)
    unknown = sorted(set(stored) - set(known))
    if unknown:
        raise ConfigError(f"the run's config.json has fields that this version does not know: {', '.join(unknown)}")
    config = default.copy_and_resolve_references()
    with config.ignore_type():
        config.update_from_flattened_dict({key: _as_tuples(value) for key, value in stored.items()})
    return config


def differences(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Return {field: (old, new)} for every field that may not change when a run is continued and has."""
    before, after = flatten(old), flatten(new)
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if not may_change(key) and before.get(key) != after.get(key)
    }


def fingerprint(config: ml_collections.ConfigDict) -> str:
    """Return eight hex digits that are equal for runs that differ in the seed only."""
    fields = {k: v for k, v in flatten(config).items() if k != "seed" and not may_change(k)}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


def default_workdir(config: ml_collections.ConfigDict) -> str:
    """Return the directory that the same config and (first) seed always get."""
    first = "s" if config.num_seeds == 1 else "from-s"
    return f"runs/{config.name}-{fingerprint(config)}-{first}{config.seed}"


def may_change(field: str) -> bool:
    """Return whether a run may go on with another value of the field."""
    return field in MAY_CHANGE_ON_RESUME or field.partition(".")[0] + "." in MAY_CHANGE_ON_RESUME


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
