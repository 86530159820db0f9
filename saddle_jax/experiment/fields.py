"""The fields of an experiment: default, meaning, allowed values, and whether a resumed run may change them.

The functions below build fields, one function for each kind of value. Nothing here needs JAX.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from saddle_jax.errors import did_you_mean
from saddle_jax.experiment.durations import Duration, parse_duration

Knots = tuple[tuple[Any, float], ...]  # (position, value) pairs
_KNOTS_EXAMPLE = "((0, 0.1), (160, 0.001)) or (('0%', 0.1), ('80%', 0.001))"


def _no_problems(_: Any) -> Iterator[str]:
    return iter(())


@dataclasses.dataclass(frozen=True)
class Field:
    """A field. `problems` yields what is wrong with a value of the right type, without naming the field."""

    default: Any
    help: str  # what it is, with its unit
    expected: str = ""  # which values it takes, in words
    problems: Callable[[Any], Iterator[str]] = _no_problems
    may_change: bool = False  # when a run is resumed
    is_position: bool = False  # a position in the run, as a duration
    is_schedule: bool = False  # positions with values, see `schedule`

    def type_problem(self, value: Any) -> str | None:
        """Return what is wrong with the type of a value, or None."""
        kind = type(self.default)
        fits = isinstance(value, (int, float) if kind is float else kind)
        if fits and not (isinstance(value, bool) and kind is not bool):
            return None
        return f"found {value!r}, expected {described_type(self.default)}"


_TYPES = {int: "a whole number", float: "a number", bool: "True or False", str: "text", tuple: "a tuple"}


def described_type(example: Any) -> str:
    """Return "a whole number such as 3", or the like, for a value that is like the example."""
    return f"{_TYPES.get(type(example), type(example).__name__)} such as {example!r}"


def number(
    default: float,
    help: str,
    *,
    at_least: float | None = None,
    more_than: float | None = None,
    at_most: float | None = None,
    less_than: float | None = None,
    unit: str = "",
    zero: str = "",
    may_change: bool = False,
) -> Field:
    """Return a field for a number, or for a whole number if the default is an int.

    Args:
      unit: follows the bounds in messages.
      zero: what 0 stands for, if 0 is allowed in addition to the bounds, such as "for half of what is free".
    """
    bounds = [
        "" if at_least is None else f"{at_least:g} or more",
        "" if more_than is None else f"more than {more_than:g}",
        "" if at_most is None else f"at most {at_most:g}",
        "" if less_than is None else f"less than {less_than:g}",
    ]
    if at_least is not None and at_most is not None:
        bounds = [f"{at_least:g} to {at_most:g}"]
    expected = ", ".join(filter(None, bounds)) + (f" {unit}" if unit else "") + (f", or 0 {zero}" if zero else "")

    def problems(value: float) -> Iterator[str]:
        inside = (
            (at_least is None or value >= at_least)
            and (more_than is None or value > more_than)
            and (at_most is None or value <= at_most)
            and (less_than is None or value < less_than)
        )
        if not math.isfinite(value):
            yield f"found {value}, expected a finite number"
        elif not (inside or (zero and value == 0)):
            yield f"found {value!r}, expected {expected}"

    return Field(default, help, expected or "a finite number", problems, may_change)


def random_seed(help: str) -> Field:
    """Return a field for the seed of a random number generator."""

    def problems(value: int) -> Iterator[str]:
        if not 0 <= value < 2**32:
            yield f"found {value!r}, expected 0 to 2^32 - 1"

    return Field(0, help, "0 to 2^32 - 1", problems)


def flag(default: bool, help: str, *, may_change: bool = False) -> Field:
    """Return a field that is true or false."""
    return Field(default, help, "True or False", may_change=may_change)


def text(default: str, help: str, *, expected: str = "", may_change: bool = False, required: bool = False) -> Field:
    """Return a field for any text; `required` refuses an empty one."""

    def problems(value: str) -> Iterator[str]:
        if required and not value.strip(" ,"):
            yield f"found nothing, expected {expected}"

    return Field(default, help, expected, problems, may_change)


def choice(default: str, help: str, options: Sequence[str] | Mapping[str, str], *, may_change: bool = False) -> Field:
    """Return a field for one of a few words; a mapping says what each of them means."""

    def problems(value: str) -> Iterator[str]:
        if value not in options:
            yield f"found {value!r}, expected one of {', '.join(options)}.{did_you_mean(value, options)}"

    if isinstance(options, Mapping):
        help = "; ".join([help, *(f"{name}: {meaning}" for name, meaning in options.items() if meaning)])
    return Field(default, help, " | ".join(options), problems, may_change)


def entry_name(default: str, help: str, entries: Mapping[str, Any]) -> Field:
    """Return a field for the name of an entry of the catalogue, which checks the name."""
    return Field(default, help, " | ".join(entries))


def position(default: str, help: str) -> Field:
    """Return a field for a position in the run: "160 epochs", "3000 steps", "80%"."""

    def problems(value: str) -> Iterator[str]:
        yield from _duration_problems(value)

    return Field(default, help, "epochs, steps or a percentage of the run", problems, is_position=True)


def length(default: str, help: str, *, may_change: bool = False, never: bool = False, whole: bool = False) -> Field:
    """Return a field for a length of time: "5 epochs", "3000 steps", "10%".

    Args:
      never: "" is allowed, and means never.
      whole: it is the length of the whole run, so that a percentage makes no sense.
    """

    def problems(value: str) -> Iterator[str]:
        if never and not value:
            return
        if found := list(_duration_problems(value)):
            yield from found
        elif parse_duration(value).amount <= 0:
            yield f"found {value!r}, expected more than 0"
        elif whole and parse_duration(value).unit == "%":
            yield f"found {value!r}, expected epochs or steps (percentages refer to this length)"

    expected = "epochs or steps" if whole else "epochs, steps or a percentage of the run"
    return Field(default, help, expected + (", or '' for never" if never else ""), problems, may_change)


def schedule(default: float | Knots, help: str, *, of: str) -> Field:
    """Return a field for a value that may change during the run: a number, or ((position, value), ...).

    A bare number as a position counts epochs. `knots` reads the field's value.

    Args:
      of: what the value is, for messages.
    """

    def problems(value: Any) -> Iterator[str]:
        pairs = knots(value)
        if not pairs or not all(isinstance(knot, tuple) and len(knot) == 2 for knot in pairs):
            yield f"found {value!r}, expected a number, or (position, {of}) pairs such as {_KNOTS_EXAMPLE}"
            return
        for where, amount in pairs:
            yield from _duration_problems(where)
            if not _is_number(amount) or amount < 0:
                yield f"found {of} {amount!r}, expected a finite number of 0 or more"

    start = default if isinstance(default, tuple) else (float(default),)
    return Field(start, help, "a number, or ((position, value), ...)", problems, is_schedule=True)


def interpolation(default: str = "constant") -> Field:
    """Return the field that says how a schedule goes from knot to knot."""
    return choice(default, "how the value changes between positions; it is constant within an epoch", INTERPOLATIONS)


INTERPOLATIONS = ("constant", "linear", "cosine")


def knots(value: Any) -> Knots:
    """Return the (position, value) pairs of a schedule; a number, alone or in a tuple, holds from the start."""
    if _is_number(value):
        return ((0, value),)
    if isinstance(value, tuple) and len(value) == 1 and _is_number(value[0]):
        return ((0, value[0]),)
    return value


def items(default: tuple, help: str, *, expected: str, is_sound: Callable[[tuple], bool]) -> Field:
    """Return a field for a tuple of values."""

    def problems(value: tuple) -> Iterator[str]:
        if not is_sound(value):
            yield f"found {value!r}, expected {expected}"

    return Field(default, help, expected, problems)


def positions(help: str) -> Field:
    """Return a field for any number of positions in the run, none by default."""

    def problems(value: tuple) -> Iterator[str]:
        for one in value:
            yield from _duration_problems(one)

    return Field((), help, "a tuple of positions", problems)


def order_problems(positions: Sequence[Duration], total: Duration, starts: str) -> Iterator[str]:
    """Yield what is wrong with the order of a schedule's knots; `starts` is what begins at the first one."""
    if positions[0].amount != 0:
        yield f"the first knot is at {_shown(positions[0])}, expected 0, where the {starts} starts"
    fractions = [fraction(one, total) for one in positions]
    known = [part for part in fractions if part is not None]
    if any(later <= earlier for earlier, later in zip(known, known[1:], strict=False)):
        yield f"positions must rise, found {', '.join(map(_shown, positions))}"
    for one, part in zip(positions, fractions, strict=True):
        if part is not None and part > 1:  # an interpolation may end with a knot at the very end
            yield f"{_shown(one)} is past the end ({_shown(total)}). Fix: use percentages or lower the knot"


def fraction(position: Duration, total: Duration) -> float | None:
    """Return a position as a part of the run, or None if only the data set can tell."""
    if position.amount == 0:
        return 0.0
    if position.unit == "%":
        return position.amount / 100
    return position.amount / total.amount if position.unit == total.unit else None


def is_numbers(value: tuple) -> bool:
    """Return whether a tuple has at least one element and only finite numbers."""
    return bool(value) and all(map(_is_number, value))


def _shown(duration: Duration) -> str:
    return f"{duration.amount:g}{'' if duration.unit == '%' else ' '}{duration.unit}"


def _duration_problems(value: Any) -> Iterator[str]:
    try:
        parse_duration(value)
    except ValueError as error:
        yield str(error)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
