"""Publishers of EfficientNet-Lite weights, besides timm."""

from __future__ import annotations

import re
from collections.abc import Collection

from saddle_jax.weights.publishers.base import Publisher, Tensors

_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_IN_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_IN_BLOCK_WITHOUT_EXPANSION = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = re.compile(r"_blocks\.(\d+)\.")


def _from_efficientnet_lite_pytorch(tensors: Tensors) -> Tensors:
    """Number the blocks within each stage instead of consecutively, and give the layers timm's names."""
    places = _places(tensors)
    found: Tensors = {}
    for name, tensor in tensors.items():
        if block := _BLOCK.match(name):
            module, _, leaf = name[block.end() :].partition(".")
            expands = f"{block[0]}_expand_conv.weight" in tensors
            module = (_IN_BLOCK if expands else _IN_BLOCK_WITHOUT_EXPANSION).get(module, module)
            found[f"blocks.{places[int(block[1])]}.{module}.{leaf}"] = tensor
        else:
            module, _, leaf = name.partition(".")
            found[f"{_OUTSIDE.get(module, module)}.{leaf}"] = tensor
    return found


def _places(tensors: Tensors) -> dict[int, str]:
    """Return "stage.block" of each block. A stage begins where the number of filters changes."""
    numbers = sorted({int(block[1]) for name in tensors if (block := _BLOCK.match(name))})
    places: dict[int, str] = {}
    stage, inside, before = -1, 0, None
    for number in numbers:
        filters = len(tensors[f"_blocks.{number}._project_conv.weight"])
        stage, inside = (stage, inside + 1) if filters == before else (stage + 1, 0)
        places[number], before = f"{stage}.{inside}", filters
    return places


def _is_efficientnet_lite_pytorch(names: Collection[str]) -> bool:
    """Return whether these are EfficientNet-PyTorch's names; its networks that are not Lite have _se_reduce, too."""
    return "_blocks.0._depthwise_conv.weight" in names and not any("._se_reduce." in name for name in names)


PUBLISHERS = [
    Publisher("efficientnet_lite_pytorch", _is_efficientnet_lite_pytorch, _from_efficientnet_lite_pytorch),
]
