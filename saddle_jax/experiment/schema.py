"""All fields of an experiment: those that every config has, and those of the catalogue's entries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError
from saddle_jax.experiment import catalogue
from saddle_jax.experiment.catalogue import ENTRIES
from saddle_jax.experiment.fields import Field
from saddle_jax.experiment.groups.data import DATA
from saddle_jax.experiment.groups.model import MODEL
from saddle_jax.experiment.groups.run import RUN
from saddle_jax.experiment.groups.spectra import SPECTRA
from saddle_jax.experiment.groups.training import EVAL, LOSS, OPTIM

GROUPS: dict[str, Mapping[str, Field]] = {
    "": RUN,
    "data": DATA,
    "model": MODEL,
    "loss": LOSS,
    "optim": OPTIM,
    "eval": EVAL,
    "spectra": {name: dataclasses.replace(field, may_change=True) for name, field in SPECTRA.items()},
}


def fields_of(values: Mapping[str, Any] | None = None) -> dict[str, Field]:
    """Return every field by its full name, such as "data.ratio".

    Args:
      values: those of a config. The fields of a user's own entries that it names are included.

    Raises:
      ConfigError: a user's own entry can't be imported, or has the name of an existing group.
    """
    fields = {full_name(group, name): field for group, members in GROUPS.items() for name, field in members.items()}
    for entries in ENTRIES.values():
        for name, entry in entries.items():
            if not catalogue.is_dotted(name):
                fields |= catalogue.own_fields(name, entry)
    for choice_field, name in catalogue.dotted_names(values or {}).items():
        group, entry = catalogue.group_of(name), catalogue.find(choice_field, name)
        if taken := [field for field in fields if field == group or field.startswith(f"{group}.")]:
            raise ConfigError(
                f"{choice_field}: the fields of {name} would be config.{group}.…, which exists already ({taken[0]}). "
                "Fix: rename the entry"
            )
        fields |= catalogue.own_fields(name, entry)
    return fields


def default_config(values: Mapping[str, Any] | None = None) -> ConfigDict:
    """Return the defaults of all fields. `values` and errors are those of `fields_of`."""
    return ConfigDict(nested({name: field.default for name, field in fields_of(values).items()}))


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"data": {"ratio": 100.0}} for {"data.ratio": 100.0}, and so on."""
    tree: dict[str, Any] = {}
    for full_name, value in flat.items():
        group, _, name = full_name.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[name] = value
    return tree


def fixed_fields(values: Mapping[str, Any]) -> set[str]:
    """Return the fields of a config that a resumed run may not change, since training depends on them.

    They include unknown fields, such as those of a user's own entry that was not imported.
    """
    known = fields_of() | own_fields(values)
    return {name for name in values if name not in known or not known[name].may_change}


def own_fields(values: Mapping[str, Any]) -> dict[str, Field]:
    """Return the fields of the user's own entries that a config names, as far as they have been imported."""
    fields: dict[str, Field] = {}
    for choice_field, name in catalogue.dotted_names(values).items():
        if name in ENTRIES[choice_field]:
            fields |= catalogue.own_fields(name, ENTRIES[choice_field][name])
    return fields


def full_name(group: str, name: str) -> str:
    """Return "data.ratio" for the field "ratio" of the group "data"; the run's own group is ""."""
    return f"{group}.{name}" if group else name
