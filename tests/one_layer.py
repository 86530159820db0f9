"""The smallest network with all parts of a backbone; tests train it in place of a ResNet, as it compiles quickly."""

import functools

import flax.linen as nn

from saddle_jax.models.base import from_flax
from saddle_jax.models.heads import Normed
from saddle_jax.models.networks import make_linear, make_norm


class OneLayer(nn.Module):
    """The features of a layer with BatchNorm, as backbones have them."""

    norm: functools.partial

    @nn.compact
    def __call__(self, images_BHWK, mask_B, train):
        pixels_BP = images_BHWK.reshape(len(images_BHWK), -1)
        hidden_BD = nn.Dense(6, use_bias=False, param_dtype=pixels_BP.dtype)(pixels_BP)
        return nn.relu(self.norm(name="bn1")(hidden_BD, mask_B, train))


def make(config, num_classes, axis_name):
    """Return the network in place of the one that the config names."""
    model = config.model
    head = Normed(num_classes) if model.head == "normed" else make_linear(model, num_classes)
    return from_flax(OneLayer(make_norm(model, axis_name)), head)
