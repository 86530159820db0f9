"""What changes with time: learning rate, rho, class weights. Functions of the step, on the device or on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError
from saddle_jax.experiment.durations import parse_duration
from saddle_jax.longtail import ClassStats

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]  # step -> value


class Schedules(NamedTuple):
    """The schedules of a run."""

    lr: Schedule
    rho: Schedule
    class_weights: Schedule  # step -> (C,)
    total_steps: int
    steps_per_epoch: int
    drw_start: int | None  # first step with deferred weights; None without them


def make_schedules(config: ConfigDict, stats: ClassStats, steps_per_epoch: int) -> Schedules:
    """Return the run's schedules, with all positions in steps.

    Raises:
      ConfigError: positions that only the number of steps an epoch shows to be out of order or past the end.
    """
    total = parse_duration(config.duration).steps(steps_per_epoch)
    problems = ["duration: the run has no step"] if total < 1 else []

    def knots(field: str, pairs: tuple) -> list[tuple[int, float]]:
        steps = [(parse_duration(position).steps(steps_per_epoch, total), float(value)) for position, value in pairs]
        # Percentages of a short run may fall on one step: the later knot counts.
        if any(later[0] < earlier[0] for earlier, later in zip(steps, steps[1:], strict=False)):
            problems.append(f"{field}: positions {[p for p, _ in pairs]} are steps {[s for s, _ in steps]}, must rise")
        if steps[-1][0] > total:
            problems.append(f"{field}: {pairs[-1][0]!r} is step {steps[-1][0]}, past the end (step {total})")
        return steps

    lr_knots = knots("optim.lr_knots", config.optim.lr_knots)
    rho_knots = knots("sam.rho_knots", config.sam.rho_knots) if config.optim.name != "sgd" else [(0, 0.0)]
    drw_start = None
    if config.loss.class_weights == "drw":
        drw_start = parse_duration(config.loss.drw_start).steps(steps_per_epoch, total)
        if drw_start >= total > 0:
            problems.append(f"loss.drw_start: {config.loss.drw_start!r} is step {drw_start} of {total}: it never acts")
    if config.optim.name == "sse_sam":
        switch = parse_duration(config.sse_sam.switch_at).steps(steps_per_epoch, total)
        if switch >= total > 0:
            found = f"{config.sse_sam.switch_at!r} is step {switch} of {total}"
            problems.append(f"sse_sam.switch_at: {found}: the second stage never begins")
    if problems:
        raise ConfigError(problems)
    return Schedules(
        lr=interpolate(lr_knots, config.optim.lr_interpolation, steps_per_epoch),
        rho=interpolate(rho_knots, config.sam.rho_interpolation, steps_per_epoch),
        class_weights=make_class_weights(config.loss, stats, drw_start),
        total_steps=total,
        steps_per_epoch=steps_per_epoch,
        drw_start=drw_start,
    )


def interpolate(knots: list[tuple[int, float]], interpolation: str, steps_per_epoch: int) -> Schedule:
    """Return a schedule through (step, value) knots.

    constant: the value of the last knot passed; linear, cosine: between knots, held for an epoch as in the reference.
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


def make_class_weights(loss: ConfigDict, stats: ClassStats, drw_start: int | None) -> Schedule:
    """Return step -> class weights: ones, the effective-number weights, or those from `drw_start` on."""
    ones_C = np.ones(stats.num_classes)
    effective_C = stats.effective_weights_C(loss.effective_beta)

    def class_weights(step: jax.typing.ArrayLike) -> jax.Array:
        if loss.class_weights == "none":
            return jnp.asarray(ones_C)
        if loss.class_weights == "reweight":
            return jnp.asarray(effective_C)
        return jnp.where(step >= drw_start, jnp.asarray(effective_C), jnp.asarray(ones_C))

    return class_weights
