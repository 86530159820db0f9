"""GLMC and GLMC + SAM on ImageNet-LT: 135 epochs of ResNeXt-50 32x4d.

    saddle-jax --config methods/glmc_imagenet_lt --config.data.root=/data/imagenet       # GLMC + SAM
    saddle-jax --config methods/glmc_imagenet_lt:glmc --config.data.root=/data/imagenet  # with SGD
    saddle-jax --config methods/glmc_imagenet_lt:smoke                                   # without data

data.root is that of configs/imagenet_lt.py. GLMC's authors report 56.3 overall, and 70.1 / 52.4 / 30.4 for many /
medium / few. Nothing is published for GLMC + SAM here, so rho is that of CIFAR, untuned. We have no results yet.

Differs from GLMC's code: there, the warm-up is one epoch late, so the first epoch runs at the full learning rate. Here,
the first epoch has the lowest rate of the warm-up. There, one coin toss per run chooses between two augmentations.
Here, the augmentation is always the one with RandAugment.
"""

from configs import imagenet_lt, recipes

WARM_UP = 10  # epochs
RHO = 0.05


def get_config(argument: str = ""):
    """Return the recipe for the method in `argument`."""
    config = base(135)
    imagenet_lt.set_images(config)
    config.name = "imagenet_lt-resnext50"
    config.batch_size = 120
    config.optim.weight_decay = 2e-4
    return recipes.one_method(config, argument, RHO, imagenet_lt.SETTINGS)


def base(epochs: int):
    """Return the settings that both large recipes share."""
    config = imagenet_lt.base()
    config.method = "glmc"
    config.duration = f"{epochs} epochs"
    config.data.augmentation = "randaugment"
    config.model.name = "resnext50_32x4d"
    config.glmc.resample_power = 0.2
    config.glmc.label_weight_power = 1.0
    config.glmc.contrast = 10.0
    config.glmc.projection_dim = 256
    warm_up = ((epoch, round(0.1 * (epoch + 1) / WARM_UP, 4)) for epoch in range(WARM_UP))
    config.optim.lr = (*warm_up, (WARM_UP, 0.1), (epochs, 0.0))
    return config
