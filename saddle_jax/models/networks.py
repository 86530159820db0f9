"""Build the network that a config's model fields describe."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError
from saddle_jax.experiment.catalogue import group_of, is_dotted, make, own_code
from saddle_jax.models import heads, kernels, resnet, resnet_cifar, tuning
from saddle_jax.models.base import Network, from_flax
from saddle_jax.models.batchnorm import BatchNorm


def make_norm(model: ConfigDict, axis_name: str | None, *, epsilon: float = 1e-5) -> Callable[..., BatchNorm]:
    """Return the constructor of BatchNorm for steps mapped over `axis_name`."""
    return functools.partial(
        BatchNorm,
        axis_name=axis_name,
        synchronized=model.batch_norm == "synchronized",
        momentum=model.batch_norm_momentum,
        epsilon=epsilon,
        onednn=kernels.uses_onednn(model.kernels),
    )


def make_conv(model: ConfigDict) -> Callable[..., nn.Conv]:
    """Return the constructor of convolutions."""
    return functools.partial(nn.Conv, **kernels.conv_fields(onednn=kernels.uses_onednn(model.kernels)))


def arithmetic(model: ConfigDict) -> Any:
    """Return the dtype of the layers' arithmetic; None: that of the images."""
    return jnp.bfloat16 if model.dtype == "bfloat16" else None


def make_backbone(model: ConfigDict, axis_name: str | None) -> nn.Module:
    """Return a ResNet (images_BHWK, mask_B, train) -> features_BD for steps mapped over `axis_name`."""
    common = {
        "width": model.width,
        "dtype": arithmetic(model),
        "remat": model.remat,
        "conv": make_conv(model),
        "norm": make_norm(model, axis_name),
    }
    if model.name in resnet.ARCHITECTURES:
        return resnet.ResNet(resnet.ARCHITECTURES[model.name], **common)
    return resnet_cifar.ResNet(resnet_cifar.ARCHITECTURES[model.name], **common)


def make_linear(model: ConfigDict, num_classes: int) -> nn.Module:
    """Return the linear head for a backbone, initialized as in the reference for CIFAR, else as PyTorch's Linear."""
    is_small = model.name in resnet_cifar.ARCHITECTURES
    return heads.Linear(num_classes, heads.kaiming_normal if is_small else heads.pytorch_uniform)


def make_head(model: ConfigDict, num_classes: int) -> nn.Module:
    """Return the head that `model.head` names."""
    return heads.Normed(num_classes) if model.head == "normed" else make_linear(model, num_classes)


def make_network(config: ConfigDict, num_classes: int, axis_name: str | None) -> Network:
    """Return the network that the config names, for steps mapped over `axis_name`.

    Raises:
      ConfigError: a user's own entry returns something other than a Network.
    """
    name = config.model.name
    made = make("model.name", name, config.get(group_of(name)), config.model, num_classes, axis_name)
    if not isinstance(made, Network):
        raise ConfigError(
            f"model.name: {name} returned {type(made).__name__}, expected a saddle_jax.models.base.Network such as "
            "`from_flax` returns"
        )
    if is_dotted(name):
        init_own = made.init

        def init(key: jax.Array, image_shape: tuple[int, ...]) -> Any:
            with own_code("model.name", name):
                return init_own(key, image_shape)

        made = made._replace(init=init)
    made = tuning.resized(made, config.model.input_size) if config.model.input_size else made
    return tuning.frozen(made) if config.model.train == "head" else made


def make_resnet(fields: Any, model: ConfigDict, num_classes: int, axis_name: str | None) -> Network:
    """Return the ResNet that `model` describes. ResNets have no fields of their own."""
    del fields
    return from_flax(make_backbone(model, axis_name), make_head(model, num_classes))
