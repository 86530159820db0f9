"""What the config alone tells about itself, checked before JAX, TensorFlow or any data is touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from saddle_jax.config import Duration, did_you_mean, flatten, parse_duration

CHOICES: dict[str, tuple[str, ...]] = {
    "data.source": ("digits", "arrays", "image_list", "tfds"),
    "data.profile": ("exp", "step", "as_is"),
    "data.sampling": ("instance", "balanced", "effective"),
    "data.augmentation": ("crop_flip", "random_resized_crop"),
    "data.pipeline": ("auto", "resident", "tfdata", "numpy"),
    "model.name": ("resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    "model.head": ("linear", "normed"),
    "model.dtype": ("float32", "bfloat16"),
    "model.batch_norm": ("per_device", "synchronized"),
    "loss.name": ("ce", "focal", "ldam", "la", "cdt", "vs"),
    "loss.class_weights": ("none", "reweight", "drw"),
    "optim.lr_interpolation": ("constant", "linear", "cosine"),
    "sam.rho_interpolation": ("constant", "linear", "cosine"),
    "sam.perturbation": ("shared", "per_device"),
    "sam.batch_stats": ("first", "second", "both", "frozen"),
    "spectra.loss": ("ce", "training", "focal", "ldam", "la", "cdt", "vs"),
    "spectra.class_weights": ("none", "training"),
    "spectra.batch_norm": ("eval", "train"),
    "spectra.dtype": ("float32", "float64"),
    "spectra.basis": ("auto", "device", "host", "none"),
    "spectra.linearize": ("auto", "always", "never"),
    "precision": ("default", "high", "highest"),
}

_BOUNDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda v: 0 <= v < 2**32, "0 to 2^32 - 1"),
    "num_seeds": (lambda v: 1 <= v < 2**16, "1 to 65535"),
    "seeds_at_once": (lambda v: v >= 0, "1 or more, or 0 to choose"),
    "batch_size": (lambda v: v >= 1, "1 or more"),
    "steps_at_once": (lambda v: v >= 0, "1 or more, or 0 to choose"),
    "data.image_size": (lambda v: v >= 0, "0 or more pixels"),
    "data.ratio": (lambda v: v >= 1, "n_max / n_min, at least 1"),
    "data.largest_class": (lambda v: v >= 0, "0 or more images"),
    "data.subset_seed": (lambda v: 0 <= v < 2**32, "0 to 2^32 - 1"),
    "data.validation_fraction": (lambda v: 0 <= v <= 0.5, "0 to 0.5"),
    "data.validation_floor": (lambda v: v >= 1, "1 or more images"),
    "data.crop_padding": (lambda v: v >= 0, "0 or more pixels"),
    "data.color_jitter": (lambda v: 0 <= v <= 1, "0 to 1"),
    "data.eval_resize": (lambda v: v >= 0, "0 or more pixels"),
    "data.max_bad_fraction": (lambda v: 0 <= v < 1, "0 or more, less than 1"),
    "model.width": (lambda v: v > 0, "more than 0"),
    "model.batch_norm_momentum": (lambda v: 0 < v <= 1, "more than 0, at most 1"),
    "loss.effective_beta": (lambda v: 0 <= v < 1, "0 or more, less than 1"),
    "loss.focal_gamma": (lambda v: v >= 0, "0 or more"),
    "loss.ldam_max_margin": (lambda v: v >= 0, "0 or more"),
    "loss.logit_scale": (lambda v: v > 0, "more than 0"),
    "loss.vs_gamma": (lambda v: v >= 0, "0 or more"),
    "optim.momentum": (lambda v: 0 <= v < 1, "0 or more, less than 1"),
    "optim.weight_decay": (lambda v: v >= 0, "0 or more"),
    "sam.adaptive_eta": (lambda v: v >= 0, "0 or more"),
    "eval.batch_size": (lambda v: v >= 1, "1 or more"),
    "spectra.logit_scale": (lambda v: v >= 0, "more than 0, or 0 for as trained"),
    "spectra.steps": (lambda v: v >= 2, "2 or more: one step finds one eigenvalue"),
    "spectra.probes": (lambda v: v >= 1, "1 or more"),
    "spectra.seed": (lambda v: 0 <= v < 2**32, "0 to 2^32 - 1"),
    "spectra.memory_gib": (lambda v: v >= 0, "more than 0, or 0 for half of what is free"),
    "spectra.chunk_size": (lambda v: v >= 0, "1 or more images, or 0 to choose"),
    "spectra.probes_at_once": (lambda v: v >= 0, "1 or more, or 0 to choose"),
    "spectra.density_variance": (lambda v: v > 0, "more than 0"),
    "spectra.escape_batches": (lambda v: v >= 0, "0 or more"),
    "spectra.escape_batch_size": (lambda v: v >= 1, "1 or more images"),
    "spectra.rho": (lambda v: v >= 0, "more than 0, or 0 for that of sam.rho_knots"),
    "spectra.slice_radius": (lambda v: v >= 0, "more than 0, or 0 for twice rho"),
}

_DURATIONS = ("duration", "eval.every", "checkpoint_every", "log_every", "loss.drw_start", "spectra.every")
_KNOTS = {"optim.lr_knots": "learning rate", "sam.rho_knots": "rho"}


def problems_of(config: ConfigDict, default: ConfigDict) -> list[str]:
    """Return every problem that the config alone shows, each with what was found, expected and the fix.

    Args:
      default: every field there is, with a value of the right type.
    """
    flat = flatten(config)
    problems = list(_field_problems(flat, flatten(default)))
    if problems:
        return problems
    problems = list(_value_problems(flat))
    if problems:  # the checks across fields read values that must be sound
        return problems
    return list(_cross_problems(flat))


def _field_problems(flat: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    for field in flat.keys() - known.keys():
        yield f"{field}: there is no such field.{did_you_mean(field, known)}"
    for field, example in known.items():
        if field not in flat:
            yield f"{field}: missing. Fix: start from configs/default.py"
            continue
        value, kind = flat[field], type(example)
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            yield f"{field}: found {value!r}, expected {kind.__name__} such as {example!r}"


def _value_problems(flat: dict[str, Any]) -> Iterator[str]:
    for field, choices in CHOICES.items():
        if flat[field] not in choices:
            hint = did_you_mean(str(flat[field]), choices)
            yield f"{field}: found {flat[field]!r}, expected one of {', '.join(choices)}.{hint}"
    for field, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{field}: found {value}, expected a finite number"
        elif field in _BOUNDS and not _BOUNDS[field][0](value):
            yield f"{field}: found {value!r}, expected {_BOUNDS[field][1]}"
    for field in _DURATIONS:
        if field == "spectra.every" and not flat[field]:
            continue
        try:
            duration = parse_duration(flat[field])
        except ValueError as error:
            yield f"{field}: {error}"
            continue
        if field != "loss.drw_start" and duration.amount <= 0:
            yield f"{field}: found {flat[field]!r}, expected more than 0"
        if field == "duration" and duration.unit == "%":
            yield f"duration: found {flat[field]!r}, expected epochs or steps (a percentage is of this length)"
    for field, meaning in _KNOTS.items():
        yield from _knot_problems(field, meaning, flat[field])
    yield from _tuple_problems(flat)


def _tuple_problems(flat: dict[str, Any]) -> Iterator[str]:
    for field in ("data.mean", "data.std"):
        value = flat[field]
        if not value or not all(_is_number(v) for v in value):
            yield f"{field}: found {value!r}, expected one number a channel, e.g. (0.5,) or (0.49, 0.48, 0.45)"
        elif field == "data.std" and min(value) <= 0:
            yield f"data.std: found {value!r}, expected numbers above 0"
    if len(flat["data.mean"]) != len(flat["data.std"]):
        yield f"data.mean and data.std: found {len(flat['data.mean'])} and {len(flat['data.std'])} channels"
    for position in flat["spectra.at"]:
        try:
            parse_duration(position)
        except ValueError as error:
            yield f"spectra.at: {error}"
    if not flat["spectra.classes"].strip(" ,"):
        yield "spectra.classes: found nothing, expected auto, each, whole, or classes and groups such as 0,7,tail"
    bounds = flat["eval.rank_bounds"]
    sound = (
        len(bounds) in (0, 2) and all(isinstance(b, int) and b > 0 for b in bounds) and list(bounds) == sorted(bounds)
    )
    if not sound:
        yield f"eval.rank_bounds: found {bounds!r}, expected () or two rising class ranks such as (3, 7)"


def _knot_problems(field: str, meaning: str, knots: Any) -> Iterator[str]:
    example = "((0, 0.1), (160, 0.001)) or (('0%', 0.1), ('80%', 0.001))"
    if not knots or not all(isinstance(k, tuple) and len(k) == 2 for k in knots):
        yield f"{field}: found {knots!r}, expected (position, {meaning}) pairs such as {example}"
        return
    for position, value in knots:
        try:
            parse_duration(position)
        except ValueError as error:
            yield f"{field}: {error}"
        if not _is_number(value) or value < 0:
            yield f"{field}: found {meaning} {value!r}, expected a finite number of 0 or more"


def _cross_problems(flat: dict[str, Any]) -> Iterator[str]:
    if flat["spectra.loss"] == "ldam" and flat["model.head"] != "normed":
        yield f"spectra.loss='ldam' needs model.head='normed' (found {flat['model.head']!r}). Fix: another spectra.loss"
    if flat["spectra.logit_scale"] and flat["model.head"] != "normed":
        yield "spectra.logit_scale has no effect with model.head='linear'. Fix: --config.spectra.logit_scale=0"
    if flat["loss.name"] == "ldam" and flat["model.head"] != "normed":
        yield (
            f"loss.name='ldam' needs model.head='normed' (found {flat['model.head']!r}): LDAM scales logits by "
            f"{flat['loss.logit_scale']:g}, and with an unbounded linear head training diverges. "
            "Fix: --config.model.head=normed"
        )
    needed = {"arrays": "data.path", "tfds": "data.name"}.get(flat["data.source"])
    if needed and not flat[needed]:
        yield f"data.source={flat['data.source']!r} needs {needed}. Fix: --config.{needed}=..."
    yield from _image_problems(flat)
    if flat["steps_at_once"] > 1 and flat["data.pipeline"] in ("tfdata", "numpy"):
        yield (
            f"steps_at_once={flat['steps_at_once']} needs images that stay on the devices (data.pipeline is "
            f"{flat['data.pipeline']!r}). Fix: --config.data.pipeline=resident"
        )
    if flat["data.profile"] == "as_is" and flat["data.largest_class"]:
        yield "data.largest_class has no effect with data.profile='as_is'. Fix: --config.data.largest_class=0"

    total = parse_duration(flat["duration"])
    for field, meaning in _KNOTS.items():
        if field == "sam.rho_knots" and not flat["sam.enabled"]:
            continue
        positions = [parse_duration(position) for position, _ in flat[field]]
        if positions[0].amount != 0:
            yield f"{field}: the first knot is at {flat[field][0][0]!r}, expected 0, where the {meaning} starts"
        yield from _order_problems(field, positions, total)
    for position in map(parse_duration, flat["spectra.at"]):
        part = _fraction(position, total)
        if part is not None and part > 1:
            yield f"spectra.at: {position.amount:g} {position.unit} is past the end ({flat['duration']})"
    if flat["loss.class_weights"] == "drw":
        start = _fraction(parse_duration(flat["loss.drw_start"]), total)
        if start is not None and start >= 1:
            yield (
                f"loss.drw_start: {flat['loss.drw_start']!r} is not before the end ({flat['duration']}): deferred "
                "re-weighting would never act. Fix: a smaller position, or a percentage such as '80%'"
            )


def _image_problems(flat: dict[str, Any]) -> Iterator[str]:
    """Yield what does not fit together among the fields that say how images come in: whole in memory, or encoded."""
    source, augmentation = flat["data.source"], flat["data.augmentation"]
    encoded = augmentation == "random_resized_crop"
    if encoded and source not in ("image_list", "tfds"):
        yield (
            f"data.augmentation='random_resized_crop' needs images that are files or records (data.source is "
            f"{source!r}). Fix: --config.data.augmentation=crop_flip"
        )
        return
    if source == "image_list" and not encoded:
        yield "data.source='image_list' needs --config.data.augmentation=random_resized_crop (found 'crop_flip')"
        return
    unused = ["data.crop_padding"] if encoded else ["data.color_jitter", "data.eval_resize", "data.max_bad_fraction"]
    if not encoded:
        unused += ["data.validation_split", "data.check_decode"]
    if source not in ("image_list", "tfds"):
        unused.append("data.image_size")
    for field in unused:
        if flat[field]:
            nothing = {str: "''", bool: "False"}.get(type(flat[field]), "0")
            yield (
                f"{field} has no effect with data.source={source!r} and data.augmentation={augmentation!r}. "
                f"Fix: --config.{field}={nothing}"
            )
    if not encoded:
        return
    if flat["data.image_size"] < 1:
        yield "data.image_size: found 0, but images of any size have to become one. Fix: --config.data.image_size=224"
    elif flat["data.eval_resize"] < flat["data.image_size"]:
        yield (
            f"data.eval_resize: found {flat['data.eval_resize']}, expected at least data.image_size="
            f"{flat['data.image_size']}, which is cut out of it. Fix: --config.data.eval_resize=256 for 224"
        )
    if flat["data.profile"] != "as_is":
        yield (
            f"data.profile={flat['data.profile']!r}: such sets keep the imbalance that they have, data.ratio has no "
            "effect. Fix: --config.data.profile=as_is"
        )
    if flat["data.pipeline"] in ("resident", "numpy"):
        yield (
            f"data.pipeline={flat['data.pipeline']!r} holds images in memory; those of data.source={source!r} are "
            "decoded batch by batch. Fix: --config.data.pipeline=tfdata"
        )
    elif flat["steps_at_once"] > 1:
        yield (
            f"steps_at_once={flat['steps_at_once']} needs images that stay on the devices; those of "
            f"data.source={source!r} are decoded batch by batch. Fix: --config.steps_at_once=0"
        )
    if flat["data.validation_fraction"] and (flat["data.validation_list"] or flat["data.validation_split"]):
        yield "data.validation_fraction and a validation list or split: both hold out images. Fix: one of them"


def _order_problems(field: str, positions: list[Duration], total: Duration) -> Iterator[str]:
    fractions = [_fraction(position, total) for position in positions]
    known = [fraction for fraction in fractions if fraction is not None]
    if any(later <= earlier for earlier, later in zip(known, known[1:], strict=False)):
        shown = ", ".join(f"{p.amount:g}{'' if p.unit == '%' else ' '}{p.unit}" for p in positions)
        yield f"{field}: positions must rise, found {shown}"
    for position, fraction in zip(positions, fractions, strict=True):
        # A knot at the very end is the target of an interpolation that ends there.
        if fraction is not None and fraction > 1:
            yield (
                f"{field}: {position.amount:g} {position.unit} is past the end ({total.amount:g} {total.unit}). "
                "Fix: use percentages or lower the knot"
            )


def _fraction(position: Duration, total: Duration) -> float | None:
    """Return the position as a part of the run, or None where only the data set can tell."""
    if position.amount == 0:
        return 0.0
    if position.unit == "%":
        return position.amount / 100
    return position.amount / total.amount if position.unit == total.unit else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
