"""Places-LT from a published network: by default, AdaptFormer on CLIP's ViT-B/16 with logit adjustment, as in LIFT.

    saddle-jax --config pretrained/places_lt --config.data.root=/data/places
    saddle-jax --config pretrained/places_lt:net=vit_b16,lora --config.data.root=/data/places

The set has 62,500 training images of 365 places, 4,980 to 5 per class. data.root holds Places_LT_train.txt,
Places_LT_val.txt, Places_LT_test.txt, and Places365's train/ and val/. LIFT (Shi et al., ICML 2024) reports 52.2. We
have no results yet.
"""

from configs import imagenet_lt
from configs.pretrained import imagenet_lt as pretrained
from configs.pretrained import recipes


def get_config(argument: str = ""):
    """Return the recipe for the network, the tuning, and the method in `argument`."""
    config = imagenet_lt.base()
    config.name = config.data.name = "places_lt"
    config.eval.rank_bounds = (131, 294)
    pretrained.set_images(config)
    return recipes.apply(config, argument, default_tune="adaptformer")
