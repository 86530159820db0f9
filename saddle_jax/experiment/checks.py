"""What the config alone tells about itself, checked before JAX, TensorFlow or any data is touched."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from saddle_jax.experiment.config import flatten
from saddle_jax.experiment.durations import Duration, parse_duration
from saddle_jax.experiment.field_values import (
    CHOICES,
    KNOTS,
    field_problems,
    images_stay_encoded,
    needs_host,
    value_problems,
    view_augmentations,
)


def problems_of(config: ConfigDict, default: ConfigDict) -> list[str]:
    """Return every problem that the config alone shows, each with what was found, expected and the fix.

    Args:
      default: every field there is, with a value of the right type.
    """
    flat = flatten(config)
    problems = list(field_problems(flat, flatten(default)))
    if problems:
        return problems
    problems = list(value_problems(flat))
    if problems:  # the checks across fields read values that must be sound
        return problems
    return [*_cross_problems(flat), *_ignored_fields(flat, flatten(default))]


# What a method leaves no choice of, and why.
_FIXED: dict[str, dict[str, tuple[Any, str]]] = {
    "glmc": {
        "loss.name": ("ce", "it mixes labels"),
        "loss.class_weights": ("none", "glmc.label_weight_power weights its second classifier"),
        "model.head": ("linear", "its heads are"),
        "data.sampling": ("instance", "glmc.resample_power re-samples its second stream"),
    },
    "paco": {
        "loss.name": ("ce", "its loss has a class part of its own"),
        "loss.class_weights": ("none", "the prior stands in its logits"),
        "model.head": ("linear", "its class head is"),
        "micro_batches": (1, "every query is compared with the whole batch"),
        "sam.perturbation": ("shared", "every query is compared with those of all devices"),
    },
    "retrain": {
        "data.sampling": ("balanced", "it draws all classes equally often"),
        "micro_batches": (1, "a class's perturbation is that of all its images in the batch"),
    },
}


def _cross_problems(flat: dict[str, Any]) -> Iterator[str]:
    method = flat["method"]
    for field, (value, reason) in _FIXED.get(method, {}).items():
        if flat[field] != value:
            yield f"{field}={flat[field]!r} has no place in method={method!r}: {reason}. Fix: --config.{field}={value}"
    if method == "retrain" and not flat["start_from"]:
        yield (
            "method='retrain' trains the classifier of a network that has been trained, start_from names none. "
            "Fix: --config.start_from=DIRECTORY of that run"
        )
    if flat["spectra.loss"] == "training" and method != "plain":
        yield (
            f"spectra.loss='training' has no place in method={method!r}, whose loss is not one of an image and its "
            "label. Fix: --config.spectra.loss=ce"
        )
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
    if flat["model.kernels"] == "onednn" and importlib.util.find_spec("saddle_kernels") is None:
        yield (
            "model.kernels='onednn' needs the package saddle_kernels, which is not installed. Fix: pip install "
            "./native, or --config.model.kernels=auto"
        )
    yield from _image_problems(flat)
    yield from _link_problems(flat)
    if method == "paco":
        yield from _paco_problems(flat)
    encoded = images_stay_encoded(flat["data.source"], flat["data.augmentation"], flat["data.eval_resize"])
    if needs_host(flat) and not encoded:
        yield from _host_problems(flat)
    elif flat["steps_at_once"] > 1 and flat["data.pipeline"] in ("tfdata", "workers", "numpy"):
        yield (
            f"steps_at_once={flat['steps_at_once']} needs images that stay on the devices (data.pipeline is "
            f"{flat['data.pipeline']!r}). Fix: --config.data.pipeline=resident"
        )
    if flat["data.profile"] == "as_is" and flat["data.largest_class"]:
        yield "data.largest_class has no effect with data.profile='as_is'. Fix: --config.data.largest_class=0"

    total = parse_duration(flat["duration"])
    for field, meaning in KNOTS.items():
        if field == "sam.rho_knots" and flat["optim.name"] == "sgd":
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


def _ignored_fields(flat: dict[str, Any], default: dict[str, Any]) -> Iterator[str]:
    """Yield the fields of other methods and links than the chosen ones that were set."""
    for choice in ("method", "optim.name"):
        for field in flat:
            group = field.partition(".")[0]
            is_other = group in CHOICES[choice] and group not in (flat[choice], "sam")  # sam: what the links share
            if is_other and flat[field] != default[field]:
                yield (
                    f"{field} has no effect with {choice}={flat[choice]!r}. Fix: --config.{choice}={group}, or "
                    f"--config.{field}={default[field]}"
                )


def _link_problems(flat: dict[str, Any]) -> Iterator[str]:
    """Yield what the chosen link leaves no choice of."""
    link = flat["optim.name"]
    if flat["sam.perturbation"] == "per_device" and link not in ("sgd", "sam", "asam"):
        yield (
            f"sam.perturbation='per_device' is for optim.name=sam and asam (found {link!r}). "
            "Fix: --config.sam.perturbation=shared"
        )
    if link == "cc_sam" and flat["method"] != "plain":
        yield (
            f"optim.name='cc_sam' has no place in method={flat['method']!r}: it takes the loss apart by the classes of "
            "single images. Fix: another optim.name"
        )
    if link == "cc_sam" and flat["micro_batches"] != 1:
        yield (
            f"micro_batches={flat['micro_batches']} has no place in optim.name='cc_sam', which needs the gradients of "
            "the whole batch's classes at once. Fix: --config.micro_batches=1"
        )
    part = _fraction(parse_duration(flat["sse_sam.switch_at"]), parse_duration(flat["duration"]))
    if link == "sse_sam" and part is not None and part >= 1:
        yield (
            f"sse_sam.switch_at: {flat['sse_sam.switch_at']!r} is not before the end ({flat['duration']}): the second "
            "stage would never begin. Fix: a smaller position, or a percentage such as '70%'"
        )


def _paco_problems(flat: dict[str, Any]) -> Iterator[str]:
    """Yield a queue that batches do not fill evenly, and an unfit view of the keys."""
    queue, batch = flat["paco.queue_size"], flat["batch_size"]
    if queue % batch:
        yield (
            f"paco.queue_size: {queue} is no multiple of batch_size={batch}, whose keys replace as many of the queue. "
            f"Fix: --config.paco.queue_size={-(-queue // batch) * batch}"
        )
    key = flat["paco.key_augmentation"]
    is_encoded = images_stay_encoded(flat["data.source"], flat["data.augmentation"], flat["data.eval_resize"])
    if key in (("crop_flip", "autoaugment") if is_encoded else ("random_resized_crop",)):
        fits, found = ("in memory", "stay encoded") if is_encoded else ("that stay encoded", "are in memory")
        yield (
            f"paco.key_augmentation={key!r} is for images {fits}, these {found}. "
            "Fix: --config.paco.key_augmentation=simclr"
        )


def _image_problems(flat: dict[str, Any]) -> Iterator[str]:
    """Yield what does not fit together among the fields that say how images come in: whole in memory, or encoded."""
    source, augmentation = flat["data.source"], flat["data.augmentation"]
    encoded = images_stay_encoded(source, augmentation, flat["data.eval_resize"])
    if augmentation == "random_resized_crop" and not encoded:
        yield (
            f"data.augmentation='random_resized_crop' needs images that are files or records (data.source is "
            f"{source!r}). Fix: --config.data.augmentation=crop_flip"
        )
        return
    if source == "image_list" and augmentation in ("crop_flip", "autoaugment"):
        yield (
            f"data.source='image_list' needs --config.data.augmentation=random_resized_crop, randaugment or simclr "
            f"(found {augmentation!r}, which is for images of one size)"
        )
        return
    unused = [] if encoded else ["data.eval_resize", "data.max_bad_fraction", "data.validation_split"]
    unused += [] if encoded else ["data.check_decode"]
    views = view_augmentations(flat)
    only_simclr = set(views.values()) == {"simclr"}
    if encoded or only_simclr:
        unused.append("data.crop_padding")
    if not encoded or only_simclr:
        unused.append("data.color_jitter")
    if source not in ("image_list", "tfds"):
        unused.append("data.image_size")
    if source != "image_list":
        unused += ["data.train_list", "data.validation_list", "data.test_list"]
    if source != "tfds" and flat["data.train_split"] != "train":
        yield f"data.train_split has no effect with data.source={source!r}. Fix: --config.data.train_split=train"
    for field in unused:
        if flat[field]:
            nothing = {str: "''", bool: "False"}.get(type(flat[field]), "0")
            yield (
                f"{field} has no effect with data.source={source!r} and "
                f"{', '.join(f'{name}={value!r}' for name, value in views.items())}. Fix: --config.{field}={nothing}"
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
    if flat["data.pipeline"] in ("resident", "workers", "numpy"):
        yield (
            f"data.pipeline={flat['data.pipeline']!r} holds images in memory; those of data.source={source!r} are "
            "decoded batch by batch. Fix: --config.data.pipeline=tfdata"
        )
    elif flat["steps_at_once"] > 1:
        yield (
            f"steps_at_once={flat['steps_at_once']} needs images that stay on the devices; those of "
            f"data.source={source!r} are decoded batch by batch. Fix: --config.steps_at_once=0"
        )
    own = "data.validation_list" if source == "image_list" else "data.validation_split"
    if flat["data.validation_fraction"] and flat[own]:
        yield f"data.validation_fraction and {own}: both hold out images. Fix: --config.{own}=''"


def _host_problems(flat: dict[str, Any]) -> Iterator[str]:
    """Yield what asks for images that stay on the devices, where only the host can augment them."""
    views = ", ".join(f"{name}={value!r}" for name, value in view_augmentations(flat).items())
    if flat["data.pipeline"] == "resident":
        yield (
            f"data.pipeline='resident' leaves images on the devices; {views} augment them on the host, with Pillow. "
            "Fix: --config.data.pipeline=auto"
        )
    if flat["steps_at_once"] > 1:
        yield (
            f"steps_at_once={flat['steps_at_once']} needs images that stay on the devices; {views} augment them on the "
            "host, with Pillow. Fix: --config.steps_at_once=0"
        )


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
