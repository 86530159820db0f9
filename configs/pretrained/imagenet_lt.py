"""ImageNet-LT from a published network: by default, AdaptFormer on CLIP's ViT-B/16 with logit adjustment, as in LIFT.

    saddle-jax --config pretrained/imagenet_lt --config.data.root=/data/imagenet

LIFT (Shi et al., ICML 2024) reports 78.3. We have no results yet. The lists are those of configs/imagenet_lt.py. Never
start from a network that was trained on ImageNet with labels: it has seen the images that this set leaves out.
"""

from configs import imagenet_lt
from configs.pretrained import recipes


def get_config(argument: str = ""):
    """Return the recipe for the network, the tuning, and the method in `argument`."""
    config = imagenet_lt.base()
    imagenet_lt.set_images(config)
    config.name = "imagenet_lt"
    set_images(config)
    return recipes.apply(config, argument, default_tune="adaptformer")


def set_images(config) -> None:
    """Set how photographs are prepared, as in LIFT."""
    config.data.color_jitter = 0.0
    config.loss.drw_start = "80%"
    config.eval.batch_size = 100
