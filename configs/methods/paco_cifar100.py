"""CIFAR-100-LT with PaCo and PaCo+SAM, the narrow ResNet-32: 400 epochs, seed-0 subset, ratio 100.

    saddle-jax --config methods/paco_cifar100        # PaCo+SAM, ratio 100
    saddle-jax --config methods/paco_cifar100:paco_sam,ratio=200
    saddle-jax --config methods/paco_cifar100:paco   # plain SGD, the authors' recipe
    saddle-jax --config methods/paco_cifar100:smoke  # without the data

Leaderboards list PaCo+SAM at 53.0 for ratio 100 and 48.0 for ratio 200 (best test epoch, without code or radius), and
PaCo at 52.0 for ratio 100. We have no results yet. The radius of 0.1 is ours and untuned. --config.sam.rho=0.05 and 0.2
are worth a try, but are just as untested.
"""

from configs import cifar10_lt, cifar100_lt, recipes

LR = 0.05


def get_config(argument: str = ""):
    """Return the recipe for the method, ratio, and profile in `argument`."""
    config = cifar10_lt.base()
    config.name = "cifar100_lt"
    config.method = "paco"
    config.duration = "400 epochs"
    config.data.name = "cifar100"
    config.data.drop_last = True
    config.data.augmentation = "autoaugment"
    config.paco.alpha, config.paco.temperature = 0.01, 0.05
    config.paco.queue_size, config.paco.dim = 1024, 32
    config.optim.weight_decay = 5e-4
    # Epoch 10, the last of the warm-up, has a higher rate than the epochs after it, as published.
    warm_up = ((epoch, round(LR * (epoch + 1) / 10, 4)) for epoch in range(11))
    config.optim.lr = (*warm_up, (11, LR), (321, LR / 10), (361, LR / 100))
    config.eval.rank_bounds = (36, 71)
    return recipes.one_method(config, argument, 0.1, cifar100_lt.SETTINGS)
