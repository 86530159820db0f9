"""The catalogue of all that a config chooses by name: losses, links, methods, networks, sources. Needs no JAX.

An entry owns its fields, its requirements on other fields, its paper, and the function that makes it. Everything else
that depends on the choice (the config, checks, help, the tables in docs/) is derived from the entry. A name with a
colon, "package.module:entry", is a user's own entry, which this module imports.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import os
import pathlib
import pkgutil
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError, did_you_mean
from saddle_jax.experiment.catalogue.augmentations import AUGMENTATIONS, view_augmentations
from saddle_jax.experiment.catalogue.entry import Entry, Link, Loss, Method, Network, Source, Values, resolve
from saddle_jax.experiment.catalogue.links import LINKS
from saddle_jax.experiment.catalogue.losses import LOSSES, WEIGHTINGS
from saddle_jax.experiment.catalogue.methods import METHODS
from saddle_jax.experiment.catalogue.networks import NETWORKS
from saddle_jax.experiment.catalogue.sources import SOURCES, images_stay_encoded
from saddle_jax.experiment.fields import Field

__all__ = [
    "AUGMENTATIONS",
    "WEIGHTINGS",
    "Entry",
    "Link",
    "Loss",
    "Method",
    "Network",
    "Source",
    "Values",
    "images_stay_encoded",
    "view_augmentations",
]

# The field that chooses -> the entries it can choose. A user's own entries join them once they are imported.
ENTRIES: dict[str, dict[str, Any]] = {
    Method.choice: METHODS,
    Loss.choice: LOSSES,
    Link.choice: LINKS,
    Network.choice: NETWORKS,
    Source.choice: SOURCES,
}
_KINDS: dict[str, type[Entry]] = {kind.choice: kind for kind in (Method, Loss, Link, Network, Source)}
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def find(choice: str, name: str) -> Any:
    """Return the entry that `name` stands for in the field `choice`.

    Raises:
      ConfigError: there is no such entry, a user's own can't be imported, or it is not an entry of this kind.
    """
    entries = ENTRIES[choice]
    if name in entries:
        return entries[name]
    if ":" not in name and "." in name:
        raise ConfigError(f"{choice}: found {name!r}, expected package.module:name, with a colon before the name")
    if ":" not in name:
        raise ConfigError(
            f"{choice}: found {name!r}, expected one of {', '.join(entries)}.{did_you_mean(name, entries)}"
        )
    entries[name] = _import(choice, name)
    return entries[name]


def make(choice: str, name: str, *arguments: Any) -> Any:
    """Return what the entry builds from the arguments.

    Raises:
      ConfigError: a user's own entry fails.
    """
    with own_code(choice, name):
        return find(choice, name).maker()(*arguments)


def fit(config: ConfigDict, given: Collection[str]) -> list[str]:
    """Let the source of the images set the fields that are not in `given`. Return what it chose, and why.

    Raises:
      DataError: the images can't be used.
    """
    entry = find("data.source", config.data.source)
    return resolve(entry.fit)(config, given) if isinstance(entry, Source) and entry.fit else []


@contextlib.contextmanager
def own_code(choice: str, name: str) -> Iterator[None]:
    """Report an error in a user's own code as one problem that names the entry."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if not is_dotted(name):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{choice}: {name} fails: {type(error).__name__}: {error} ({where.filename}, line {where.lineno}). "
            "Fix: correct this code; docs/extending.md shows its arguments and results"
        ) from error


def is_dotted(name: Any) -> bool:
    """Return whether a name is that of a user's own entry, "package.module:entry"."""
    return isinstance(name, str) and ":" in name


def dotted_names(values: Mapping[str, Any]) -> dict[str, str]:
    """Return {field: name} for the choices that name a user's own entry, among the values of all fields."""
    return {choice: values[choice] for choice in ENTRIES if is_dotted(values.get(choice))}


def group_of(name: str) -> str:
    """Return the group of an entry's own fields in a config: its name, or a dotted name's part after the colon."""
    return name.rpartition(":")[2]


def title_of(values: Values) -> str:
    """Return what tables and figures call an experiment: its method, or loss and class weights, and its link.

    An example is "CE + DRW + SAM". An unknown name, such as that of another version, stands for itself.
    """
    weights = values["loss.class_weights"]
    parts = [_title(Method.choice, values)]
    if values[Method.choice] == "plain":
        parts = [_title(Loss.choice, values), WEIGHTINGS[weights].title if weights in WEIGHTINGS else weights]
    if values[Link.choice] != "sgd":
        parts.append(_title(Link.choice, values))
    return " + ".join(filter(None, parts))


def _title(choice: str, values: Values) -> str:
    entry = ENTRIES[choice].get(values[choice])
    return entry.title if entry and entry.title else group_of(values[choice])


def own_fields(name: str, entry: Entry) -> dict[str, Field]:
    """Return the entry's own fields by their full names in a config."""
    return {f"{group_of(name)}.{field}": its for field, its in entry.fields.items()}


def code_of(name: str) -> dict[str, str | None]:
    """Return the name, file, hash, and version that identify the code of a dotted name, which has been imported."""
    module = sys.modules[name.partition(":")[0]]
    file = getattr(module, "__file__", None)
    package = module.__name__.partition(".")[0]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = getattr(sys.modules.get(package), "__version__", None)
    digest = hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest() if file else None
    return {"name": name, "file": file, "sha256": digest, "version": version}


def other_groups(choice: str, name: str) -> dict[str, str]:
    """Return the groups of the entries that `choice` could name instead of `name`, as {group: name of the entry}."""
    groups = {group_of(other): other for other in ENTRIES[choice]}
    return {group: other for group, other in groups.items() if group != group_of(name)}


def chosen(values: Values) -> tuple[dict[str, Entry], list[str]]:
    """Return the entry that each choosing field names, by field, and the problems of those that can't be found."""
    entries, problems = {}, []
    for choice in ENTRIES:
        try:
            entries[choice] = find(choice, str(values.get(choice, "")))
        except ConfigError as error:
            problems += error.problems
    return entries, problems


def _modules_of(package: str) -> list[str]:
    path = getattr(sys.modules[package], "__path__", [])
    return [f"{package}.{module.name}" for module in pkgutil.iter_modules(path)]


def _import(choice: str, name: str) -> Entry:
    kind = _KINDS[choice]
    example = f"such as --config.{choice}=my_package.my_module:my_{kind.__name__.lower()}"
    if not _DOTTED.fullmatch(name):
        raise ConfigError(f"{choice}: found {name!r}, expected a module and a name in it, {example}")
    module_name, _, attribute = name.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # a user's package may lie where the command is typed
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's own module raises
        fix = f"run the command in the folder that holds {module_name.partition('.')[0]}, or install it"
        if module_name.partition(".")[0] in sys.modules:  # the package is there, the module isn't
            fix = f"the name of a module in it.{did_you_mean(module_name, _modules_of(module_name.partition('.')[0]))}"
        raise ConfigError(
            f"{choice}: {module_name} can't be imported: {type(error).__name__}: {error}. Fix: {fix}"
        ) from error
    if not hasattr(module, attribute):
        hint = did_you_mean(attribute, [n for n in dir(module) if not n.startswith("_")])
        raise ConfigError(f"{choice}: {module_name} ({module.__file__}) has no {attribute!r}.{hint}")
    entry = getattr(module, attribute)
    if not isinstance(entry, kind):
        raise ConfigError(
            f"{choice}: {name} is a {type(entry).__name__}, expected a saddle_jax.experiment.catalogue.{kind.__name__}"
            " (docs/extending.md)"
        )
    return entry
