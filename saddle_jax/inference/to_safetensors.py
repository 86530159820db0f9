"""A network's weights under PyTorch's names, as safetensors: torchvision's and the reference's networks load them."""

from __future__ import annotations

import json

import jax
import safetensors.numpy

from saddle_jax.errors import ConfigError
from saddle_jax.experiment.catalogue import find, is_dotted
from saddle_jax.inference.classifier import Classifier
from saddle_jax.inference.function import method_of
from saddle_jax.models import adapters
from saddle_jax.weights import names


def serialize(classifier: Classifier) -> bytes:
    """Return the state_dict of the PyTorch network that computes the same logits; of a cosine head, the cosines.

    LoRA's updates are added to the matrices that they belong to.

    Raises:
      ConfigError: PyTorch has no names for the network, or the network has no place for the adjustment of its logits.
    """
    config = classifier.config
    head, network_of = find("model.name", config.model.name).torch_head, method_of(classifier).network_of
    named = f"model.name={config.model.name} and method={config.method}"
    if not head or network_of is None or is_dotted(config.method):
        raise ConfigError(f"model.safetensors: there is no PyTorch network like that of {named}")
    params, model_state = jax.device_get(network_of(classifier.params, classifier.model_state))
    if "proj" in params:
        raise ConfigError("model.safetensors: no PyTorch network has a classifier behind CLIP's projection")
    try:
        params = jax.device_get(adapters.merged(params))
    except ValueError as error:
        raise ConfigError(f"model.safetensors: {error}") from error
    tensors = names.to_torch(params, model_state, head=head, steps=classifier.step)
    if classifier.offsets_C.any():
        if (bias := f"{head}.bias") not in tensors:
            raise ConfigError(
                "model.safetensors: a cosine head has no bias that could hold the adjustment of its logits"
            )
        tensors[bias] = (tensors[bias] - classifier.offsets_C).astype(tensors[bias].dtype)
    return safetensors.numpy.save(tensors, {"format": "pt", "class_names": json.dumps(classifier.stats.names)})
