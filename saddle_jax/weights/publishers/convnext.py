"""Publishers of ConvNeXt weights, besides timm."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from saddle_jax.weights.publishers.base import Publisher, Tensors

Rules = Sequence[tuple[str, str]]  # patterns and replacements, applied one after the other

_FACEBOOK: Rules = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"^norm\.", "head.norm."),
    (r"^head\.(?=weight$|bias$)", "head.fc."),
)
_HUGGING_FACE: Rules = (
    (r"^convnext\.", ""),
    (r"^embeddings\.patch_embeddings\.", "stem.0."),
    (r"^embeddings\.layernorm\.", "stem.1."),
    (r"^encoder\.stages\.(\d+)\.downsampling_layer\.", r"stages.\1.downsample."),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.layernorm\.", ".norm."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"^layernorm\.", "head.norm."),
    (r"^classifier\.", "head.fc."),
)
# In torchvision, `features` holds the stem, and then by turns a stage and the layers before the next one.
_IN_BLOCK = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}
_TORCHVISION: Rules = (
    (r"^features\.0\.", "stem."),
    (r"\.layer_scale$", ".gamma"),
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
)


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _from_facebook(tensors: Tensors) -> Tensors:
    return {_renamed(name, _FACEBOOK): tensor for name, tensor in tensors.items()}


def _from_hugging_face(tensors: Tensors) -> Tensors:
    return {_renamed(name, _HUGGING_FACE): tensor for name, tensor in tensors.items()}


def _from_torchvision(tensors: Tensors) -> Tensors:
    """Translate the names; torchvision's layer scale has two more axes of length 1."""
    return {
        _torchvision_name(name): tensor.reshape(-1) if name.endswith(".layer_scale") else tensor
        for name, tensor in tensors.items()
    }


def _torchvision_name(name: str) -> str:
    name = _renamed(name, _TORCHVISION)
    if not (found := re.match(r"features\.(\d+)\.(\d+)\.(block\.(\d)\.)?", name)):
        return name
    place, inside, rest = int(found[1]), found[2], name[found.end() :]
    if place % 2 == 0:  # between two stages
        return f"stages.{place // 2}.downsample.{inside}.{rest}"
    module = f"{_IN_BLOCK[found[4]]}." if found[3] else ""
    return f"stages.{place // 2}.blocks.{inside}.{module}{rest}"


def _is_facebook(names: Collection[str]) -> bool:
    return "stages.0.0.dwconv.weight" in names


def _is_hugging_face(names: Collection[str]) -> bool:
    return any(name.removeprefix("convnext.") == "encoder.stages.0.layers.0.dwconv.weight" for name in names)


def _is_torchvision(names: Collection[str]) -> bool:
    return "features.1.0.layer_scale" in names


PUBLISHERS = [
    Publisher("Facebook Research", _is_facebook, _from_facebook),
    Publisher("Hugging Face", _is_hugging_face, _from_hugging_face),
    Publisher("torchvision", _is_torchvision, _from_torchvision),
]
