"""Find all problems that a config alone shows, in one pass, before JAX, TensorFlow, or any data is touched.

A check reads the values of fields by name. If one of those is wrong by itself, only that is reported.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError, did_you_mean
from saddle_jax.experiment import catalogue, schema
from saddle_jax.experiment.catalogue import Values
from saddle_jax.experiment.config import flatten
from saddle_jax.experiment.durations import parse_duration
from saddle_jax.experiment.fields import Field, fraction, knots, order_problems
from saddle_jax.experiment.image_checks import IMAGE_CHECKS
from saddle_jax.experiment.model_checks import MODEL_CHECKS


def problems_of(config: ConfigDict, base: ConfigDict | None = None) -> list[str]:
    """Return every problem that the config shows, each with what was found, what was expected, and the fix.

    Args:
      base: the config that the user's changes were made to; by default, the one with all defaults. A field that has no
        effect is refused if its value differs from that of `base`.
    """
    values = flatten(config)
    entries, problems = catalogue.chosen(values)
    try:
        fields = schema.fields_of({name: value for name, value in values.items() if name in entries})
    except ConfigError as error:
        problems += error.problems
        fields = schema.fields_of()
    wrong = dict(_wrong_values(values, fields))
    problems += [f"{field}: {problem}" for field, found in wrong.items() for problem in found]
    told = {problem.partition(":")[0] for problem in problems}
    problems = list(dict.fromkeys(problems))
    sound = _SoundValues(values, {*wrong, *told})
    for check in _checks(entries, fields):
        try:
            problems += check(sound)
        except _WrongByItself:
            continue
    reference = flatten(base) if base is not None else {name: field.default for name, field in fields.items()}
    problems += _without_effect(values, reference, entries)
    return problems


class _WrongByItself(Exception):
    """A check has read a field whose value is wrong by itself."""


class _SoundValues(Mapping[str, Any]):
    """Values by field. Reading one that is wrong or missing raises."""

    def __init__(self, values: Values, wrong: set[str]):
        self._values, self._wrong = values, wrong

    def __getitem__(self, field: str) -> Any:
        if field in self._wrong or field not in self._values:
            raise _WrongByItself(field)
        return self._values[field]

    def __contains__(self, field: object) -> bool:
        return field in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _wrong_values(values: Values, fields: Mapping[str, Field]) -> Iterator[tuple[str, list[str]]]:
    """Yield every field whose value is wrong by itself, and its problems."""
    for name in values.keys() - fields.keys():
        yield name, [f"there is no such field.{did_you_mean(name, fields)}"]
    for name, field in fields.items():
        if name not in values:
            yield name, ["missing. Fix: start from the default config (saddle_jax.experiment.schema)"]
        elif problem := field.type_problem(values[name]):
            yield name, [problem]
        elif found := list(field.problems(values[name])):
            yield name, found


def _checks(
    entries: Mapping[str, catalogue.Entry], fields: Mapping[str, Field]
) -> Iterator[Callable[[Values], Iterator[str]]]:
    """Yield all checks between fields: those of the entries that were chosen, then those of this file."""
    for choice, entry in entries.items():
        for field, (value, reason) in entry.requires.items():
            yield functools.partial(_required, choice, field, value, reason)
        yield from entry.problems
    yield from _schedules(fields)
    yield from _CHECKS


def _required(choice: str, field: str, value: Any, reason: str, values: Values) -> Iterator[str]:
    if values[field] != value:
        yield (
            f"{field}={values[field]!r} does not go with {choice}={values[choice]!r}: {reason}. "
            f"Fix: --config.{field}={value}"
        )


def _without_effect(values: Values, reference: Values, entries: Mapping[str, catalogue.Entry]) -> Iterator[str]:
    """Yield a problem for each field that was set although its entry was not chosen."""
    read = {field for entry in entries.values() for field in entry.reads}
    for choice in entries:
        others = catalogue.other_groups(choice, values[choice])
        for field in values:
            group = field.partition(".")[0]
            is_idle = group in others and field not in read
            if choice == "loss.name" and group == values.get("spectra.loss"):
                is_idle = False
            if is_idle and field in reference and values[field] != reference[field]:
                yield (
                    f"{field} has no effect with {choice}={values[choice]!r}. Fix: --config.{choice}={others[group]}, "
                    f"or --config.{field}={_as_flag(reference[field])}"
                )


def _as_flag(value: Any) -> str:
    return f"'{value}'" if isinstance(value, (tuple, str)) and not str(value).isalnum() else str(value)


def _spectra_of_method(values: Values) -> Iterator[str]:
    if values["spectra.loss"] == "training" and values["method"] != "plain":
        yield (
            f"spectra.loss='training' does not go with method={values['method']!r}, which has no loss of one image "
            "and its label. Fix: --config.spectra.loss=ce"
        )


def _spectra_requires(values: Values) -> Iterator[str]:
    name = values["spectra.loss"]
    if name in catalogue.ENTRIES["loss.name"]:
        for field, (value, reason) in catalogue.find("loss.name", name).requires.items():
            if values[field] != value:
                yield (
                    f"spectra.loss={name!r} needs {field}={value!r} (found {values[field]!r}): {reason}. "
                    "Fix: another spectra.loss"
                )


def _spectra_scale(values: Values) -> Iterator[str]:
    if values["spectra.logit_scale"] and values["model.head"] != "normed":
        yield "spectra.logit_scale has no effect with model.head='linear'. Fix: --config.spectra.logit_scale=0"


def _spectra_positions(values: Values) -> Iterator[str]:
    total = parse_duration(values["duration"])
    for position in map(parse_duration, values["spectra.at"]):
        part = fraction(position, total)
        if part is not None and part > 1:
            yield (
                f"spectra.at: {position.amount:g} {position.unit} is past the end ({values['duration']}). "
                "Fix: a position within the run"
            )


def _onednn(values: Values) -> Iterator[str]:
    if values["model.kernels"] == "onednn" and importlib.util.find_spec("saddle_kernels") is None:
        yield (
            "model.kernels='onednn' needs the package saddle_kernels, which is not installed. Fix: pip install "
            "./native, or --config.model.kernels=auto"
        )


def _tracker(values: Values) -> Iterator[str]:
    name = values["tracker"]
    found = None if name == "none" else importlib.util.find_spec(name)
    if name != "none" and (found is None or found.origin is None):  # W&B's folders named wandb look like the package
        yield (
            f"tracker={name!r} needs the package {name}, which is not installed. "
            f'Fix: pip install "saddle_jax[{name}]", or --config.tracker=none'
        )


def _profile(values: Values) -> Iterator[str]:
    if values["data.profile"] == "as_is" and values["data.largest_class"]:
        yield "data.largest_class has no effect with data.profile='as_is'. Fix: --config.data.largest_class=0"


def _schedules(fields: Mapping[str, Field]) -> Iterator[Callable[[Values], Iterator[str]]]:
    """Yield a check of the order of the knots for every schedule."""

    def check(name: str, values: Values) -> Iterator[str]:
        group, _, own = name.rpartition(".")
        if group in ("optim", catalogue.group_of(values["optim.name"])):
            positions = [parse_duration(position) for position, _ in knots(values[name])]
            for problem in order_problems(positions, parse_duration(values["duration"]), own):
                yield f"{name}: {problem}"

    for name, field in fields.items():
        if field.is_schedule:
            yield functools.partial(check, name)


def _drw_start(values: Values) -> Iterator[str]:
    if values["loss.class_weights"].endswith("drw"):
        start = fraction(parse_duration(values["loss.drw_start"]), parse_duration(values["duration"]))
        if start is not None and start >= 1:
            yield (
                f"loss.drw_start: {values['loss.drw_start']!r} is not before the end ({values['duration']}): deferred "
                "class weights would never act. Fix: a smaller position, or a percentage such as '80%'"
            )


def _custom_weights(values: Values) -> Iterator[str]:
    is_custom = values["loss.class_weights"].startswith("custom")
    if is_custom and not values["loss.custom_weights"]:
        yield (
            f"loss.class_weights={values['loss.class_weights']!r} needs loss.custom_weights. "
            "Fix: --config.loss.custom_weights=\"(('CLASS NAME', WEIGHT), ...)\""
        )
    if values["loss.custom_weights"] and not is_custom:
        yield (
            f"loss.custom_weights has no effect with loss.class_weights={values['loss.class_weights']!r}. "
            "Fix: --config.loss.class_weights=custom, or --config.loss.custom_weights='()'"
        )


def _channels(values: Values) -> Iterator[str]:
    mean, std = values["data.mean"], values["data.std"]
    if len(mean) != len(std):
        yield f"data.mean and data.std: found {len(mean)} and {len(std)} channels, expected the same number"


_CHECKS: tuple[Callable[[Values], Iterator[str]], ...] = (
    *(_spectra_of_method, _spectra_requires, _spectra_scale, _spectra_positions),
    *(_onednn, _tracker, _profile, _drw_start, _custom_weights, _channels),
    *IMAGE_CHECKS,
    *MODEL_CHECKS,
)
