"""iNaturalist 2018 with PaCo and PaCo+SAM, ResNet-50 from scratch: 400 epochs.

    saddle-jax --config methods/paco_inat18 --config.data.root=/data/inat18       # PaCo+SAM
    saddle-jax --config methods/paco_inat18:paco --config.data.root=/data/inat18  # plain SGD
    saddle-jax --config methods/paco_inat18:smoke                                 # no data

PaCo's authors report 73.2 for the best epoch. Leaderboards list PaCo+SAM at 73.4, without code or radius. We have no
results yet. The radius is that of configs/methods/paco_imagenet_lt.py, which is ours and untuned.
"""

from configs import inat18, recipes
from configs.methods import paco_imagenet_lt


def get_config(argument: str = ""):
    """Return the recipe for the method in `argument`."""
    config = paco_imagenet_lt.base()
    inat18.set_images(config)
    config.name = "inat18"
    config.optim.weight_decay = 1e-4
    return recipes.one_method(config, argument, paco_imagenet_lt.RHO, inat18.SETTINGS)
