"""Shared parts of the experiments that start from a published network: which network, and what of it is trained.

An argument may hold what `configs/recipes.py` takes, one of TUNINGS (`linear_probe`, `adaptformer`, `lora`, `full`),
and a network (`net=clip_vit_b16`). The network's weights are a file in weights/, or `--config.model.weights=FILE`. If
the file is missing, the command says how to download it.
"""

from ml_collections import ConfigDict

from configs import recipes
from saddle_jax.experiment.arguments import parse_argument
from saddle_jax.experiment.catalogue.published import PUBLISHED

_LIFT = {  # Shi et al., ICML 2024
    "batch_size": 128,
    "model.head": "normed",
    "loss.logit_scale": 25.0,
    "optim.lr": ((0, 0.01), ("100%", 0.0)),
    "optim.lr_interpolation": "cosine",
    "optim.weight_decay": 5e-4,
}
TUNINGS = {
    # Ours: LIFT's classifier and schedule. Features are computed once, so that the classifier trains in seconds.
    "linear_probe": {**_LIFT, "model.train": "head", "model.cache_views": 4, "duration": "20 epochs"},
    "adaptformer": {**_LIFT, "model.train": "adaptformer"},
    "lora": {**_LIFT, "model.train": "lora"},
    # Ours: every parameter, with the usual care for a pretrained network.
    "full": {
        "model.train": "all",
        "batch_size": 128,
        "duration": "10 epochs",
        "optim.base": "adamw",
        "optim.lr": ((0, 0.0), ("10%", 1e-4), ("100%", 0.0)),
        "optim.lr_interpolation": "linear",
        "optim.weight_decay": 0.05,
        "optim.clip_norm": 1.0,
        "optim.layer_decay": 0.75,
    },
}
RHO = dict.fromkeys(recipes.LOSSES, 0.05)  # ours and untuned


def apply(
    config: ConfigDict,
    argument: str,
    *,
    default_net: str = "clip_vit_b16",
    default_tune: str = "linear_probe",
    default_method: str = "la",
    epochs_of_lift: int = 10,
) -> ConfigDict:
    """Set the network, what of it is trained, and all that `configs/recipes.py` reads from an argument.

    Args:
      config: the experiment's images; changed in place.
      argument: the text after the colon of --config.
      default_net: the network if the argument names none.
      default_tune: what is trained if the argument does not say.
      default_method: the method if the argument names none.
      epochs_of_lift: the length of a run with adaptformer or lora.

    Raises:
      ConfigError: reports everything that is wrong with the argument.
    """
    choices = {"tune": tuple(TUNINGS), "net": tuple(PUBLISHED)}
    shown = recipes.shown_methods(recipes.LOSSES)
    options = parse_argument(argument, recipes.METHODS, choices, shown=shown)
    tune, net = options.chosen.get("tune", default_tune), options.chosen.get("net", default_net)
    config.update_from_flattened_dict({**TUNINGS[tune], **PUBLISHED[net].settings})
    config.model.weights = f"weights/{PUBLISHED[net].file}"
    if tune in ("adaptformer", "lora"):
        config.duration = f"{epochs_of_lift} epochs"
    loss, link = recipes.METHODS[options.method or default_method]
    recipes.set_method(config, loss, link, RHO[loss])
    return recipes.finish(config, options, f"{net}-{tune}-{recipes.name_of(loss, link)}")
