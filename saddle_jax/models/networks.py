"""From the config's model fields to the network that they describe."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from saddle_jax.models import resnet, resnet_cifar
from saddle_jax.models.batchnorm import BatchNorm


def make_network(model: ConfigDict, num_classes: int, axis_name: str | None) -> nn.Module:
    """Return a network (images_BHWK, mask_B, train) -> logits_BC, for steps mapped over `axis_name`."""
    common = {
        "num_classes": num_classes,
        "width": model.width,
        "normed_head": model.head == "normed",
        "dtype": jnp.bfloat16 if model.dtype == "bfloat16" else None,
        "remat": model.remat,
        "norm": functools.partial(
            BatchNorm,
            axis_name=axis_name,
            synchronized=model.batch_norm == "synchronized",
            momentum=model.batch_norm_momentum,
        ),
    }
    if model.name in resnet.ARCHITECTURES:
        return resnet.ResNet(resnet.ARCHITECTURES[model.name], **common)
    return resnet_cifar.ResNet(resnet_cifar.BLOCKS_PER_STAGE[model.name], **common)
