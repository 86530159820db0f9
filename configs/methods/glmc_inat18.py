"""GLMC and GLMC + SAM on iNaturalist 2018: 120 epochs of ResNeXt-50 32x4d.

    saddle-jax --config methods/glmc_inat18 --config.data.root=/data/inat18       # GLMC + SAM
    saddle-jax --config methods/glmc_inat18:glmc --config.data.root=/data/inat18  # with SGD
    saddle-jax --config methods/glmc_inat18:smoke                                 # without data

data.root is that of configs/inat18.py. GLMC's authors report 72.21. Nothing is published for GLMC + SAM here, so rho is
that of CIFAR, untuned. Resampling, label weights, and the contrastive term's factor are those of ImageNet-LT, the only
published recipe. We have no results yet.
"""

from configs import inat18, recipes
from configs.methods import glmc_imagenet_lt


def get_config(argument: str = ""):
    """Return the recipe for the method in `argument`."""
    config = glmc_imagenet_lt.base(120)
    inat18.set_images(config)
    config.name = "inat18-resnext50"
    config.batch_size = 128
    config.optim.weight_decay = 1e-4
    return recipes.one_method(config, argument, glmc_imagenet_lt.RHO, inat18.SETTINGS)
