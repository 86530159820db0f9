"""Fields of the network: `config.model`."""

from __future__ import annotations

from saddle_jax.experiment.catalogue import ENTRIES
from saddle_jax.experiment.fields import (
    choice,
    entry_name,
    flag,
    number,
)

MODEL = {
    "name": entry_name("resnet32", "the network", ENTRIES["model.name"]),
    "width": number(
        1.0, "factor on the filters (for a ResNeXt, of each group); only 1 is the paper's network", more_than=0
    ),
    "head": choice("linear", "the classifier", {"linear": "logits w·x + b", "normed": "cosines, as LDAM needs them"}),
    "dtype": choice("float32", "arithmetic of the layers; parameters stay float32", ("float32", "bfloat16")),
    "kernels": choice(
        "auto",
        "what computes layers on CPUs; other devices and float64 always use lax",
        {
            "auto": "onednn if it is installed",
            "lax": "XLA",
            "onednn": "the package in native/",
        },
        may_change=True,
    ),
    "batch_norm": choice(
        "per_device",
        "whose statistics normalize a batch",
        {"per_device": "those of each device's own part", "synchronized": "those of the whole batch"},
    ),
    "batch_norm_momentum": number(
        0.1, "weight of the new batch in the running statistics, in PyTorch's sense", more_than=0, at_most=1
    ),
    "remat": flag(
        False, "recompute blocks in the backward pass: less memory, for one more forward pass", may_change=True
    ),
}
