"""What each field of a config may be, whatever the others are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from saddle_jax.errors import did_you_mean
from saddle_jax.experiment.durations import parse_duration

_ON_HOST = ("autoaugment", "randaugment", "simclr")  # policies, which run with Pillow
_AUGMENTATIONS = ("crop_flip", *_ON_HOST, "random_resized_crop")

CHOICES: dict[str, tuple[str, ...]] = {
    "method": ("plain", "glmc", "paco", "retrain"),
    "data.source": ("digits", "arrays", "image_list", "tfds"),
    "data.profile": ("exp", "step", "as_is"),
    "data.sampling": ("instance", "balanced", "effective"),
    "data.augmentation": _AUGMENTATIONS,
    "data.pipeline": ("auto", "resident", "tfdata", "workers", "numpy"),
    "model.name": (
        *("resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "wide_resnet32"),
        *("resnet10", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "cifar_resnet34"),
    ),
    "model.head": ("linear", "normed"),
    "model.dtype": ("float32", "bfloat16"),
    "model.kernels": ("auto", "lax", "onednn"),
    "model.batch_norm": ("per_device", "synchronized"),
    "loss.name": ("ce", "focal", "ldam", "la", "cdt", "vs"),
    "loss.class_weights": ("none", "reweight", "drw"),
    "paco.key_augmentation": _AUGMENTATIONS,
    "paco.queue_init": ("normalized", "published"),
    "optim.name": (
        *("sgd", "pgd", "cnc_pgd", "lpf_sgd", "sam", "asam"),
        *("imbsam", "cc_sam", "sse_sam", "focal_sam", "le_sam"),
    ),
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
    "micro_batches": (lambda v: v >= 1, "1 or more"),
    "steps_at_once": (lambda v: v >= 0, "1 or more, or 0 to choose"),
    "watchdog_secs": (lambda v: v >= 0, "0 or more seconds"),
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
    "glmc.resample_power": (lambda v: v >= 0, "0 or more"),
    "glmc.label_weight_power": (lambda v: v >= 0, "0 or more"),
    "glmc.contrast": (lambda v: v >= 0, "0 or more"),
    "glmc.projection_dim": (lambda v: v >= 1, "1 or more"),
    "glmc.beta": (lambda v: v > 0, "more than 0"),
    "paco.alpha": (lambda v: v >= 0, "0 or more"),
    "paco.beta": (lambda v: v > 0, "more than 0"),
    "paco.gamma": (lambda v: v >= 0, "0 or more"),
    "paco.temperature": (lambda v: v > 0, "more than 0"),
    "paco.queue_size": (lambda v: v >= 1, "1 or more keys"),
    "paco.dim": (lambda v: v >= 1, "1 or more"),
    "paco.momentum": (lambda v: 0 <= v <= 1, "0 to 1"),
    "retrain.feature_noise": (lambda v: v >= 0, "0 or more"),
    "retrain.flat_limit": (lambda v: 0 <= v <= 1, "0 to 1"),
    "optim.momentum": (lambda v: 0 <= v < 1, "0 or more, less than 1"),
    "optim.weight_decay": (lambda v: v >= 0, "0 or more"),
    "pgd.threshold": (lambda v: v >= 0, "more than 0, or 0 for noise at every step"),
    "cnc_pgd.threshold": (lambda v: v >= 0, "more than 0, or 0 for a perturbing step always"),
    "lpf_sgd.samples": (lambda v: v >= 1, "1 or more"),
    "asam.eta": (lambda v: v >= 0, "0 or more"),
    "imbsam.tail_below": (lambda v: v >= 0, "1 or more images, or 0 for the tail of eval.rank_bounds"),
    "cc_sam.flat_ratio": (lambda v: 0 <= v <= 1, "0 to 1"),
    "sse_sam.tail_below": (lambda v: v >= 0, "1 or more images, or 0 for the tail of eval.rank_bounds"),
    "sse_sam.head_factor": (lambda v: v >= 0, "0 or more"),
    "focal_sam.gamma": (lambda v: v >= 0, "0 or more"),
    "focal_sam.sharpness_weight": (lambda v: v >= 0, "0 or more"),
    "le_sam.rho_max": (lambda v: v >= 0, "more than 0, or 0 for any length"),
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

_POSITIONS = ("loss.drw_start", "sse_sam.switch_at")
_LENGTHS = ("duration", "eval.every", "checkpoint_every", "log_every", "spectra.every")
KNOTS = {"optim.lr_knots": "learning rate", "sam.rho_knots": "rho"}


def images_stay_encoded(source: str, augmentation: str, eval_resize: int) -> bool:
    """Return whether images stay encoded until a batch asks for them; otherwise they are an array in memory.

    Of tensorflow-datasets both is possible: with randaugment and simclr, `eval_resize` tells.
    """
    either = augmentation in ("randaugment", "simclr") and eval_resize > 0
    return source == "image_list" or (source == "tfds" and (augmentation == "random_resized_crop" or either))


def view_augmentations(flat: dict[str, Any]) -> dict[str, str]:
    """Return the fields that name the augmentations of the views that the chosen method takes, with their values."""
    fields = ("data.augmentation", f"{flat['method']}.key_augmentation")
    return {field: flat[field] for field in fields if field in flat}


def needs_host(flat: dict[str, Any]) -> bool:
    """Return whether a view is augmented in a way that a step on a device can't compute."""
    return not set(_ON_HOST).isdisjoint(view_augmentations(flat).values())


def field_problems(flat: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    """Yield unknown and missing fields and values of the wrong type; `known` has every field with one of the right."""
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


def value_problems(flat: dict[str, Any]) -> Iterator[str]:
    """Yield every value that its field can't have; the types have to be right."""
    for field, choices in CHOICES.items():
        if flat[field] not in choices:
            hint = did_you_mean(str(flat[field]), choices)
            yield f"{field}: found {flat[field]!r}, expected one of {', '.join(choices)}.{hint}"
    for field, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{field}: found {value}, expected a finite number"
        elif field in _BOUNDS and not _BOUNDS[field][0](value):
            yield f"{field}: found {value!r}, expected {_BOUNDS[field][1]}"
    for field in (*_POSITIONS, *_LENGTHS):
        if field == "spectra.every" and not flat[field]:
            continue
        try:
            duration = parse_duration(flat[field])
        except ValueError as error:
            yield f"{field}: {error}"
            continue
        if field in _LENGTHS and duration.amount <= 0:
            yield f"{field}: found {flat[field]!r}, expected more than 0"
        if field == "duration" and duration.unit == "%":
            yield f"duration: found {flat[field]!r}, expected epochs or steps (a percentage is of this length)"
    for field, meaning in KNOTS.items():
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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
