"""Fields of the network: `config.model`."""

from __future__ import annotations

from saddle_jax.experiment.catalogue import ENTRIES
from saddle_jax.experiment.fields import (
    choice,
    entry_name,
    flag,
    number,
    text,
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
        0.1, "weight of the new batch in the running statistics, as PyTorch defines it", more_than=0, at_most=1
    ),
    "weights": text(
        "",
        "file of the weights that the network starts from, as its authors publish them: .safetensors, .pth, or .npz; a "
        "classifier of other classes is left out; '' starts from random weights",
        may_change=True,
    ),
    "class_vectors": text(
        "",
        "an .npz file of one vector per class name, as long as the network's features, with which the normed "
        "classifier starts: CLIP's text features of the names; '' starts at random",
        may_change=True,
    ),
    "train": choice(
        "all",
        "which parameters are trained; the classifier always is",
        {
            "all": "",
            "head": "the classifier alone; the backbone computes as in evaluation",
            "norm": "also the scales and biases of normalization layers",
            "bias": "also all biases",
            "last_1": "also the last block and what follows it",
            "last_2": "also the last two blocks",
            "last_4": "also the last four blocks",
            "lora": "also low-rank additions to a transformer's queries and values (Hu et al., ICLR 2022)",
            "adaptformer": "also small layers beside a transformer's MLPs (Chen et al., NeurIPS 2022)",
        },
    ),
    "rank": number(
        0,
        "width of lora's and adaptformer's layers",
        at_least=1,
        zero="for LIFT's rule: the power of 2 below classes / (2 · blocks)",
    ),
    "cache_views": number(
        0,
        "with model.train=head: for each training image, the features of this many views (the image itself and "
        "augmented copies) are computed once and kept beside the run; an epoch uses one of them, drawn at random",
        at_least=1,
        zero="to compute features in every step",
    ),
    "input_size": number(
        0,
        "side of the images inside the network, which resizes them after augmentation (bicubic) and gives gray ones "
        "three equal channels",
        at_least=1,
        unit="pixels",
        zero="to leave them as they are",
    ),
    "remat": flag(
        False, "recompute blocks in the backward pass: less memory, for one more forward pass", may_change=True
    ),
}
