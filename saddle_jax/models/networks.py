"""From the config's model fields to the network that they describe."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from saddle_jax.models import heads, kernels, resnet, resnet_cifar
from saddle_jax.models.base import Network, from_flax
from saddle_jax.models.batchnorm import BatchNorm


def make_norm(model: ConfigDict, axis_name: str | None) -> Callable[..., BatchNorm]:
    """Return the constructor of BatchNorm, for steps mapped over `axis_name`."""
    return functools.partial(
        BatchNorm,
        axis_name=axis_name,
        synchronized=model.batch_norm == "synchronized",
        momentum=model.batch_norm_momentum,
        onednn=kernels.uses_onednn(model.kernels),
    )


def make_backbone(model: ConfigDict, axis_name: str | None) -> nn.Module:
    """Return a network (images_BHWK, mask_B, train) -> features_BD, for steps mapped over `axis_name`."""
    common = {
        "width": model.width,
        "dtype": jnp.bfloat16 if model.dtype == "bfloat16" else None,
        "remat": model.remat,
        "conv": functools.partial(nn.Conv, **kernels.conv_fields(onednn=kernels.uses_onednn(model.kernels))),
        "norm": make_norm(model, axis_name),
    }
    if model.name in resnet.ARCHITECTURES:
        return resnet.ResNet(resnet.ARCHITECTURES[model.name], **common)
    return resnet_cifar.ResNet(resnet_cifar.ARCHITECTURES[model.name], **common)


def make_linear(model: ConfigDict, num_classes: int) -> nn.Module:
    """Return the linear head that belongs to a backbone: its weights start as the reference's do."""
    is_large = model.name in resnet.ARCHITECTURES
    return heads.Linear(num_classes, heads.pytorch_uniform if is_large else heads.kaiming_normal)


def make_network(model: ConfigDict, num_classes: int, axis_name: str | None) -> Network:
    """Return the network that the config describes, for steps mapped over `axis_name`."""
    head = heads.Normed(num_classes) if model.head == "normed" else make_linear(model, num_classes)
    return from_flax(make_backbone(model, axis_name), head)
