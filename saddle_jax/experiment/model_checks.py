"""Checks of where a network's weights come from, and of which of them are trained."""

from __future__ import annotations

from collections.abc import Iterator

from saddle_jax.experiment.catalogue import Values, find

ADAPTERS = ("lora", "adaptformer")


def _start(values: Values) -> Iterator[str]:
    if values["model.weights"] and values["start_from"]:
        yield "model.weights and start_from: both say what the weights start from. Fix: --config.start_from=''"
    if values["model.train"] != "all" and not (values["model.weights"] or values["start_from"]):
        yield (
            f"model.train={values['model.train']!r} leaves the rest of the network at its random start. "
            "Fix: --config.model.weights=FILE, or --config.model.train=all"
        )


def _plain(values: Values) -> Iterator[str]:
    if values["method"] == "plain":
        return
    for field, idle in (("model.weights", ""), ("model.train", "all")):
        if values[field] != idle:
            yield (
                f"{field}={values[field]!r} goes with method='plain' only, found method={values['method']!r}. "
                f"Fix: --config.{field}={idle or repr('')}"
            )


def _part(values: Values) -> Iterator[str]:
    if values["model.train"] != "all" and values["optim.name"] == "cc_sam":
        yield (
            "optim.name='cc_sam' needs a network that is trained as a whole (model.train='all'), found model.train="
            f"{values['model.train']!r}. Fix: --config.optim.name=sam"
        )


def _adapters(values: Values) -> Iterator[str]:
    choice, network = values["model.train"], values["model.name"]
    if choice in ADAPTERS and not find("model.name", network).adapters:
        yield (
            f"model.train={choice!r} needs a transformer, found model.name={network!r}. "
            "Fix: --config.model.train=head, norm, bias, or last_1"
        )
    if values["model.rank"] and choice not in ADAPTERS:
        yield f"model.rank has no effect with model.train={choice!r}. Fix: --config.model.rank=0"


def _class_vectors(values: Values) -> Iterator[str]:
    if values["model.class_vectors"] and not (values["model.weights"] and values["model.head"] == "normed"):
        yield (
            "model.class_vectors need a normed head on the features of a pretrained network, found model.head="
            f"{values['model.head']!r} and model.weights={values['model.weights']!r}. "
            "Fix: --config.model.head=normed with --config.model.weights=FILE"
        )


def _cache(values: Values) -> Iterator[str]:
    if not values["model.cache_views"]:
        return
    if values["model.train"] != "head" or not values["model.weights"]:
        yield (
            "model.cache_views needs a backbone that stays as its file gives it, found model.train="
            f"{values['model.train']!r} and model.weights={values['model.weights']!r}. "
            "Fix: --config.model.train=head with --config.model.weights=FILE, or --config.model.cache_views=0"
        )
    if values["data.pipeline"] not in ("auto", "resident"):
        yield (
            f"data.pipeline={values['data.pipeline']!r} has no effect with model.cache_views, whose features stay on "
            "the devices. Fix: --config.data.pipeline=auto"
        )


MODEL_CHECKS = (_start, _plain, _part, _adapters, _class_vectors, _cache)
