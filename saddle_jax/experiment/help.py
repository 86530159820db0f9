"""The text of `--help`: the whole command, or one topic: a mode, a flag, a field, a group of fields, or a choice."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from saddle_jax.errors import ConfigError, did_you_mean
from saddle_jax.experiment import catalogue, schema
from saddle_jax.experiment.catalogue import ENTRIES, Entry, Link
from saddle_jax.experiment.command_line import FLAGS, MODES
from saddle_jax.experiment.fields import Field

_FLAGS = ("--help", "-h", "-help", "--helpshort", "--helpfull", "-?")
TITLES = {
    "method": "methods",
    "loss.name": "losses",
    "optim.name": "links",
    "model.name": "networks",
    "data.source": "sources",
}

_EXAMPLES = (
    "saddle-jax --config cifar10_lt:ldam_drw_sam,ratio=100 --workdir runs/ldam",
    "saddle-jax --config digits_lt --config.seed=1 --config.sam.rho=0.2",
    "saddle-jax --mode eval --workdir runs/ldam",
    "saddle-jax --mode spectra --workdir runs/ldam --config.spectra.classes=0,7,8,9",
    "saddle-jax --mode report --runs 'runs/*'",
    "",
    "In a clone, python main.py is the same command. So is python -m saddle_jax.",
)
_CONFIG = {
    "--config FILE[:RECIPE]": "the experiment: one of the configs below, or a file of your own; by default digits_lt, "
    "or the config of the run in --workdir. The recipe's parts, in any order: LOSS or LOSS_LINK (such as "
    "ldam_drw_sam), ratio=, profile=, epochs=, smoke",
    "--config.FIELD=VALUE": "set one field; --help FIELD explains it",
    "--config.num_seeds=N": "train N runs, each in seed-<n>/ of the workdir, and print mean and standard deviation",
    "--config.start_from=RUN": "begin with the weights of another run that has the same network",
}
_HELP = {
    "--help TOPIC": "a mode (predict), a flag (adjust), a field (data.ratio), a group of fields (spectra), a choice "
    "(optim.name, loss), or one of its values (optim.sse_sam, loss.ldam, resnet32)"
}
_EXIT_CODES = {
    "0": "done",
    "2": "config or usage",
    "3": "data",
    "4": "checkpoint, or a disk that cannot be written",
    "5": "non-finite loss",
    "6": "workdir in use",
    "75": "preempted or stalled, resumable",
    "70": "internal",
}
_FLAGS_WITH_HELP = ("workdir", "import_code", *dict.fromkeys(flag for mode in MODES.values() for flag in mode.flags))
_TERMS = 25  # width of the column of terms
_NARROW = 60  # on a terminal with fewer columns, an explanation goes below its term


class Row(NamedTuple):
    """A line that may have to be wrapped."""

    start: str
    body: str = ""
    indent: int = 0  # of its continuation lines


def topics(argv: Sequence[str]) -> list[str] | None:
    """Return the topics that the command line asks help for, [] for the whole help, or None if it asks for no help."""
    if not any(argument.partition("=")[0] in _FLAGS for argument in argv[1:]):
        return None
    with_equals = [argument.partition("=")[2] for argument in argv[1:] if argument.startswith("--help=")]
    return [*with_equals, *(argument for argument in argv[1:] if not argument.startswith("-"))]


def text(asked: Sequence[str], shipped: Sequence[str], width: int = 80) -> str:
    """Return the help on some topics, or on the command, in lines of at most `width` columns.

    Raises:
      ConfigError: there is no such topic.
    """
    rows = [row for topic in asked for row in _topic(topic.removeprefix("config."))] if asked else _overview(shipped)
    return "\n".join(_wrapped(row, width) for row in rows)


def _overview(shipped: Sequence[str]) -> Iterator[Row]:
    yield Row("saddle_jax: long-tailed image classification with sharpness-aware minimization")
    yield from (Row(""), Row("Examples"), *(Row(f"  {line}".rstrip(), indent=4) for line in _EXAMPLES))
    yield from (Row(""), Row("Experiment"), *_terms(_CONFIG), *map(_flag, ("workdir", "import_code")))
    yield from (Row(""), Row("Modes"))
    for name, mode in MODES.items():
        own = ", ".join(f"--{flag}" for flag in mode.flags)
        yield _term(f"--mode {name}", f"{mode.does}. {own}" if own else mode.does)
    yield from (Row(""), Row("Flags of modes"))
    yield from map(_flag, _FLAGS_WITH_HELP[2:])
    choices = {TITLES[choice]: ", ".join(names) for choice, names in ENTRIES.items()}
    yield from (Row(""), Row("Choices"), *_terms({**choices, "configs": " ".join(shipped)}))
    yield from (Row(""), Row("Help"), *_terms(_HELP))
    yield from (Row(""), Row("Exit codes"), *_terms(_EXIT_CODES))


def _terms(terms: Mapping[str, str]) -> Iterator[Row]:
    return (_term(term, explained) for term, explained in terms.items())


def _term(term: str, explained: str) -> Row:
    return Row(f"  {term:{_TERMS}s} ", explained, _TERMS + 3)


def _flag(name: str) -> Row:
    """Return the help on a flag, which begins with its value if it takes one."""
    flag = FLAGS[name]
    value, _, explained = flag.help.partition(": ") if not flag.boolean else ("", "", flag.help)
    return _term(f"--{name} {value}".rstrip(), explained)


def _mode(name: str, fields: Mapping[str, Field]) -> Iterator[Row]:
    own = () if name == "report" else ("import_code",)
    yield Row(f"--mode {name}: ", f"{MODES[name].does}.", 2)
    yield Row("")
    if MODES[name].configured:
        yield from itertools.islice(_terms(_CONFIG), 2)  # without those that train several runs or start from another
    yield from map(_flag, ("workdir", *MODES[name].flags, *own))
    yield from _group(name, fields)


def _topic(topic: str) -> Iterator[Row]:
    if catalogue.is_dotted(topic):
        topic = _imported(topic)
    fields = schema.fields_of()
    choice = next((c for c in ENTRIES if topic in (c, c.partition(".")[0], TITLES[c])), None)
    name = topic.rpartition(".")[2] if ":" not in topic else topic
    if topic in MODES:
        yield from _mode(topic, fields)
    elif topic == "mode":
        yield from (_term(f"--mode {name}", mode.does) for name, mode in MODES.items())
    elif topic in _FLAGS_WITH_HELP:
        yield _flag(topic)
        yield Row(
            "  taken by --mode ", ", ".join(name for name, mode in MODES.items() if topic in mode.flags) or "any", 4
        )
    elif topic in fields and topic not in ENTRIES:
        yield from _field(topic, fields[topic])
    elif choice:
        yield Row(f"{choice}: ", fields[choice].help, 2)
        yield Row("")
        for one, entry in ENTRIES[choice].items():
            yield _term(one, entry.summary)
        yield from _group(choice.partition(".")[0], fields)
    elif found := [(c, one) for c, names in ENTRIES.items() for one in names if one == name and _is_of(topic, c)]:
        for its_choice, one in found:
            yield from _entry(its_choice, one, ENTRIES[its_choice][one])
    elif any(field.startswith(f"{topic}.") for field in fields):
        yield from _group(topic, fields)
    else:
        known = [
            *MODES,
            *_FLAGS_WITH_HELP,
            *fields,
            *(one for names in ENTRIES.values() for one in names),
            *TITLES.values(),
        ]
        raise ConfigError(f"--help: there is no topic {topic!r}.{did_you_mean(topic, known)}")


def _imported(topic: str) -> str:
    """Import a user's own entry, whatever its kind, and return its name."""
    problems = []
    for choice in ENTRIES:
        try:
            catalogue.find(choice, topic)
            return topic
        except ConfigError as error:
            problems = error.problems
    raise ConfigError(problems)


def _is_of(topic: str, choice: str) -> bool:
    prefix = "" if catalogue.is_dotted(topic) else topic.rpartition(".")[0]
    return prefix in ("", choice, choice.partition(".")[0])


def _entry(choice: str, name: str, entry: Entry) -> Iterator[Row]:
    yield Row(f"--config.{choice}={name}: ", f"{entry.summary}.", 2)
    if entry.paper:
        yield Row("  ", f"{entry.paper}.", 2)
    for field, (value, reason) in entry.requires.items():
        yield Row("  ", f"It needs {field}={value}: {reason}.", 2)
    for field, value in entry.settings.items():
        yield Row("  ", f"Recipes set {field}={value} with it.", 2)
    if isinstance(entry, Link) and entry.size:
        yield Row(f"  Its size is {name}.{entry.size}.")
    if entry.fields:
        yield Row("")
    for field, its in catalogue.own_fields(name, entry).items():
        yield from _field(field, its)


def _group(group: str, fields: Mapping[str, Field]) -> Iterator[Row]:
    members = {name: field for name, field in fields.items() if name.rpartition(".")[0] == group}
    if members:
        yield Row("")
    for name, field in members.items():
        yield from _field(name, field)


def _field(name: str, field: Field) -> Iterator[Row]:
    yield Row(f"  --config.{name}={field.default!r}")
    yield Row("      ", f"{field.help}. {described(field)}", 6)


def described(field: Field) -> str:
    """Return which values a field takes, and whether a resumed run may change it."""
    expected = f"Takes {field.expected}." if field.expected else "Takes any text."
    return expected + (" May change when a run is resumed." if field.may_change else "")


def _wrapped(row: Row, width: int) -> str:
    start, indent = row.start, row.indent
    above = ""
    if width < _NARROW and indent > _TERMS:
        above, start, indent = f"{start.rstrip()}\n", "      ", 6
    return above + textwrap.fill(
        start + row.body,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
