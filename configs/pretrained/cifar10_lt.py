"""CIFAR-10-LT from a published network: by default, a cosine classifier on CLIP's ViT-B/16, with logit adjustment.

    saddle-jax --config pretrained/cifar10_lt
    saddle-jax --config pretrained/cifar10_lt:adaptformer,la_sam
    saddle-jax --config pretrained/cifar10_lt:net=efficientnet_lite0

Compare results only among networks that were pretrained on the same images; ImageNet, for example, contains classes of
CIFAR. adaptformer and lora have the settings of LIFT (Shi et al., ICML 2024), except for its augmentation and its
classifier's initial weights. linear_probe and full are ours. Measured results are in docs/pretrained.md.
"""

from configs import cifar10_lt
from configs.pretrained import recipes


def get_config(argument: str = ""):
    """Return the recipe for the network, the tuning, the method, ratio, and profile in `argument`."""
    config = cifar10_lt.base()
    config.name = "cifar10_lt"
    config.data.name = "cifar10"
    config.eval.rank_bounds = (3, 7)
    set_images(config)
    return recipes.apply(config, argument)


def set_images(config) -> None:
    """Set how small images enter a large network."""
    config.model.input_size = 224
    config.loss.drw_start = "80%"
    config.eval.batch_size = 100
