"""CIFAR-100-LT from a published network: by default, a cosine classifier on CLIP's ViT-B/16, with logit adjustment.

    saddle-jax --config pretrained/cifar100_lt
    saddle-jax --config pretrained/cifar100_lt:adaptformer,la_sam
    saddle-jax --config pretrained/cifar100_lt:net=efficientnet_lite0

LIFT reports 81.7 at ratio 100 with CLIP's ViT-B/16 and AdaptFormer. See configs/pretrained/cifar10_lt.py.
"""

from configs import cifar10_lt as images
from configs.pretrained import cifar10_lt, recipes


def get_config(argument: str = ""):
    """Return the recipe for the network, the tuning, the method, ratio, and profile in `argument`."""
    config = images.base()
    config.name = "cifar100_lt"
    config.data.name = "cifar100"
    config.eval.rank_bounds = (36, 71)
    cifar10_lt.set_images(config)
    return recipes.apply(config, argument)
