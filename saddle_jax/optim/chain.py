"""Build the optax chain that a run trains with from its config."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError
from saddle_jax.experiment.catalogue import group_of, is_dotted, make, own_code
from saddle_jax.experiment.durations import parse_duration
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats, rank_groups
from saddle_jax.models.tuning import decayed_rates
from saddle_jax.optim.link import LinkContext, only, shared
from saddle_jax.schedules import Schedules, field_schedule

MOST_MEMORY = 64.0  # GiB that CC-SAM's copies of the classifier may take up on existing devices
_FIX = "Fix: a number between the sizes of the smallest and the largest class, or 0 for the tail of eval.rank_bounds"


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
    """Return SGD with momentum or AdamW, preceded by the link that the config names.

    Gradients come in as each device's own part of the batch's gradient, both from the caller and from grad_fn. `shared`
    sums them before the link, so that every device has the same perturbation. If they are summed only after the link,
    each device has its own (m-sharpness). The chain sees and changes only the parameters that `trained` marks; None
    marks all. CC-SAM perturbs those that `is_classifier` marks.
    """
    of_link = {"aux_like": aux_like, "is_classifier": is_classifier}
    chain = _make_chain(config, schedules, stats, of_link, axis_name)
    return chain if trained is None else only(trained, chain)


def _make_chain(
    config: ConfigDict, schedules: Schedules, stats: ClassStats, of_link: dict[str, Any], axis_name: str | None
) -> optax.GradientTransformationExtraArgs:
    base = _base(config.optim, schedules)
    if config.optim.name == "sgd":
        return optax.chain(sum_over_devices(axis_name), *base)
    if fields_of(config).get("perturbation") == "per_device":
        link = make_link(config, schedules, stats, **of_link, axis_name=axis_name)
        return optax.chain(link, sum_over_devices(axis_name), *base)
    link = make_link(config, schedules, stats, **of_link)
    return optax.chain(shared(link, axis_name), *base)


def _base(optim: ConfigDict, schedules: Schedules) -> Iterator[optax.GradientTransformation]:
    """Yield what follows the link: the optimizer that turns its gradient into a step."""
    if optim.clip_norm:
        yield optax.clip_by_global_norm(optim.clip_norm)
    decay = optax.add_decayed_weights(optim.weight_decay)
    yield from {
        "sgd": (decay, optax.trace(optim.momentum)),
        "adamw": (optax.scale_by_adam(b1=optim.momentum), decay),
    }[optim.base]
    if optim.layer_decay < 1:
        yield optax.stateless(
            lambda updates, _: jax.tree.map(jnp.multiply, updates, decayed_rates(updates, optim.layer_decay))
        )
    yield optax.scale_by_learning_rate(schedules.lr)


def make_link(
    config: ConfigDict,
    schedules: Schedules,
    stats: ClassStats,
    *,
    aux_like: Any,
    is_classifier: Callable[[optax.Params], Any] | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return the link that `config.optim.name` names. Pass `axis_name` if it is to see each device's own gradient.

    Raises:
      ConfigError: a user's own entry returns something other than a link.
    """
    fields = fields_of(config)
    context = LinkContext(
        schedule=lambda name: field_schedule(fields, name, schedules),
        step_of=lambda name: parse_duration(fields[name]).steps(schedules.steps_per_epoch, schedules.total_steps),
        lr=schedules.lr,
        stats=stats,
        tail_C=lambda below: tail_C(stats.counts_C, below, config.eval.rank_bounds),
        aux_like=aux_like,
        is_classifier=is_classifier,
        axis_name=axis_name,
    )
    made = make("optim.name", config.optim.name, fields, context)
    if not (callable(getattr(made, "init", None)) and callable(getattr(made, "update", None))):
        raise ConfigError(
            f"optim.name: {config.optim.name} returned {type(made).__name__}, expected an "
            "optax.GradientTransformationExtraArgs such as `saddle_jax.optim.link.make_link` returns"
        )
    if is_dotted(config.optim.name):
        with own_code("optim.name", config.optim.name):
            _try(made, aux_like)
    return made


def _try(link: optax.GradientTransformationExtraArgs, aux_like: Any) -> None:
    """Take one step of a user's own link, without computing it, so that its errors are reported before a run begins."""
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    aux = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), aux_like)

    def grad_fn(params: Any, class_weights_C: Any = None) -> tuple[Any, Any]:
        factor = 1 if class_weights_C is None else class_weights_C.sum()
        return jax.tree.map(lambda x: (factor * x).astype(x.dtype), params), aux

    def step() -> tuple[Any, Any, Any]:
        state = link.init(params)
        updates, new = link.update(params, state, params, grad_fn=grad_fn, class_grad_fn=None, aux=aux)
        return updates, state, new

    updates, state, new = jax.eval_shape(step)
    for what, found, expected in (("gradient", updates, params), ("state", new, state)):
        if jax.tree.structure(found) != jax.tree.structure(expected):
            raise TypeError(f"the {what} that it returns differs in structure from the one that it was given")


def fields_of(config: ConfigDict) -> ConfigDict:
    """Return the fields that belong to the config's link."""
    fields = config.get(group_of(config.optim.name))
    return fields if isinstance(fields, ConfigDict) else ConfigDict()


def tail_C(counts_C: np.ndarray, below: int, rank_bounds: tuple[int, ...]) -> np.ndarray:
    """Return which classes are the tail: those with fewer images than `below`, or with 0, the evaluation's tail."""
    if below:
        return counts_C < below
    return np.isin(np.arange(len(counts_C)), rank_groups(len(counts_C), rank_bounds)[-1].classes)


def problems_of(config: ConfigDict, stats: ClassStats) -> Iterator[str]:
    """Yield the reasons why the config's link can't work with these classes."""
    name, counts_C, fields = config.optim.name, stats.counts_C, fields_of(config)
    if name == "cc_sam" and (gib := _least_memory(stats.num_classes)) > MOST_MEMORY:
        yield (
            f"optim.name='cc_sam' needs three copies of the classifier for each of {stats.num_classes:,} classes, more "
            f"than {gib:,.0f} GiB. Fix: another optim.name"
        )
    if "tail_below" not in fields:
        return
    field, below = f"{group_of(name)}.tail_below", fields.tail_below
    of_images = counts_C > 0
    is_tail_C = tail_C(counts_C, below, config.eval.rank_bounds) & of_images
    if not is_tail_C.any():
        smallest = f"; the smallest class has {counts_C[of_images].min()} training images" if below else ""
        yield f"{field}: found {below}, which leaves no class with images in the tail{smallest}. {_FIX}"
    elif is_tail_C.sum() == of_images.sum():
        yield f"{field}: found {below}, which puts every class in the tail: that is plain SAM. {_FIX}"


def _least_memory(num_classes: int) -> float:
    """Return the least GiB that CC-SAM's classifiers need, with 512 features; large networks have more."""
    return 3 * num_classes * (num_classes * 512) * 4 / 2**30


def sum_over_devices(axis_name: str | None) -> optax.GradientTransformation:
    """Return the link that sums the devices' parts of a gradient."""
    return optax.stateless(lambda updates, _: devices.sum_over(updates, axis_name))
