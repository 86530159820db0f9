"""iNaturalist 2018 from a published network: by default, AdaptFormer on CLIP's ViT-B/16 with logit adjustment.

    saddle-jax --config pretrained/inat18 --config.data.root=/data/inat18

LIFT (Shi et al., ICML 2024) reports about 80.4 after 20 epochs, which is the length of this run. We have no results
yet. The lists are those of configs/inat18.py.
"""

from configs import imagenet_lt, inat18
from configs.pretrained import imagenet_lt as pretrained
from configs.pretrained import recipes


def get_config(argument: str = ""):
    """Return the recipe for the network, the tuning, and the method in `argument`."""
    config = imagenet_lt.base()
    inat18.set_images(config)
    config.name = "inat18"
    pretrained.set_images(config)
    return recipes.apply(config, argument, default_tune="adaptformer", epochs_of_lift=20)
