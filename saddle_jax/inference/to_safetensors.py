"""A network's weights under PyTorch's names, as safetensors: torchvision's and the reference's networks load them."""

from __future__ import annotations

import json

import jax
import safetensors.numpy

from saddle_jax.errors import ConfigError
from saddle_jax.experiment.catalogue import is_dotted
from saddle_jax.inference.function import Network
from saddle_jax.models import resnet, resnet_cifar
from saddle_jax.pytorch import names

# PyTorch's name of each network's classifier: torchvision's, and that of the reference's CIFAR networks.
_HEADS = dict.fromkeys(resnet.ARCHITECTURES, "fc") | dict.fromkeys(resnet_cifar.ARCHITECTURES, "linear")


def serialize(network: Network) -> bytes:
    """Return the state_dict of the PyTorch network that computes the same logits; of a cosine head, the cosines.

    Raises:
      ConfigError: PyTorch has no names for the network, or the network has no place for the adjustment of its logits.
    """
    classifier, network_of = network.classifier, network.method().network_of
    config = classifier.config
    if network_of is None or is_dotted(config.method) or config.model.name not in _HEADS:
        field, name = (
            ("model.name", config.model.name) if config.model.name not in _HEADS else ("method", config.method)
        )
        raise ConfigError(f"model.safetensors: there are no names in PyTorch for {field}={name!r}, which is your own")
    head = _HEADS[config.model.name]
    params, model_state = jax.device_get(network_of(network.params, classifier.model_state))
    tensors = names.to_torch(params, model_state, head=head, steps=classifier.step)
    if network.offsets_C is not None:
        if (bias := f"{head}.bias") not in tensors:
            raise ConfigError(
                "model.safetensors: a cosine head has no bias that could hold the adjustment of its logits"
            )
        tensors[bias] = (tensors[bias] - network.offsets_C).astype(tensors[bias].dtype)
    return safetensors.numpy.save(tensors, {"format": "pt", "class_names": json.dumps(classifier.stats.names)})
