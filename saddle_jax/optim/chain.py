"""From config to the optax chain that a run trains with; it reads as the algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optax
from ml_collections import ConfigDict

from saddle_jax import devices
from saddle_jax.config import parse_duration
from saddle_jax.longtail import ClassStats, rank_groups
from saddle_jax.methods.base import ASCENT, DESCENT
from saddle_jax.optim.cc_sam import cc_sam
from saddle_jax.optim.escape import cnc_pgd, lpf_sgd, pgd
from saddle_jax.optim.link import only, shared
from saddle_jax.optim.longtail_sam import focal_sam, imbsam, le_sam, sse_sam
from saddle_jax.optim.sam import sam
from saddle_jax.schedules import Schedules


def make_optimizer(
    config: ConfigDict,
    schedules: Schedules,
    stats: ClassStats,
    *,
    aux_like: Any = (),
    axis_name: str | None = None,
    trained: Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return SGD with momentum, behind the link that the config names.

    Gradients come in as each device's own part of the batch's gradient, from the caller and from grad_fn alike.
    `shared` sums them for the link, and every device has the same perturbation; summed only after it, each its own
    (m-sharpness). Of the parameters only those that `trained` marks are seen and changed; None marks all.
    """
    chain = _make_chain(config, schedules, stats, aux_like=aux_like, axis_name=axis_name)
    return chain if trained is None else only(trained, chain)


def _make_chain(
    config: ConfigDict, schedules: Schedules, stats: ClassStats, *, aux_like: Any, axis_name: str | None
) -> optax.GradientTransformationExtraArgs:
    sgd = (
        optax.add_decayed_weights(config.optim.weight_decay),
        optax.trace(config.optim.momentum),
        optax.scale_by_learning_rate(schedules.lr),
    )
    if config.optim.name == "sgd":
        return optax.chain(sum_over_devices(axis_name), *sgd)
    if config.sam.perturbation == "per_device":
        link = make_link(config, schedules, stats, aux_like=aux_like, axis_name=axis_name)
        return optax.chain(link, sum_over_devices(axis_name), *sgd)
    link = make_link(config, schedules, stats, aux_like=aux_like)
    return optax.chain(shared(link, axis_name), *sgd)


def make_link(
    config: ConfigDict, schedules: Schedules, stats: ClassStats, *, aux_like: Any, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """Return the link that `config.optim.name` names; `axis_name` is for SAM and ASAM of each device's own gradient."""
    rho, keep, counts_C = schedules.rho, {"aux_like": aux_like}, stats.counts_C
    match config.optim.name:
        case "pgd":
            return pgd(rho, config.pgd.threshold or None)
        case "cnc_pgd":
            return cnc_pgd(rho, schedules.lr, config.cnc_pgd.threshold or None, **keep)
        case "lpf_sgd":
            return lpf_sgd(rho, config.lpf_sgd.samples, **keep)
        case "sam":
            return sam(rho, axis_name=axis_name, **keep)
        case "asam":
            return sam(rho, adaptive=True, adaptive_eta=config.asam.eta, axis_name=axis_name, **keep)
        case "imbsam":
            return imbsam(rho, tail_C(config, counts_C), **keep)
        case "cc_sam":
            return cc_sam(rho, counts_C, flat_ratio=config.cc_sam.flat_ratio, **keep)
        case "sse_sam":
            switch = parse_duration(config.sse_sam.switch_at).steps(schedules.steps_per_epoch, schedules.total_steps)
            factor = config.sse_sam.head_factor
            return sse_sam(lambda step: factor * rho(step), rho, switch, tail_C(config, counts_C), **keep)
        case "focal_sam":
            return focal_sam(rho, config.focal_sam.gamma, config.focal_sam.sharpness_weight, stats.priors_C(), **keep)
        case "le_sam":
            return le_sam(rho, config.le_sam.rho_max or np.inf, **keep)
        case unknown:
            raise ValueError(f"optim.name: found {unknown!r}, which is no link")


def first_pass(name: str) -> str:
    """Return which of a method's losses the gradient at w is of, for the link that `optim.name` names.

    ASCENT where the link does nothing but perturb along it. The others mix it into the step.
    """
    return ASCENT if name in ("sam", "asam", "le_sam") else DESCENT


def tail_C(config: ConfigDict, counts_C: np.ndarray) -> np.ndarray:
    """Return which classes are the tail for ImbSAM and SSE-SAM: those of few images, or the evaluation's tail."""
    if below := config[config.optim.name].tail_below:
        return counts_C < below
    return np.isin(np.arange(len(counts_C)), rank_groups(len(counts_C), config.eval.rank_bounds)[-1].classes)


def problem_of(config: ConfigDict, stats: ClassStats) -> str:
    """Return why the config's link can't work on such classes; "" where it can."""
    if config.optim.name not in ("imbsam", "sse_sam") or tail_C(config, stats.counts_C).any():
        return ""
    field = f"{config.optim.name}.tail_below"
    if not config[config.optim.name].tail_below:
        return (
            f"{field}: found 0, but eval.rank_bounds={config.eval.rank_bounds} leave no tail. Fix: --config.{field}=20"
        )
    return (
        f"{field}: no class has fewer than {config[config.optim.name].tail_below} training images, the smallest has "
        f"{stats.counts_C.min()}. Fix: a larger number, or --config.{field}=0 for the tail of eval.rank_bounds"
    )


def sum_over_devices(axis_name: str | None) -> optax.GradientTransformation:
    """Return the link that adds up the devices' parts of a gradient."""
    return optax.stateless(lambda updates, _: devices.sum_over(updates, axis_name))
