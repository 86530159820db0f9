"""Your own images, in one folder per class, from a published network: a classifier on its features, in minutes.

    saddle-jax --config pretrained/folder:net=resnet18 --config.data.root=my_images
    saddle-jax --config pretrained/folder:net=clip_vit_b16,adaptformer --config.data.root=my_images

If the file of the network's weights is missing, the command says how to download it. Folders are read as in
configs/folder.py, which trains from scratch. By default, the features of every image are computed once, and a cosine
classifier is trained on them with logit adjustment and SAM. A CPU is enough for that. The settings are ours and
untuned.
"""

from configs import folder
from configs.pretrained import recipes


def get_config(argument: str = ""):
    """Return the recipe for the network, the tuning, and the method in `argument`."""
    config = folder.base()
    config.model.input_size = 224
    config.eval.batch_size = 100
    return recipes.apply(config, argument, default_net="resnet18", default_method="la_sam")
