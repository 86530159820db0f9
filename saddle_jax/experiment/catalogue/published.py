"""Published weights: the files by name, the networks that they fit, and where they can be downloaded. Needs no JAX.

Nothing is downloaded by this package. A file keeps timm's name for its weights, and timm's own list of them says where
they are. The normalization is that of the network's own training.
"""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

_IMAGENET = {"data.mean": (0.485, 0.456, 0.406), "data.std": (0.229, 0.224, 0.225)}
_HALF = {"data.mean": (0.5, 0.5, 0.5), "data.std": (0.5, 0.5, 0.5)}
_CLIP = {"data.mean": (0.48145466, 0.4578275, 0.40821073), "data.std": (0.26862954, 0.26130258, 0.27577711)}


class Published(NamedTuple):
    """A file of weights."""

    file: str
    url: str
    settings: dict[str, Any]  # fields of the network and of its normalization, by full name
    trained_on: str
    sha256: str = ""  # the digits that its publisher states, if any

    def command(self, path: pathlib.Path) -> str:
        """Return the command that puts the file at `path`."""
        check = f"  # SHA-256 begins with {self.sha256}" if self.sha256 else ""
        return f"mkdir -p {path.parent} && curl -L -o {path} {self.url}{check}"


def _timm(name: str, model: str, settings: dict[str, Any], trained_on: str) -> Published:
    url = f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors"
    return Published(f"{name}.safetensors", url, {"model.name": model, **settings}, trained_on)


PUBLISHED = {
    "clip_vit_b16": _timm(
        "vit_base_patch16_clip_224.openai", "vit_b16", {"vit_b16.variant": "clip", **_CLIP}, "400 million captions"
    ),
    "clip_vit_l14": _timm(
        "vit_large_patch14_clip_224.openai", "vit_l14", {"vit_l14.variant": "clip", **_CLIP}, "400 million captions"
    ),
    "dinov2_vit_s14": _timm(
        "vit_small_patch14_dinov2.lvd142m", "vit_s14", {"vit_s14.variant": "dinov2", **_IMAGENET}, "LVD-142M, no labels"
    ),
    "dinov2_vit_b14": _timm(
        "vit_base_patch14_dinov2.lvd142m", "vit_b14", {"vit_b14.variant": "dinov2", **_IMAGENET}, "LVD-142M, no labels"
    ),
    "vit_s16": _timm("vit_small_patch16_224.augreg_in21k", "vit_s16", _HALF, "ImageNet-21k"),
    "vit_b16": _timm("vit_base_patch16_224.augreg_in21k", "vit_b16", _HALF, "ImageNet-21k"),
    "convnext_tiny": _timm("convnext_tiny.fb_in22k", "convnext_tiny", _IMAGENET, "ImageNet-21k"),
    "convnext_base": _timm("convnext_base.fb_in22k", "convnext_base", _IMAGENET, "ImageNet-21k"),
    "resnet18": Published(
        "resnet18-f37072fd.pth",
        "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        {"model.name": "resnet18", **_IMAGENET},
        "ImageNet-1k",
        "f37072fd",
    ),
    "resnet50": Published(
        "resnet50-0676ba61.pth",
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        {"model.name": "resnet50", **_IMAGENET},
        "ImageNet-1k",
        "0676ba61",
    ),
    "efficientnet_lite0": Published(
        "tf_efficientnet_lite0-0aa007d2.pth",
        "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
        "tf_efficientnet_lite0-0aa007d2.pth",
        {"model.name": "efficientnet_lite0", **_HALF},
        "ImageNet-1k",
        "0aa007d2",
    ),
}


def missing(config: ConfigDict) -> list[str]:
    """Return a problem if `model.weights` names a file that is not there, with the command that gets it."""
    path = pathlib.Path(config.model.weights).expanduser()
    if not config.model.weights or path.is_file():
        return []
    return [f"model.weights: found no file {str(path)!r}. {_how_to_get(config.model.weights, config.model.name)}"]


def _how_to_get(path: str, model: str) -> str:
    """Return the fix for a missing file: the command for this very file, or for all that fit the network."""
    wanted = pathlib.Path(path)
    own = [one for one in PUBLISHED.values() if one.file == wanted.name]
    fitting = own or [one for one in PUBLISHED.values() if one.settings["model.name"] == model]
    if not fitting:
        return "Fix: the path of your file"
    lines = [one.command(wanted if own else pathlib.Path("weights", one.file)) for one in fitting]
    return "\n".join(["Fix: download it, for example", *(f"  {line}" for line in lines)])
