"""The arguments after the colon of `--config FILE:ARGUMENTS`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from saddle_jax.errors import ConfigError, did_you_mean


class Options(NamedTuple):
    """The options given to an experiment file after the colon."""

    method: str | None
    ratio: float | None
    profile: str | None
    epochs: int | None
    smoke: bool
    chosen: dict[str, str]  # values of the experiment's own options


FIELDS = {"epochs": "duration", "ratio": "data.ratio", "profile": "data.profile"}  # option -> the field that it sets


def fields_of(argument: str) -> set[str]:
    """Return the fields that the options in `argument` set."""
    keys = (part.strip().partition("=")[0] for part in argument.split(","))
    return {FIELDS[key] for key in keys if key in FIELDS}


def parse_argument(
    argument: str, methods: Iterable[str], choices: Mapping[str, Sequence[str]] | None = None, *, shown: str = ""
) -> Options:
    """Read comma-separated options in any order: a method, `smoke`, `ratio=`, `profile=`, `epochs=`, and `choices`.

    Args:
      argument: the text after the colon of --config.
      methods: names of the methods.
      choices: the experiment's own options, each with the values that it can have. Its key may be left out: net=a, a.
      shown: how a message lists the methods; "" names all.

    Raises:
      ConfigError: every option that can't be read.
    """
    choices = choices or {}
    words = {value: key for key, values in choices.items() for value in values}
    found: dict[str, Any] = {}
    problems: list[str] = []

    def take(key: str, value: Any, text: str):
        if key in found:
            problems.append(f"config argument: {text!r} sets {key} a second time. Fix: keep one")
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
        elif text in words:
            take(words[text], text, text)
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
