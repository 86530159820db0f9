"""Vision Transformers of their publishers, tiny and in float64, as figures to be equal to; both sides draw the weights.

    PYTHONPATH=.:tests python -m golden_vit       # needs timm and transformers; writes tests/golden/vit.npz

As in golden_imagenet, every array is drawn from a seed that is its name. The file holds, of each case, the names and
shapes of the original's tensors, and its features. Originals of the layouts that no library writes are timm's
networks, which read the tensors with timm's own code.
"""

from __future__ import annotations

import functools
import json
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np
from golden_imagenet import draw
from torch_libraries import library

FILE = pathlib.Path(__file__).parent / "golden" / "vit.npz"
DIM, DEPTH, HEADS, PATCH, PROJECTION, CLASSES = 16, 2, 2, 8, 12, 5
SIZE = (16, 16)


class Case(NamedTuple):
    """A publisher's tensors."""

    variant: str
    publisher: str  # "" where names are timm's
    registers: int = 0
    size: tuple[int, int] = SIZE
    has_head: bool = False


CASES = {
    "timm": Case("augreg", "", size=(16, 24), has_head=True),
    "timm_clip": Case("clip", "timm's CLIP"),
    "timm_dinov2": Case("dinov2", ""),
    "timm_registers": Case("dinov2", "", 3),
    "openai": Case("clip", "OpenAI's CLIP"),
    "dinov2": Case("dinov2", "Meta's DINOv2"),
    "dinov2_registers": Case("dinov2", "Meta's DINOv2", 3),
    "augreg_npz": Case("augreg", "Google's big_vision", has_head=True),
    "big_vision_npz": Case("augreg", "Google's big_vision", has_head=True),
    "hugging_face_vit": Case("augreg", "Hugging Face's ViT or DINOv2"),
    "hugging_face_classifier": Case("augreg", "Hugging Face's ViT or DINOv2", has_head=True),
    "hugging_face_clip": Case("clip", "Hugging Face's CLIP"),
    "hugging_face_clip_vision": Case("clip", "Hugging Face's CLIP"),
    "hugging_face_dinov2": Case("dinov2", "Hugging Face's ViT or DINOv2"),
    "hugging_face_registers": Case("dinov2", "Hugging Face's ViT or DINOv2", 3),
}


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a tensor, sized so that tokens neither vanish nor grow, and all differ from an initial value."""
    x = draw(name, shape)
    if len(shape) > 1:
        return x * (0.5 if "token" in name or "pos" in name else 0.35)
    return 1 + x / 2 if name.endswith(("weight", "scale", "gamma", "lambda1")) else x / 3


def tensors_of(shapes: dict[str, tuple[int, ...]], case: str) -> dict[str, np.ndarray]:
    """Return the tensors of these shapes. timm's CLIP has a bias of 0 behind its projection."""
    tensors = {name: np.asarray(value(name, tuple(shape))) for name, shape in shapes.items()}
    if case == "timm_clip":
        tensors["head.bias"] = np.zeros(PROJECTION)
    return tensors


def images_of(case: Case) -> np.ndarray:
    """Return normalized images (B, H, W, 3)."""
    return 2 * draw("images", (3, *case.size, 3))


def timm_network(case: Case, **fields):
    """Return timm's network, in float64."""
    from timm.layers import LayerNorm
    from timm.models.vision_transformer import VisionTransformer

    clip = {
        "pre_norm": True,
        "norm_layer": functools.partial(LayerNorm, eps=1e-5),
        "act_layer": "quick_gelu",
        "num_classes": PROJECTION,
    }
    dinov2 = {"init_values": 1e-5, "reg_tokens": case.registers, "no_embed_class": case.registers > 0, "num_classes": 0}
    own = {"augreg": {"num_classes": CLASSES if case.has_head else 0}, "clip": clip, "dinov2": dinov2}[case.variant]
    sizes = {"img_size": case.size, "patch_size": PATCH, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS}
    return VisionTransformer(**sizes, **own, **fields).double().eval()


def features_of(network, case: Case) -> np.ndarray:
    """Return those of timm's network."""
    import torch

    with torch.no_grad():
        images = torch.from_numpy(images_of(case).transpose(0, 3, 1, 2))
        tokens = network.forward_features(images)
        return (network(images) if case.variant == "clip" else tokens[:, 0]).numpy()


def fill(network, case: str) -> None:
    """Set the drawn values of a case."""
    import torch

    tensors = tensors_of({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}, case)
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})


def _timm(name: str) -> tuple[dict, np.ndarray]:
    case = CASES[name]
    network = timm_network(case)
    fill(network, name)
    return {key: tensor.shape for key, tensor in network.state_dict().items()}, features_of(network, case)


def _through_timm(name: str, shapes: dict[str, tuple[int, ...]]) -> tuple[dict, np.ndarray]:
    """Let timm's own code read the tensors."""
    import torch
    from timm.models.vision_transformer import checkpoint_filter_fn

    network = timm_network(CASES[name])
    tensors = {key: torch.from_numpy(tensor) for key, tensor in tensors_of(shapes, name).items()}
    network.load_state_dict(checkpoint_filter_fn(tensors, network))
    return shapes, features_of(network, CASES[name])


def _openai(name: str) -> tuple[dict, np.ndarray]:
    def block(prefix: str, dim: int) -> dict:
        pairs = {"ln_1": (dim,), "ln_2": (dim,), "attn.out_proj": (dim, dim), "mlp.c_fc": (4 * dim, dim)}
        pairs |= {"mlp.c_proj": (dim, 4 * dim)}
        both = {f"{prefix}{key}.weight": shape for key, shape in pairs.items()}
        both |= {f"{prefix}{key}.bias": shape[:1] for key, shape in pairs.items()}
        return both | {f"{prefix}attn.in_proj_weight": (3 * dim, dim), f"{prefix}attn.in_proj_bias": (3 * dim,)}

    shapes = {
        "positional_embedding": (7, 8),
        "text_projection": (8, PROJECTION),
        "logit_scale": (),
        "token_embedding.weight": (20, 8),
        **block("transformer.resblocks.0.", 8),
        "ln_final.weight": (8,),
        "ln_final.bias": (8,),
        "visual.class_embedding": (DIM,),
        "visual.positional_embedding": (5, DIM),
        "visual.proj": (DIM, PROJECTION),
        "visual.conv1.weight": (DIM, 3, PATCH, PATCH),
        **{f"visual.ln_{which}.{leaf}": (DIM,) for which in ("pre", "post") for leaf in ("weight", "bias")},
        **block("visual.transformer.resblocks.0.", DIM),
        **block("visual.transformer.resblocks.1.", DIM),
    }
    return _through_timm(name, shapes)


def _dinov2(name: str) -> tuple[dict, np.ndarray]:
    """As Meta's code saves it: timm's names but for the tokens, and a position for the class token."""
    case = CASES[name]
    shapes = {key: tuple(tensor.shape) for key, tensor in timm_network(case).state_dict().items()}
    shapes |= {"mask_token": (1, DIM), "pos_embed": (1, 5, DIM)}
    if "reg_token" in shapes:
        shapes["register_tokens"] = shapes.pop("reg_token")
    return _through_timm(name, shapes)


def _flax(name: str) -> tuple[dict, np.ndarray]:
    """As Google's code saves it: AugReg block by block, big_vision with all blocks in one array."""
    case, is_new = CASES[name], name == "big_vision_npz"
    numbers = {"attention": 0, "norm": 1, "mlp": 0} if is_new else {"attention": 1, "norm": 2, "mlp": 3}
    attention, mlp = f"MultiHeadDotProductAttention_{numbers['attention']}", f"MlpBlock_{numbers['mlp']}"
    block: dict[str, tuple[int, ...]] = {
        f"{norm}/{leaf}": (DIM,)
        for norm in ("LayerNorm_0", f"LayerNorm_{numbers['norm']}")
        for leaf in ("scale", "bias")
    }
    for part in ("query", "key", "value"):
        block |= {f"{attention}/{part}/kernel": (DIM, HEADS, DIM // HEADS)}
        block |= {f"{attention}/{part}/bias": (HEADS, DIM // HEADS)}
    block |= {f"{attention}/out/kernel": (HEADS, DIM // HEADS, DIM), f"{attention}/out/bias": (DIM,)}
    block |= {f"{mlp}/Dense_0/kernel": (DIM, 4 * DIM), f"{mlp}/Dense_0/bias": (4 * DIM,)}
    block |= {f"{mlp}/Dense_1/kernel": (4 * DIM, DIM), f"{mlp}/Dense_1/bias": (DIM,)}
    shapes = {
        "cls": (1, 1, DIM),
        "embedding/kernel": (PATCH, PATCH, 3, DIM),
        "embedding/bias": (DIM,),
        "head/kernel": (DIM, CLASSES),
        "head/bias": (CLASSES,),
        "Transformer/encoder_norm/scale": (DIM,),
        "Transformer/encoder_norm/bias": (DIM,),
    }
    if is_new:
        shapes |= {f"Transformer/encoderblock/{key}": (DEPTH, *shape) for key, shape in block.items()}
        shapes |= {"pos_embedding": (1, 5, DIM)}
        shapes = {f"params/{key}": shape for key, shape in shapes.items()}
    else:
        for index in range(DEPTH):
            shapes |= {f"Transformer/encoderblock_{index}/{key}": shape for key, shape in block.items()}
        shapes |= {"Transformer/posembed_input/pos_embedding": (1, 5, DIM)}
        shapes |= {"pre_logits/kernel": (DIM, DIM), "pre_logits/bias": (DIM,)}
    network = timm_network(case)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/network.npz", **tensors_of(shapes, name))
        network.load_pretrained(f"{folder}/network.npz")
    return shapes, features_of(network, case)


def _hugging_face(name: str) -> tuple[dict, np.ndarray]:
    import torch
    import transformers
    from safetensors.numpy import load_file, save_file

    case = CASES[name]
    sizes = {"hidden_size": DIM, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "image_size": SIZE[0]}
    sizes |= {"patch_size": PATCH, "layer_norm_eps": 1e-5 if case.variant == "clip" else 1e-6}
    inner = {"intermediate_size": 4 * DIM}
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if name == "hugging_face_vit":
        network = transformers.ViTModel(transformers.ViTConfig(**sizes, **inner))
    elif name == "hugging_face_classifier":
        network = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, **inner, num_labels=CLASSES))
    elif name == "hugging_face_clip":
        config = transformers.CLIPConfig(vision_config={**sizes, **inner}, text_config=text, projection_dim=PROJECTION)
        network = transformers.CLIPModel(config)
    elif name == "hugging_face_clip_vision":
        network = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**sizes, **inner, projection_dim=PROJECTION)
        )
    elif name == "hugging_face_dinov2":
        network = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    else:
        network = transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=case.registers)
        )
    with tempfile.TemporaryDirectory() as folder:  # names in files are not those of its modules
        network.save_pretrained(folder)
        file = f"{folder}/model.safetensors"
        shapes = {key: tensor.shape for key, tensor in load_file(file).items()}
        save_file(tensors_of(shapes, name), file, {"format": "pt"})
        network = type(network).from_pretrained(folder, dtype=torch.float64).eval()
    images = torch.from_numpy(images_of(case).transpose(0, 3, 1, 2))
    with torch.no_grad():
        if name == "hugging_face_clip":
            found = network.get_image_features(images)
            features = getattr(found, "pooler_output", found)
        elif name == "hugging_face_clip_vision":
            features = network(images).image_embeds
        else:
            body = network.vit if name == "hugging_face_classifier" else network
            features = body(images).last_hidden_state[:, 0]
    return shapes, features.numpy()


_ORIGINALS = {"timm": _timm, "openai": _openai, "dinov2": _dinov2, "hugging": _hugging_face, "": _flax}


def figures(source: str) -> dict[str, np.ndarray]:
    """Compute what timm, or transformers, knows of what the file holds."""
    found = {}
    for name in CASES:
        if name.startswith("hugging") == (source == "transformers"):
            original = next(original for start, original in _ORIGINALS.items() if name.startswith(start))
            shapes, found[f"{name}/features"] = original(name)
            found[f"{name}/shapes"] = np.array(json.dumps({key: list(shape) for key, shape in shapes.items()}))
    return found


if __name__ == "__main__":
    library("timm"), library("transformers")
    np.savez_compressed(FILE, **figures("timm"), **figures("transformers"))
