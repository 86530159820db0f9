"""A network's weights under PyTorch's names, as safetensors: torchvision's and the reference's networks load them."""

from __future__ import annotations

import json

import jax
import safetensors.numpy

from saddle_jax.errors import ConfigError
from saddle_jax.experiment.catalogue import is_dotted
from saddle_jax.inference.classifier import Classifier
from saddle_jax.inference.function import method_of
from saddle_jax.models import resnet, resnet_cifar
from saddle_jax.pytorch import names

# PyTorch's name of each network's classifier: torchvision's, and that of the reference's CIFAR networks.
_HEADS = dict.fromkeys(resnet.ARCHITECTURES, "fc") | dict.fromkeys(resnet_cifar.ARCHITECTURES, "linear")


def serialize(classifier: Classifier) -> bytes:
    """Return the state_dict of the PyTorch network that computes the same logits; of a cosine head, the cosines.

    Raises:
      ConfigError: PyTorch has no names for the network, or the network has no place for the adjustment of its logits.
    """
    config = classifier.config
    head, network_of = _HEADS.get(config.model.name), method_of(classifier).network_of
    if head is None or network_of is None or is_dotted(config.method):
        named = f"model.name={config.model.name} and method={config.method}"
        raise ConfigError(f"model.safetensors: there is no PyTorch network like that of {named}")
    params, model_state = jax.device_get(network_of(classifier.params, classifier.model_state))
    tensors = names.to_torch(params, model_state, head=head, steps=classifier.step)
    if classifier.offsets_C.any():
        if (bias := f"{head}.bias") not in tensors:
            raise ConfigError(
                "model.safetensors: a cosine head has no bias that could hold the adjustment of its logits"
            )
        tensors[bias] = (tensors[bias] - classifier.offsets_C).astype(tensors[bias].dtype)
    return safetensors.numpy.save(tensors, {"format": "pt", "class_names": json.dumps(classifier.stats.names)})
