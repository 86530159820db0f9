"""The experiment as data: arguments after the colon, durations in steps, names and fingerprints. Needs no JAX."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from saddle_jax.errors import ConfigError

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

# Fields of runs from before optim.name, and what says the same now.
REPLACED = {"sam.enabled": "optim.name=sam, or sgd", "sam.adaptive": "optim.name=asam", "sam.adaptive_eta": "asam.eta"}

_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|steps?|epochs?)\s*$")


class Options(NamedTuple):
    """What an experiment file was asked for after the colon."""

    method: str | None
    ratio: float | None
    profile: str | None
    epochs: int | None
    smoke: bool
    chosen: dict[str, str]  # of the experiment's own choices, those that were made


class Duration(NamedTuple):
    """A length or a position in the run: `amount` of `unit` (steps, epochs or %)."""

    amount: float
    unit: str

    def steps(self, steps_per_epoch: int, total_steps: int | None = None) -> int:
        """Return the nearest whole number of steps; a part of the run needs `total_steps`."""
        if self.unit == "steps":
            return round(self.amount)
        if self.unit == "epochs":
            return round(self.amount * steps_per_epoch)
        if total_steps is None:
            raise ValueError("a percentage needs the length of the run")
        return round(self.amount / 100 * total_steps)


def parse_duration(value: Any) -> Duration:
    """Read "200 epochs", "3000 steps", "80%", or a bare number of epochs.

    Raises:
      ValueError: it is none of them.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return Duration(float(value), "epochs")
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"found {value!r}, expected a duration such as '200 epochs', '3000 steps' or '80%'")
    unit = match[2] if match[2] == "%" else match[2].rstrip("s") + "s"
    return Duration(float(match[1]), unit)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" where a known word is near, and nothing where none is."""
    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def parse_argument(
    argument: str, methods: Iterable[str], choices: Mapping[str, Sequence[str]] | None = None, *, shown: str = ""
) -> Options:
    """Read comma-separated options in any order: a method, `smoke`, `ratio=`, `profile=`, `epochs=`, and `choices`.

    Args:
      argument: what stood after the colon of --config.
      methods: their names.
      choices: the experiment's own options, each with the values that it can have.
      shown: the methods in a message; "" names all.

    Raises:
      ConfigError: every option that can't be read.
    """
    choices = choices or {}
    found: dict[str, Any] = {}
    problems: list[str] = []

    def take(key: str, value: Any, text: str):
        if key in found:
            problems.append(f"config argument: {text!r} says {key} a second time; keep one")
        found[key] = value

    for text in filter(None, (part.strip() for part in argument.split(","))):
        key, separator, value = text.partition("=")
        if text == "smoke":
            take("smoke", True, text)
        elif text in methods:
            take("method", text, text)
        elif separator and key == "ratio":
            try:
                take("ratio", float(value), text)
            except ValueError:
                problems.append(f"config argument: found ratio={value!r}, expected a number such as ratio=100")
        elif separator and key == "epochs":
            if value.isdecimal() and int(value):
                take("epochs", int(value), text)
            else:
                problems.append(f"config argument: found epochs={value!r}, expected a whole number such as epochs=400")
        elif separator and key == "profile":
            take("profile", value, text)
        elif separator and value in choices.get(key, ()):
            take(key, value, text)
        else:
            own = [f"{key}={value}" for key, values in choices.items() for value in values]
            known = [*methods, "smoke", "ratio=100", "profile=exp", "epochs=400", *own]
            problems.append(
                f"config argument: unknown {text!r}.{did_you_mean(text, known)} "
                f"Known: smoke, ratio=, profile=, epochs=, {', '.join([*own, shown or ', '.join(methods)])}"
            )
    if problems:
        raise ConfigError(problems)
    chosen = {key: found[key] for key in choices if key in found}
    plain = {key: found.get(key) for key in ("method", "ratio", "profile", "epochs")}
    return Options(**plain, smoke=found.get("smoke", False), chosen=chosen)


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
        stored = renamed(flatten(json.loads(text)))
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


def renamed(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a run of any version under the names that they have in this one."""
    fields = {key: value for key, value in stored.items() if key not in REPLACED}
    if "sam.enabled" in stored:
        adaptive = bool(stored.get("sam.adaptive"))
        fields["optim.name"] = "sgd" if not stored["sam.enabled"] else "asam" if adaptive else "sam"
        if fields["optim.name"] == "asam" and "sam.adaptive_eta" in stored:
            fields["asam.eta"] = stored["sam.adaptive_eta"]
    return fields


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
