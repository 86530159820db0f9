"""Your own images, in one folder per class. The command looks at them, chooses the settings, and says why.

    saddle-jax --config folder --config.data.root=my_images             # logit adjustment and SAM
    saddle-jax --config folder:ce_drw_sam --config.data.root=my_images  # CE+DRW+SAM
    saddle-jax --config folder:epochs=50 --config.data.root=my_images --config.model.name=resnet50

data.root holds my_images/<class>/*, or my_images/train/<class>/* with val/ or test/ beside train/. Without a folder of
test images, a fifth of every class becomes test images. A tenth of the rest chooses the best epoch. The image size, the
network, the normalization, the augmentation, the batch size, and the number of epochs follow from the images. The
settings are ours, and untuned.
"""

from configs import default, recipes

RHO = dict.fromkeys(recipes.LOSSES, 0.1)


def get_config(argument: str = ""):
    """Return the recipe for the method in `argument`."""
    return recipes.apply(base(), argument, default_method="la_sam", rho=RHO)


def base():
    """Return the settings for any folder of images."""
    config = default.get_config()
    config.name = "folder"
    config.data.source = "folder"
    config.data.fit_to_images = True
    config.data.profile = "as_is"
    config.data.max_bad_fraction = 0.05
    config.data.validation_fraction = 0.1
    config.data.validation_floor = 2
    config.optim.lr = ((0, 0.02), ("5%", 0.1), ("100%", 0.0))
    config.optim.lr_interpolation = "cosine"
    config.optim.weight_decay = 5e-4
    config.loss.drw_start = "80%"
    return config
