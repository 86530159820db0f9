"""Publishers of ResNet weights, besides torchvision and timm, whose names are the same."""

from __future__ import annotations

import re
from collections.abc import Collection

from saddle_jax.weights.publishers.base import Publisher, Tensors

_PREFIX = "resnet."  # of everything but the classifier, in a network with one
_STEM = "embedder.embedder."
_BLOCK = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(layer\.(\d+)|shortcut)\.(convolution|normalization)\.")


def _from_hugging_face(tensors: Tensors) -> Tensors:
    return {_timm_name(name): tensor for name, tensor in tensors.items()}


def _timm_name(name: str) -> str:
    name = name.removeprefix(_PREFIX).replace("classifier.1.", "fc.")
    name = name.replace(f"{_STEM}convolution.", "conv1.").replace(f"{_STEM}normalization.", "bn1.")
    if not (found := _BLOCK.match(name)):
        return name
    stage, block, _, layer, kind = found.groups()
    is_conv = kind == "convolution"
    if layer is None:
        module = "downsample.0" if is_conv else "downsample.1"
    else:
        module = f"{'conv' if is_conv else 'bn'}{int(layer) + 1}"
    return f"layer{int(stage) + 1}.{block}.{module}.{name[found.end() :]}"


def _is_hugging_face(names: Collection[str]) -> bool:
    return any(name.removeprefix(_PREFIX) == f"{_STEM}convolution.weight" for name in names)


PUBLISHERS = [Publisher("Hugging Face", _is_hugging_face, _from_hugging_face)]
