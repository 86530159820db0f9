"""Schedules of the learning rate, perturbation size, and class weights, as functions of the step.

They work on the device and on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError, did_you_mean
from saddle_jax.experiment.catalogue import find, group_of
from saddle_jax.experiment.config import flatten
from saddle_jax.experiment.durations import parse_duration
from saddle_jax.experiment.fields import knots
from saddle_jax.experiment.schema import fields_of
from saddle_jax.longtail import ClassStats

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]  # step -> value


class Schedules(NamedTuple):
    """The schedules of a run."""

    lr: Schedule
    size: Schedule  # size of the link's perturbation, in the link's unit; 0 without a link
    class_weights: Schedule  # step -> (C,)
    total_steps: int
    steps_per_epoch: int
    drw_start: int | None  # first step with deferred class weights; None without them


def make_schedules(config: ConfigDict, stats: ClassStats, steps_per_epoch: int) -> Schedules:
    """Return the run's schedules, with all positions in steps.

    Raises:
      ConfigError: positions are out of order or past the end, which only shows once the steps per epoch are known.
    """
    total = parse_duration(config.duration).steps(steps_per_epoch)
    problems = ["duration: the run has no steps. Fix: make it longer"] if total < 1 else []

    values = flatten(config)
    link, group = find("optim.name", config.optim.name), group_of(config.optim.name)
    for name, field in fields_of(values).items():
        if field.is_schedule and name.partition(".")[0] in ("optim", group):
            problems += _order_problems(name, _steps_of_knots(values[name], steps_per_epoch, total), total)
        if field.is_position and name.partition(".")[0] == group:
            step = parse_duration(values[name]).steps(steps_per_epoch, total)
            if step >= total > 0:
                reason = f"is step {step} of {total}, which is never reached"
                problems.append(f"{name}: {values[name]!r} {reason}. Fix: a smaller position")
    problems += _unknown_classes(config.loss.custom_weights, stats)
    drw_start = None
    if config.loss.class_weights.endswith("drw"):
        drw_start = parse_duration(config.loss.drw_start).steps(steps_per_epoch, total)
        if drw_start >= total > 0:
            problems.append(
                f"loss.drw_start: {config.loss.drw_start!r} is step {drw_start} of {total}, which is never reached. "
                "Fix: a smaller position"
            )
    if problems:
        raise ConfigError(problems)
    schedules = Schedules(
        lr=_interpolated(config.optim, "lr", steps_per_epoch, total),
        size=lambda _: jnp.zeros(()),
        class_weights=make_class_weights(config.loss, stats, drw_start),
        total_steps=total,
        steps_per_epoch=steps_per_epoch,
        drw_start=drw_start,
    )
    if not link.size:
        return schedules
    return schedules._replace(size=_interpolated(config[group], link.size, steps_per_epoch, total))


def logged_schedules(config: ConfigDict, schedules: Schedules) -> dict[str, Schedule]:
    """Return the schedules that are logged: the learning rate and, under its field's name, the size of the link."""
    size, group = find("optim.name", config.optim.name).size, group_of(config.optim.name)
    return {"lr": schedules.lr} | ({f"{group}.{size}": schedules.size} if size else {})


def field_schedule(fields: ConfigDict, name: str, schedules: Schedules) -> Schedule:
    """Return the schedule in a group's field `name`. It is constant between knots by default."""
    return _interpolated(fields, name, schedules.steps_per_epoch, schedules.total_steps)


def _interpolated(fields: ConfigDict, name: str, steps_per_epoch: int, total: int) -> Schedule:
    steps = _steps_of_knots(fields[name], steps_per_epoch, total)
    return interpolate(steps, fields.get(f"{name}_interpolation", "constant"), steps_per_epoch)


def _steps_of_knots(value: Any, steps_per_epoch: int, total: int) -> list[tuple[int, float]]:
    return [(parse_duration(at).steps(steps_per_epoch, total), float(amount)) for at, amount in knots(value)]


def _order_problems(name: str, steps: list[tuple[int, float]], total: int) -> Iterator[str]:
    # In a short run, two percentages may fall on the same step. The later knot then counts.
    if any(later[0] < earlier[0] for earlier, later in zip(steps, steps[1:], strict=False)):
        yield f"{name}: its knots are at steps {[step for step, _ in steps]}, which must rise. Fix: reorder them"
    if steps[-1][0] > total:
        yield f"{name}: its last knot is at step {steps[-1][0]}, past the end (step {total}). Fix: lower the knot"


def interpolate(knots: list[tuple[int, float]], interpolation: str, steps_per_epoch: int) -> Schedule:
    """Return a schedule through (step, value) knots.

    constant: the value of the last knot passed. linear, cosine: interpolated between knots, but held constant within an
    epoch, as in the reference.
    """
    steps = np.array([step for step, _ in knots])
    values = np.array([value for _, value in knots])

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        if interpolation != "constant":
            step = (step // steps_per_epoch) * steps_per_epoch
        last = jnp.sum(step >= steps) - 1
        following = jnp.minimum(last + 1, len(steps) - 1)
        start, end = jnp.asarray(values)[last], jnp.asarray(values)[following]
        if interpolation == "constant":
            return start
        span = jnp.maximum(jnp.asarray(steps)[following] - jnp.asarray(steps)[last], 1)
        part = jnp.clip((step - jnp.asarray(steps)[last]) / span, 0.0, 1.0)
        if interpolation == "cosine":
            part = (1 - jnp.cos(jnp.pi * part)) / 2
        return start + (end - start) * part

    return schedule


def _unknown_classes(weights: Sequence[tuple[str, float]], stats: ClassStats) -> Iterator[str]:
    for name, _ in weights:
        if name not in stats.names:
            some = ", ".join(stats.names[:10]) + (", ..." if len(stats.names) > 10 else "")
            hint = did_you_mean(name, stats.names) or f" The classes are {some}"
            yield f"loss.custom_weights: there is no class {name!r}.{hint}"


def make_class_weights(loss: ConfigDict, stats: ClassStats, drw_start: int | None) -> Schedule:
    """Return step -> class weights: ones, or, from `drw_start` on if it is given, those that the config chooses."""
    ones_C = np.ones(stats.num_classes)
    if loss.class_weights == "none":
        weights_C = ones_C
    elif loss.class_weights in ("custom", "custom_drw"):
        weights_C = stats.custom_weights_C(loss.custom_weights)
    else:
        weights_C = stats.effective_weights_C(loss.effective_beta)

    def class_weights(step: jax.typing.ArrayLike) -> jax.Array:
        if drw_start is None:
            return jnp.asarray(weights_C)
        return jnp.where(step >= drw_start, jnp.asarray(weights_C), jnp.asarray(ones_C))

    return class_weights
