"""From config to the optax chain that a run trains with; it reads as the algorithm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optax
from ml_collections import ConfigDict

from saddle_jax.experiment.durations import parse_duration
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats, rank_groups
from saddle_jax.methods.base import ASCENT, DESCENT
from saddle_jax.optim.cc_sam import cc_sam
from saddle_jax.optim.escape import cnc_pgd, lpf_sgd, pgd
from saddle_jax.optim.link import only, shared
from saddle_jax.optim.longtail_sam import focal_sam, imbsam, le_sam, sse_sam
from saddle_jax.optim.sam import sam
from saddle_jax.schedules import Schedules

MOST_MEMORY = 64.0  # GiB that CC-SAM's copies of the classifier may need on the devices there are
_FIX = "Fix: a number of training images between the smallest and the largest class, or 0 for eval.rank_bounds' tail"


def make_optimizer(
    config: ConfigDict,
    schedules: Schedules,
    stats: ClassStats,
    *,
    aux_like: Any = (),
    axis_name: str | None = None,
    trained: Callable[[optax.Params], Any] | None = None,
    is_classifier: Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return SGD with momentum, behind the link that the config names.

    Gradients come in as each device's own part of the batch's gradient, from the caller and from grad_fn alike.
    `shared` sums them for the link, and every device has the same perturbation; summed only after it, each its own
    (m-sharpness). Of the parameters only those that `trained` marks are seen and changed; None marks all. CC-SAM
    perturbs those that `is_classifier` marks.
    """
    of_link = {"aux_like": aux_like, "is_classifier": is_classifier}
    chain = _make_chain(config, schedules, stats, of_link, axis_name)
    return chain if trained is None else only(trained, chain)


def _make_chain(
    config: ConfigDict, schedules: Schedules, stats: ClassStats, of_link: dict[str, Any], axis_name: str | None
) -> optax.GradientTransformationExtraArgs:
    sgd = (
        optax.add_decayed_weights(config.optim.weight_decay),
        optax.trace(config.optim.momentum),
        optax.scale_by_learning_rate(schedules.lr),
    )
    if config.optim.name == "sgd":
        return optax.chain(sum_over_devices(axis_name), *sgd)
    if config.sam.perturbation == "per_device":
        link = make_link(config, schedules, stats, **of_link, axis_name=axis_name)
        return optax.chain(link, sum_over_devices(axis_name), *sgd)
    link = make_link(config, schedules, stats, **of_link)
    return optax.chain(shared(link, axis_name), *sgd)


def make_link(
    config: ConfigDict,
    schedules: Schedules,
    stats: ClassStats,
    *,
    aux_like: Any,
    is_classifier: Callable[[optax.Params], Any] | None = None,
    axis_name: str | None = None,
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
            if is_classifier is None:
                raise ValueError("cc_sam needs is_classifier: found None, expected the network's")
            return cc_sam(rho, counts_C, is_classifier, flat_ratio=config.cc_sam.flat_ratio, **keep)
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
    """Return which classes are the tail for ImbSAM and SSE-SAM: those of few images, or the evaluation's by rank."""
    if below := config[config.optim.name].tail_below:
        return counts_C < below
    return np.isin(np.arange(len(counts_C)), rank_groups(len(counts_C), config.eval.rank_bounds)[-1].classes)


def problems_of(config: ConfigDict, stats: ClassStats) -> Iterator[str]:
    """Yield why the config's link can't work on such classes."""
    name, counts_C = config.optim.name, stats.counts_C
    if name == "cc_sam" and (gib := _least_memory(stats.num_classes)) > MOST_MEMORY:
        yield (
            f"optim.name='cc_sam' holds three copies of the classifier for each of {stats.num_classes:,} classes, more "
            f"than {gib:,.0f} GiB. Fix: another optim.name"
        )
    if name not in ("imbsam", "sse_sam"):
        return
    field, below = f"{name}.tail_below", config[name].tail_below
    of_images = counts_C > 0
    is_tail_C = tail_C(config, counts_C) & of_images
    if not below and np.any(np.diff(counts_C) > 0):
        yield (
            f"{field}: found 0, the tail by rank, but classes are not in the order of their sizes. Fix: "
            f"--config.{field}=20, or another number of training images"
        )
    elif not is_tail_C.any():
        smallest = f"; the smallest has {counts_C[of_images].min()} training images" if below else ""
        yield f"{field}: found {below}, which leaves no class that has images to the tail{smallest}. {_FIX}"
    elif is_tail_C.sum() == of_images.sum():
        yield f"{field}: found {below}, with which every class is tail: that is plain SAM. {_FIX}"


def _least_memory(num_classes: int) -> float:
    """Return how many GiB CC-SAM's classifiers need at least: of 512 features, which the large networks exceed."""
    return 3 * num_classes * (num_classes * 512) * 4 / 2**30


def sum_over_devices(axis_name: str | None) -> optax.GradientTransformation:
    """Return the link that adds up the devices' parts of a gradient."""
    return optax.stateless(lambda updates, _: devices.sum_over(updates, axis_name))
