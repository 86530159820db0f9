"""Vision Transformers under their publishers' names, translated to timm's names and layouts.

A table holds patterns of whole names. None in place of a replacement drops a tensor, which belongs to a part that the
image network does not have. A name that no pattern matches stays as it is, so that the reader reports it.
CLIP's projection, which timm keeps as `head`, is `proj.weight` here, because our networks have a classifier behind it.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np

from saddle_jax.weights.publishers.base import Publisher, Tensors

_Rules = tuple[tuple[str, str | None], ...]

_BLOCK = r"transformer\.resblocks\.(\d+)\."
_OPENAI: _Rules = (
    (r"class_embedding", "cls_token"),
    (r"positional_embedding", "pos_embed"),
    (r"proj", "proj.weight"),
    (r"conv1\.weight", "patch_embed.proj.weight"),
    (r"ln_pre\.(.*)", r"norm_pre.\1"),
    (r"ln_post\.(.*)", r"norm.\1"),
    (_BLOCK + r"attn\.in_proj_(.*)", r"blocks.\1.attn.qkv.\2"),
    (_BLOCK + r"attn\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    (_BLOCK + r"ln_(\d\..*)", r"blocks.\1.norm\2"),
    (_BLOCK + r"mlp\.c_fc\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    (_BLOCK + r"mlp\.c_proj\.(.*)", r"blocks.\1.mlp.fc2.\2"),
)

# Files have names such as `encoder.layer.0.attention.attention.query`. In the network that transformers 5 builds from
# them, this is `layers.0.attention.q_proj`.
_BODY = r"(?:(?:vit|dinov2|dinov2_with_registers)\.)?"
_LAYER = _BODY + r"(?:encoder\.layer|layers)\.(\d+)\."
_HUGGING_FACE: _Rules = (
    (_BODY + r"embeddings\.cls_token", "cls_token"),
    (_BODY + r"embeddings\.register_tokens", "reg_token"),
    (_BODY + r"embeddings\.position_embeddings", "pos_embed"),
    (_BODY + r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
    (_LAYER + r"attention\.(?:attention\.)?(q|k|v)(?:_proj|uery|ey|alue)\.(.*)", r"blocks.\1.attn.\2.\3"),
    (_LAYER + r"attention\.(?:output\.dense|o_proj)\.(.*)", r"blocks.\1.attn.proj.\2"),
    (_LAYER + r"(?:layernorm_before|norm1)\.(.*)", r"blocks.\1.norm1.\2"),
    (_LAYER + r"(?:layernorm_after|norm2)\.(.*)", r"blocks.\1.norm2.\2"),
    (_LAYER + r"layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (_LAYER + r"(?:intermediate\.dense|mlp\.fc1)\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    (_LAYER + r"(?:output\.dense|mlp\.fc2)\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    (_BODY + r"layernorm\.(.*)", r"norm.\1"),
    (r"classifier\.(.*)", r"head.\1"),
    (_BODY + r"(?:embeddings\.mask_token|pooler\..*)", None),
)

_TOWER = r"(?:vision_model\.)?"
_CLIP_LAYER = _TOWER + r"encoder\.layers\.(\d+)\."
_HUGGING_FACE_CLIP: _Rules = (
    (_TOWER + r"embeddings\.class_embedding", "cls_token"),
    (_TOWER + r"embeddings\.position_embedding\.weight", "pos_embed"),
    (_TOWER + r"embeddings\.patch_embedding\.weight", "patch_embed.proj.weight"),
    (_TOWER + r"pre_layrnorm\.(.*)", r"norm_pre.\1"),  # spelled like this there
    (_TOWER + r"post_layernorm\.(.*)", r"norm.\1"),
    (_CLIP_LAYER + r"self_attn\.(q|k|v)_proj\.(.*)", r"blocks.\1.attn.\2.\3"),
    (_CLIP_LAYER + r"self_attn\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    (_CLIP_LAYER + r"layer_norm(\d)\.(.*)", r"blocks.\1.norm\2.\3"),
    (_CLIP_LAYER + r"(mlp\.fc\d\..*)", r"blocks.\1.\2"),
    (r"visual_projection\.weight", "proj.weight"),
    (r"text_model\..*|text_projection\..*|logit_scale|.*\.position_ids", None),
)

_DINO: _Rules = (
    (r"register_tokens", "reg_token"),
    (r"blocks\.\d+\.(\d+)\.(.*)", r"blocks.\1.\2"),  # in chunks; the blocks' numbers run across them
    (r"mask_token", None),
)

# Names within a file of Flax parameters. The numbers of a block's modules differ between the two generations.
_BIG_VISION: _Rules = (
    (r"cls", "cls_token"),
    (r"(?:Transformer/posembed_input/)?pos_embedding", "pos_embed"),
    (r"embedding/(.*)", r"patch_embed.proj.\1"),
    (r"Transformer/encoder_norm/(.*)", r"norm.\1"),
    (r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_[01]/out/(.*)", r"blocks.\1.attn.proj.\2"),
    (r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_[01]/(q|k|v)\w+/(.*)", r"blocks.\1.attn.\2.\3"),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_0/(.*)", r"blocks.\1.norm1.\2"),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_[12]/(.*)", r"blocks.\1.norm2.\2"),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_[03]/Dense_0/(.*)", r"blocks.\1.mlp.fc1.\2"),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_[03]/Dense_1/(.*)", r"blocks.\1.mlp.fc2.\2"),
    (r"head/(.*)", r"head.\1"),
    (r"pre_logits/.*", None),
)
_BIG_VISION_PREFIXES = ("opt/target/", "params/img/", "params/", "")


def _renamed(tensors: Tensors, rules: _Rules) -> Tensors:
    result = {}
    for name, tensor in tensors.items():
        pattern, new = next(((p, new) for p, new in rules if re.fullmatch(p, name)), ("", name))
        if new is not None:
            result[re.sub(pattern, new, name, count=1) if pattern else name] = tensor
    return result


def _fused(tensors: Tensors) -> Tensors:
    """Join queries, keys, and values, each (out, in) or (out,), in this order."""
    result = {}
    for name, tensor in tensors.items():
        part = re.fullmatch(r"(.*\.attn)\.(q|k|v)\.(\w+)", name)
        if part is None:
            result[name] = tensor
        elif all(f"{part[1]}.{one}.{part[3]}" in tensors for one in "qkv"):
            three = [tensors[f"{part[1]}.{one}.{part[3]}"] for one in "qkv"]
            result[f"{part[1]}.qkv.{part[3]}"] = np.concatenate(three)
        else:
            result[name] = tensor  # the reader reports it
    return result


def _with_axes(tensors: Tensors) -> Tensors:
    """Give CLIP's class token and position embedding the axes that timm's have."""
    axes = {"cls_token": (None, None), "pos_embed": (None,)}
    return {name: tensor[axes[name]] if name in axes else tensor for name, tensor in tensors.items()}


def _without_class_position(tensors: Tensors) -> Tensors:
    """With register tokens, add the position of the class token to it, as timm does."""
    if not {"reg_token", "cls_token", "pos_embed"} <= tensors.keys():
        return tensors
    positions = tensors["pos_embed"]
    return {**tensors, "cls_token": tensors["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}


def _is_timm_clip(names: Collection[str]) -> bool:
    return {"norm_pre.weight", "blocks.0.attn.qkv.weight", "head.weight"} <= set(names)


def _timm_clip(tensors: Tensors) -> Tensors:
    """Return timm's CLIP. Its head is the projection, with a bias of 0, unless it has been trained as a classifier."""
    if np.any(np.asarray(tensors.get("head.bias", 0.0), np.float32)):
        return tensors
    return _renamed(tensors, ((r"head\.weight", "proj.weight"), (r"head\.bias", None)))


def _is_openai(names: Collection[str]) -> bool:
    whole = {"visual.class_embedding", "visual.conv1.weight", "visual.transformer.resblocks.0.ln_1.weight"}
    return whole <= set(names) or {name.removeprefix("visual.") for name in whole} <= set(names)


def _openai(tensors: Tensors) -> Tensors:
    """Return the image tower of a whole CLIP, or one by itself."""
    prefix = "visual."
    tower = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    result = _with_axes(_renamed(tower or tensors, _OPENAI))
    return {name: tensor.T if name == "proj.weight" else tensor for name, tensor in result.items()}


def _is_hugging_face(names: Collection[str]) -> bool:
    return any(re.fullmatch(_BODY + r"embeddings\.patch_embeddings\.projection\.weight", name) for name in names)


def _hugging_face(tensors: Tensors) -> Tensors:
    return _without_class_position(_fused(_renamed(tensors, _HUGGING_FACE)))


def _is_hugging_face_clip(names: Collection[str]) -> bool:
    return any(re.fullmatch(_TOWER + r"embeddings\.patch_embedding\.weight", name) for name in names)


def _hugging_face_clip(tensors: Tensors) -> Tensors:
    return _with_axes(_fused(_renamed(tensors, _HUGGING_FACE_CLIP)))


def _is_dino(names: Collection[str]) -> bool:
    return {"mask_token", "cls_token", "patch_embed.proj.weight"} <= set(names)


def _dino(tensors: Tensors) -> Tensors:
    return _without_class_position(_renamed(tensors, _DINO))


def _big_vision_prefix(names: Collection[str]) -> str | None:
    return next((one for one in _BIG_VISION_PREFIXES if f"{one}embedding/kernel" in names), None)


def _is_big_vision(names: Collection[str]) -> bool:
    return _big_vision_prefix(names) is not None


def _big_vision(tensors: Tensors) -> Tensors:
    """Return Google's networks. Other entries of the file, such as the optimizer's state, are dropped."""
    prefix = _big_vision_prefix(tensors) or ""
    own: Tensors = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            continue
        name = name.removeprefix(prefix)
        if "/encoderblock/" in name:  # all blocks in one array
            numbered = (name.replace("/encoderblock/", f"/encoderblock_{n}/") for n in range(len(tensor)))
            own.update(zip(numbered, tensor, strict=True))
        else:
            own[name] = tensor
    result = {}
    for name, tensor in _renamed(own, _BIG_VISION).items():
        modules, _, leaf = name.rpartition(".")
        if leaf == "kernel":
            tensor = _torch_layout(tensor, is_output=modules.endswith("attn.proj"))
        elif re.search(r"\.attn\.[qkv]$", modules):
            tensor = tensor.reshape(-1)  # (heads, features of one)
        result[f"{modules}.weight" if leaf in ("kernel", "scale") and modules else name] = tensor
    return _fused(result)


def _torch_layout(kernel: np.ndarray, *, is_output: bool) -> np.ndarray:
    """Return (out, in) or (out, in, height, width). Kernels of attention also have an axis for the heads."""
    if kernel.ndim == 4:
        return kernel.transpose(3, 2, 0, 1)
    if kernel.ndim == 3:
        kernel = kernel.reshape((-1, kernel.shape[-1]) if is_output else (len(kernel), -1))
    return kernel.T


PUBLISHERS = [
    Publisher("timm's CLIP", _is_timm_clip, _timm_clip),
    Publisher("OpenAI's CLIP", _is_openai, _openai),
    Publisher("Hugging Face's ViT or DINOv2", _is_hugging_face, _hugging_face),
    Publisher("Hugging Face's CLIP", _is_hugging_face_clip, _hugging_face_clip),
    Publisher("Meta's DINOv2", _is_dino, _dino),
    Publisher("Google's big_vision", _is_big_vision, _big_vision),
]
