"""GLMC and GLMC + SAM on CIFAR-10-LT and CIFAR-100-LT: 200 epochs of a CIFAR ResNet-34 (21 million parameters).

    saddle-jax --config methods/glmc_cifar:data=cifar100,ratio=100       # GLMC + SAM
    saddle-jax --config methods/glmc_cifar:glmc,data=cifar100,ratio=100  # GLMC with SGD
    saddle-jax --config methods/glmc_cifar:glmc_published,data=cifar10,ratio=50
    saddle-jax --config methods/glmc_cifar:net=wide_resnet32,data=cifar10,ratio=100
    saddle-jax --config methods/glmc_cifar:smoke

data is cifar10 (the default) or cifar100. ratio is 100 (the default), 50, or 10; any other ratio uses the settings of
the next smaller of these. With profile=as_is, ratio says which ratio the images already have.

glmc and glmc_sam differ only in SAM. Resampling, label weights, and the contrastive term's factor are those of GLMC's
authors. glmc_published and glmc_sam_published are the settings of the GLMC + SAM repository, which uses one setting for
all ratios. On CIFAR-10, it compares a factor of 4 without SAM to a factor of 1 with SAM.

The repository reports these best test epochs with ResNet-34, for CIFAR-10 at 50 and 100 and CIFAR-100 at 50 and 100:
GLMC 89.81, 87.55, 62.49, 57.63; GLMC + SAM 91.56, 89.18, 65.28, 59.01. GLMC's authors report 91.04, 88.50, 63.78, 57.97
with the wide ResNet-32 (7.4 million parameters, sixteen times those of the paper's ResNet-32). We have no results yet.
"""

from configs import cifar100_lt, default, recipes
from saddle_jax.experiment.arguments import parse_argument

METHODS = {
    **recipes.with_links(["glmc"]),
    "glmc_published": ("glmc", "sgd"),
    "glmc_sam_published": ("glmc", "sam"),
}
CHOICES = {"data": ("cifar10", "cifar100"), "net": ("cifar_resnet34", "wide_resnet32")}
# ratio: glmc.resample_power, glmc.label_weight_power, glmc.contrast
AUTHORS = {
    "cifar10": {10: (0.2, 1.0, 2.0), 50: (0.0, 1.2, 1.0), 100: (0.0, 1.2, 1.0)},
    "cifar100": {10: (0.2, 1.2, 4.0), 50: (0.2, 1.2, 6.0), 100: (0.0, 1.2, 4.0)},
}
SETTINGS = {"cifar10": {}, "cifar100": cifar100_lt.SETTINGS}
RANK_BOUNDS = {"cifar10": (3, 7), "cifar100": (36, 71)}
STD = {"cifar10": (0.247, 0.243, 0.262), "cifar100": (0.2023, 0.1994, 0.2010)}
PROJECTION_DIM = {"cifar_resnet34": 256, "wide_resnet32": 128}


def get_config(argument: str = ""):
    """Return the recipe for the method, data set, network, ratio, and profile in `argument`."""
    shown = recipes.shown_methods(["glmc"], recipes.LINKS_OF_METHODS)
    options = parse_argument(argument, METHODS, CHOICES, shown=f"glmc_published, glmc_sam_published, {shown}")
    method = options.method or "glmc_sam"
    data = options.chosen.get("data", "cifar10")
    net = options.chosen.get("net", "cifar_resnet34")

    config = default.get_config()
    config.name = f"{data}_lt-{net}"
    config.method = "glmc"
    config.batch_size = 64
    config.data.source, config.data.name = "tfds", data
    config.data.mean, config.data.std = (0.4914, 0.4822, 0.4465), STD[data]
    config.model.name = net
    config.glmc.projection_dim = PROJECTION_DIM[net]
    config.glmc.resample_power, config.glmc.label_weight_power, config.glmc.contrast = settings(
        method, data, options.ratio or config.data.ratio
    )
    config.optim.lr, config.optim.lr_interpolation = ((0, 0.01), (200, 0.0)), "cosine"
    config.optim.weight_decay = 5e-3
    recipes.set_link(config, METHODS[method][1], 0.05, SETTINGS[data])
    config.eval.every = "1 epoch"  # the published figures are the best of 200 evaluations
    config.eval.rank_bounds = RANK_BOUNDS[data]
    return recipes.finish(config, options, method.removesuffix("_sgd"), ratio_has_settings=True)


def settings(method: str, data: str, ratio: float) -> tuple[float, float, float]:
    """Return the resampling power, the label weights' power, and the contrastive term's factor."""
    if method == "glmc_published":
        return 0.0, 1.2, 4.0
    if method == "glmc_sam_published":
        return 0.0, 1.2, 1.0 if data == "cifar10" else 4.0
    known = AUTHORS[data]
    return known[max((r for r in known if r <= ratio), default=min(known))]
