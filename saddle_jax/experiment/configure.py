"""One config from a file or a run, the values that a user sets on top, and what is wrong with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from saddle_jax.errors import ConfigError, did_you_mean
from saddle_jax.experiment import arguments, catalogue, config_file, schema
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.catalogue import published
from saddle_jax.experiment.checks import problems_of
from saddle_jax.experiment.fields import described_type

NeedsWeights = Callable[[ConfigDict], bool]
_PROGRAM = "main.py"  # config_flags wants a name


class Configured(NamedTuple):
    """A config with the user's values."""

    config: ConfigDict
    problems: list[str]
    notes: list[str]  # what was chosen from the images, and why


def from_file(name: str, overrides: Sequence[str] = (), needs_weights: NeedsWeights | None = None) -> Configured:
    """Return the config that `FILE[:ARGUMENTS]` names, with `--config.FIELD=VALUE` overrides.

    Args:
      name: of the file, with the recipe's arguments.
      overrides: the values that the user sets on top.
      needs_weights: whether a run of the config needs the file of its first weights. If so, it is looked for before
        the images are.

    Raises:
      ConfigError: the file can't be loaded.
      DataError: the config is to fit images that can't be used.
    """
    loaded = _with_own_fields(config_file.load(name), ())
    # Fields that the file sets to no effect. Other problems also show in the final config, unless overrides fix them.
    in_vain = [problem for problem in problems_of(loaded) if problem not in problems_of(loaded, loaded)]
    return _configure(loaded, overrides, in_vain, arguments.fields_of(name.partition(":")[2]), needs_weights)


def of_run(content: bytes, overrides: Sequence[str] = (), *, trusted: bool = False) -> Configured:
    """Return the config in a run's config.json, with overrides; see `config.from_json`."""
    return _configure(config_lib.from_json(content, trusted=trusted), overrides, [])


def from_python(config: str | ConfigDict, fields: Mapping[str, Any], needs_weights: NeedsWeights) -> Configured:
    """Return the config that a Python program names or gives, with the values that it sets by the fields' names.

    Args:
      config: a name as `from_file` takes it, or a config.
      fields: values by field.
      needs_weights: as `from_file` takes it.

    Raises:
      ConfigError: reports everything that is wrong.
      DataError: the config is to fit images that can't be used.
    """
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    if isinstance(config, str):
        found = from_file(config, overrides, needs_weights)
    else:
        found = _configure(_with_own_fields(config, ()), overrides, [], (), needs_weights)
    if found.problems:
        raise ConfigError(list(dict.fromkeys(found.problems)))
    return found


def _configure(
    loaded: ConfigDict,
    overrides: Sequence[str],
    own: list[str],
    given: Collection[str] | None = None,
    needs_weights: NeedsWeights | None = None,
) -> Configured:
    """Return the config with the overrides.

    Args:
      own: problems of the config before them.
      given: fields that the recipe's arguments set, so that `data.fit_to_images` leaves them alone; None: a run's
        config, which fits its images already.
      needs_weights: see `from_file`.
    """
    overrides = list({_field_of(override): override for override in overrides}.values())  # the last of each field
    base = _with_own_fields(loaded, overrides)
    wrong = {o: problem for o in overrides if (problem := _override_problem(o, base))}
    config = _overridden([o for o in overrides if o not in wrong], base)
    problems, notes = list(wrong.values()), list[str]()
    if given is not None and config.data.fit_to_images and not wrong:
        if needs_weights and needs_weights(config):
            problems += published.missing(config_lib.flatten(config))
        if not problems:
            notes = catalogue.fit(config, {*given, *map(_field_of, overrides)})
    return Configured(config, [*problems, *own, *problems_of(config, base)], notes)


def _with_own_fields(loaded: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Return the config with the fields of the user's own entries that are still chosen after the overrides."""
    base, values = loaded.copy_and_resolve_references(), config_lib.flatten(loaded)
    chosen = dict(values)
    for override in overrides:
        if (name := _field_of(override)) in catalogue.ENTRIES and name in values:
            chosen[name] = override.partition("=")[2]
    for choice, name in catalogue.dotted_names(chosen).items():
        with contextlib.suppress(ConfigError):  # the checks report what is wrong with it
            catalogue.find(choice, name)
    before, after = schema.own_fields(values), schema.own_fields(chosen)
    with base.unlocked():
        for group in {field.partition(".")[0] for field in before.keys() - after.keys()}:
            del base[group]
        base.update(schema.nested({field: after[field].default for field in after.keys() - values.keys()}))
    return base


def _overridden(overrides: Sequence[str], base: ConfigDict) -> ConfigDict:
    """Return a copy of the config with the fields that `--config.FIELD=VALUE` set."""
    values, argv = flags.FlagValues(), [_PROGRAM, *overrides]
    config_flags.DEFINE_config_dict(
        "config", base.copy_and_resolve_references(), sys_argv=argv, flag_values=values, lock_config=True
    )
    values(argv)
    return values.config


def _field_of(override: str) -> str:
    return override.lstrip("-").partition("=")[0].removeprefix("no").removeprefix("config.")


def _override_problem(override: str, base: ConfigDict) -> str | None:
    name, known = _field_of(override), config_lib.flatten(base)
    if name not in known:
        if any(field.startswith(name + ".") for field in known):
            return f"--config.{name} is a group of fields; set one of them, e.g. --config.{name}.…"
        ends = [field for field in known if field.rpartition(".")[2] == name.rpartition(".")[2]]
        hint = f" Did you mean {' or '.join(ends)}?" if ends else did_you_mean(name, known)
        if name in arguments.FIELDS:
            hint = f" Fix: --config.{arguments.FIELDS[name]}, or --config FILE:{name}=..."
        return f"--config.{name}: there is no such field.{hint}"
    try:
        _overridden([override], base)
    except Exception:  # config_flags raises many kinds
        return f"--config.{name}: found {override.partition('=')[2]!r}, expected {described_type(known[name])}"
    return None
