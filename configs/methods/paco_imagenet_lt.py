"""ImageNet-LT with PaCo and PaCo+SAM, ResNet-50 from scratch: 400 epochs.

    saddle-jax --config methods/paco_imagenet_lt --config.data.root=/data/imagenet       # PaCo+SAM
    saddle-jax --config methods/paco_imagenet_lt:paco --config.data.root=/data/imagenet  # plain SGD
    saddle-jax --config methods/paco_imagenet_lt --config.data.root=/data/imagenet --config.model.name=resnext50_32x4d
    saddle-jax --config methods/paco_imagenet_lt:smoke                                   # no data

PaCo's authors report 57.0 for the best epoch on the test list (58.2 with ResNeXt-50 and a temperature of 0.07).
Leaderboards list PaCo+SAM at 57.5, without code or radius. We have no results yet. The radius is ours and untuned: 0.05
and 0.1 as in the paper's recipes, then 0.2, at the same fractions of the run.
"""

from configs import imagenet_lt, recipes

LR = 0.02
RHO = ((0, 0.05), (22, 0.1), (267, 0.2))


def get_config(argument: str = ""):
    """Return the recipe for the method in `argument`."""
    config = base()
    imagenet_lt.set_images(config)
    config.name = "imagenet_lt"
    config.optim.weight_decay = 5e-4
    return recipes.one_method(config, argument, RHO, imagenet_lt.SETTINGS)


def base():
    """Return the settings that both large recipes share."""
    config = imagenet_lt.base()
    config.method = "paco"
    config.batch_size = 128
    config.duration = "400 epochs"
    config.data.drop_last = True
    config.data.augmentation = "randaugment"
    config.paco.alpha, config.paco.temperature = 0.05, 0.2
    config.paco.queue_size, config.paco.dim = 8192, 128
    # Every epoch of the warm-up has a knot. The cosine starts at the last of these, epoch 9.
    warm_up = ((epoch, round(LR * (epoch + 1) / 10, 4)) for epoch in range(10))
    config.optim.lr = (*warm_up, (400, 0.0))
    return config
