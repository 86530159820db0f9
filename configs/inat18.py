"""iNaturalist 2018 with ResNet-50 from scratch, the paper's recipe: 90 epochs; 437,513 images of 8,142 species.

    saddle-jax --config inat18 --config.data.root=/data/inat18             # LDAM+DRW+SAM
    saddle-jax --config inat18:ce_drw_sam --config.data.root=/data/inat18  # CE+DRW+SAM
    saddle-jax --config inat18 --config.data.source=tfds                   # prepared as array_record
    saddle-jax --config inat18:smoke                                       # without the data

data.root holds iNaturalist18_train.txt, iNaturalist18_val.txt, and train_val2018/. As usual, the validation list is the
test set, because the official test set has no labels. The paper reports these best epochs: CE+DRW 63.0, +SAM 65.3;
LDAM+DRW 67.5, +SAM 70.1. We have no results yet. EXIF orientations are obeyed, as in configs/imagenet_lt.py.
"""

from configs import imagenet_lt, recipes

# Published for CE+DRW and LDAM+DRW. All others are ours and untuned. The paper has no VS here.
RHO = dict.fromkeys(recipes.LOSSES, ((0, 0.05), (5, 0.1))) | {
    "ce_drw": ((0, 0.05), (5, 0.1), (60, 0.1), (75, 0.2)),
    "ldam_drw": ((0, 0.05), (5, 0.1), (60, 0.5), (75, 0.5)),
    "vs_drw": ((0, 0.05), (5, 0.1), (60, 0.1), (75, 0.2)),
}
SETTINGS = {
    "ldam": {"ldam.max_margin": 0.3, "optim.weight_decay": 1e-4},
    "focal_sam": {"focal_sam.gamma": 2.0, "focal_sam.sharpness_weight": 1.1},
}


def get_config(argument: str = ""):
    """Return the recipe for the method in `argument`."""
    config = imagenet_lt.base()
    set_images(config)
    config.name = "inat18"
    config.optim.lr = ((0, 0.1), (90, 0.0))
    return recipes.apply(config, argument, default_method="ldam_drw_sam", rho=RHO, settings=SETTINGS)


def set_images(config) -> None:
    """Set the image fields, for any method."""
    config.data.name = "inat18"
    config.data.test_split = "validation"
    config.data.mean = (0.466, 0.471, 0.380)
    config.data.std = (0.195, 0.194, 0.192)
    config.eval.rank_bounds = (842, 4543)
