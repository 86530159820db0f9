"""CIFAR-100-LT with ResNet-32, the paper's recipe: 200 epochs, seed-0 subset, ratio 100.

    saddle-jax --config cifar100_lt  # LDAM+DRW+SAM
    saddle-jax --config cifar100_lt:vs_sam,ratio=50

The paper reports these best test epochs at ratio 100: CE+DRW 41.0 +- 0.6, +SAM 44.6 +- 0.4; LDAM+DRW 42.7 +- 0.3, +SAM
45.4 +- 0.1. Our measured results are in docs/results.md.
"""

from configs import cifar10_lt, recipes

# Published for CE, CE+DRW, and LDAM+DRW. All others are ours and untuned. Nobody published a rho for VS+SAM.
RHO = {
    "ce": 0.2,
    "ce_drw": 0.8,
    "ldam_drw": 0.8,
    "ce_reweight": 0.8,
    "vs": 0.5,
    "vs_drw": 0.5,
    "cdt": 0.5,
    "la": 0.5,
    "focal": 0.2,
}
SETTINGS = {
    "asam": {"asam.rho": (1.0,)},
    "imbsam": {"imbsam.tail_below": 20},
    "cc_sam": {"cc_sam.flat_ratio": 0.5},
    "sse_sam": {"sse_sam.tail_below": 100},
    "focal_sam": {
        "focal_sam.rho": (0.3,),
        "focal_sam.gamma": 3.2,
        "focal_sam.sharpness_weight": 0.8,
    },
}


def get_config(argument: str = ""):
    """Return the recipe for the method, ratio, and profile in `argument`."""
    config = cifar10_lt.base()
    config.name = "cifar100_lt"
    config.data.name = "cifar100"
    config.eval.rank_bounds = (36, 71)
    return recipes.apply(config, argument, default_method="ldam_drw_sam", rho=RHO, settings=SETTINGS)
