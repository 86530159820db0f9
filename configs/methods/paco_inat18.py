"""iNaturalist 2018 with PaCo and PaCo+SAM, ResNet-50 from scratch: 400 epochs.

    python main.py --config configs/methods/paco_inat18.py --config.data.root=/data/inat18               # PaCo+SAM
    python main.py --config configs/methods/paco_inat18.py:paco --config.data.root=/data/inat18          # plain SGD
    python main.py --config configs/methods/paco_inat18.py:smoke                                         # without the data

Published, best epoch: PaCo 73.2, PaCo+SAM 73.4 (no code, no radius). Ours is not measured yet. The radius is that of
configs/methods/paco_imagenet_lt.py, ours, not tuned.
"""

from configs import imagenet_lt
from configs.methods import paco_imagenet_lt


def get_config(argument: str = ""):
    """Return the recipe for the method that `argument` names."""
    config = imagenet_lt.base()
    config.name = "paco_inat18"
    config.data.name = "inat18"
    config.data.test_split = "validation"
    config.data.mean = (0.466, 0.471, 0.380)
    config.data.std = (0.195, 0.194, 0.192)
    config.optim.weight_decay = 1e-4
    config.eval.rank_bounds = (842, 4543)
    return paco_imagenet_lt.recipe(config, argument)
