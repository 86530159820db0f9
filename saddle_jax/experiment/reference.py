"""docs/reference.md: every field and every choice, derived from the catalogue.

python -m saddle_jax.experiment.reference > docs/reference.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from saddle_jax.experiment import schema
from saddle_jax.experiment.catalogue import ENTRIES, Entry, own_fields
from saddle_jax.experiment.fields import Field
from saddle_jax.experiment.help import TITLES, described

_START = """# Every field and every choice

Set a field with `--config.FIELD=VALUE`, or in an experiment's file. `saddle-jax --help TOPIC` prints parts of this page
in a terminal. The page is generated: `python -m saddle_jax.experiment.reference > docs/reference.md`.
"""


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join([_START, *_choices(), *_groups()])


def _choices() -> Iterator[str]:
    for choice, entries in ENTRIES.items():
        yield f"## {TITLES[choice].capitalize()}: `{choice}`\n"
        yield "| name | what it is | published |"
        yield "|---|---|---|"
        for name, entry in entries.items():
            yield f"| `{name}` | {entry.summary}{_needs(entry)} | {entry.paper} |"
        yield ""
        for name, entry in entries.items():
            if entry.fields:
                yield f"Fields of `{name}`:\n"
                yield from _table(own_fields(name, entry))


def _needs(entry: Entry) -> str:
    needs = ", ".join(f"`{field}={value}`" for field, (value, _) in entry.requires.items())
    return f"; needs {needs}" if needs else ""


def _groups() -> Iterator[str]:
    for group, members in schema.GROUPS.items():
        yield f"## Fields of {f'`{group}`' if group else 'the run'}\n"
        yield from _table({schema.full_name(group, name): field for name, field in members.items()})


def _table(fields: Mapping[str, Field]) -> Iterator[str]:
    yield "| field | default | what it is |"
    yield "|---|---|---|"
    for name, field in fields.items():
        words = f"{field.help}. {described(field)}".replace("|", "\\|")
        yield f"| `{name}` | `{field.default!r}` | {words} |"
    yield ""


if __name__ == "__main__":
    print(page().rstrip())
