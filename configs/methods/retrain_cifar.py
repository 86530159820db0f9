"""CC-SAM's second stage on CIFAR-10-LT and CIFAR-100-LT: 30 epochs of the classifier alone, after a ResNet-32 run.

    saddle-jax --config cifar10_lt:ce_cc_sam,ratio=100 --workdir runs/first  # CIFAR-10-LT
    saddle-jax --config methods/retrain_cifar:ratio=100 --config.start_from=runs/first

    saddle-jax --config cifar100_lt:ce_cc_sam,ratio=100 --workdir runs/first  # CIFAR-100-LT
    saddle-jax --config methods/retrain_cifar:data=cifar100,ratio=100 --config.start_from=runs/first

    saddle-jax --config cifar10_lt:smoke,ce_cc_sam --workdir runs/smoke  # without data
    saddle-jax --config methods/retrain_cifar:smoke --config.start_from=runs/smoke

data is cifar10 (the default) or cifar100. `retrain` uses plain SGD, as the authors do; `retrain_sam` and so on add a
link. The first stage can be any run of the plain method with a linear head. Use the same data, ratio, and network as in
that run. --config.retrain.flat_limit=0 leaves only re-training on class-balanced draws.
--config.optim.batch_stats=frozen keeps the first run's running statistics, which the authors' code updates.

The settings are the authors'. Their first stage uses batches of 64, a learning rate of 0.1 that falls to a tenth at
epochs 160 and 180, and MixUp, which is not available here. With both stages, they report these results at ratios 200,
100, and 50: CIFAR-10 80.94, 83.92, 86.22; CIFAR-100 45.66, 50.83, 53.91. We have no results yet.
"""

from configs import cifar10_lt, cifar100_lt, recipes
from saddle_jax.experiment.arguments import parse_argument

METHODS = recipes.with_links(["retrain"])
SETTINGS = {"cifar10": {}, "cifar100": cifar100_lt.SETTINGS}
RANK_BOUNDS = {"cifar10": (3, 7), "cifar100": (36, 71)}
FLAT_LIMIT = {"cifar10": 1.0, "cifar100": 0.3}


def get_config(argument: str = ""):
    """Return the recipe for the method, data set, ratio, and profile in `argument`, without `start_from`."""
    shown = recipes.shown_methods(["retrain"], recipes.LINKS_OF_METHODS)
    options = parse_argument(argument, METHODS, {"data": tuple(RANK_BOUNDS)}, shown=shown)
    method, link = METHODS[options.method or "retrain"]
    data = options.chosen.get("data", "cifar10")

    config = cifar10_lt.base()
    config.name = f"{data}_lt"
    config.method = method
    config.batch_size = 64
    config.duration = "30 epochs"
    config.data.name = data
    config.data.sampling = "balanced"
    config.retrain.flat_limit = FLAT_LIMIT[data]
    config.optim.lr = ((0, 0.01),)
    config.loss.drw_start = "80%"  # of this run; the first run's value is past this run's end
    config.eval.rank_bounds = RANK_BOUNDS[data]
    recipes.set_link(config, link, 0.05, SETTINGS[data])
    return recipes.finish(config, options, recipes.name_of(method, link))
