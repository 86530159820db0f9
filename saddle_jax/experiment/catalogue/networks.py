"""The networks that an experiment can name. Each takes images of any size, unless its entry says otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from saddle_jax.experiment.catalogue.entry import Network, Values
from saddle_jax.experiment.fields import Field, choice, number


def drop_path() -> Field:
    """Return the field of stochastic depth."""
    return number(
        0.0,
        "stochastic depth: probability that an image skips the last block in training; it rises from 0 in the first",
        at_least=0,
        less_than=1,
    )


def _convnext(name: str, summary: str) -> Network:
    """Return the entry of a ConvNeXt."""

    def problems(values: Values) -> Iterator[str]:
        if 0 < values["data.image_size"] < 32:
            yield (
                f"data.image_size: found {values['data.image_size']}, expected 32 or more for model.name={name!r}, "
                "which halves the image five times. Fix: --config.data.image_size=32"
            )

    return Network(
        summary,
        "saddle_jax.models.convnext:make",
        fields={"drop_path": drop_path()},
        paper="Liu et al., A ConvNet for the 2020s, CVPR 2022",
        requires={
            "model.batch_norm": ("per_device", "it has no BatchNorm"),
            "model.batch_norm_momentum": (0.1, "it has no BatchNorm"),
        },
        problems=(problems,),
        torch_head="head.fc",
    )


_HE = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
_MAKE = "saddle_jax.models.networks:make_resnet"

_VIT_FIELDS = {
    "variant": choice(
        "augreg",
        "the publisher's network",
        {
            "augreg": "Google's ViT of AugReg and big_vision, which is also timm's",
            "clip": "the image tower of OpenAI's CLIP, whose features end with its projection",
            "dinov2": "Meta's DINOv2; features are the class token",
        },
    ),
    "registers": number(0, "register tokens of the variant dinov2; published with 0 and 4", at_least=0),
    "drop_path": drop_path(),
}


def _vit(name: str, summary: str, patch: int) -> Network:
    """Return the entry of a Vision Transformer with patches of this side in pixels."""

    def problems(values: Values) -> Iterator[str]:
        variant = values[f"{name}.variant"]
        field = "model.input_size" if values["model.input_size"] else "data.image_size"
        if values[f"{name}.registers"] and variant != "dinov2":
            yield (
                f"{name}.registers={values[f'{name}.registers']} does not go with {name}.variant={variant!r}, which "
                f"has none. Fix: --config.{name}.registers=0, or --config.{name}.variant=dinov2"
            )
        if values[field] % patch:
            nearest = max(1, round(values[field] / patch)) * patch
            yield (
                f"{field}: found {values[field]}, expected a multiple of {patch}, the side of a patch of "
                f"model.name={name!r}. Fix: --config.{field}={nearest}"
            )

    return Network(
        summary,
        "saddle_jax.models.vit:make",
        fields=_VIT_FIELDS,
        paper="Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021",
        requires={
            "model.width": (1.0, "its sizes are fixed"),
            "model.batch_norm": ("per_device", "it has no BatchNorm"),
            "model.batch_norm_momentum": (0.1, "it has no BatchNorm"),
        },
        problems=(problems,),
        adapters=True,
        torch_head="head",
    )


_TAN = "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019"
_LITE = "saddle_jax.models.efficientnet_lite:make"

NETWORKS = {
    "resnet8": Network("ResNet-8 for small images: 16, 32 and 64 filters", _MAKE, paper=_HE, torch_head="linear"),
    "resnet20": Network("ResNet-20 for small images", _MAKE, paper=_HE, torch_head="linear"),
    "resnet32": Network(
        "ResNet-32 for small images, as in the paper: 0.46 million parameters", _MAKE, paper=_HE, torch_head="linear"
    ),
    "resnet44": Network("ResNet-44 for small images", _MAKE, paper=_HE, torch_head="linear"),
    "resnet56": Network("ResNet-56 for small images", _MAKE, paper=_HE, torch_head="linear"),
    "resnet110": Network("ResNet-110 for small images", _MAKE, paper=_HE, torch_head="linear"),
    "wide_resnet32": Network(
        "ResNet-32 with four times the filters: 7.4 million parameters", _MAKE, paper=_HE, torch_head="linear"
    ),
    "cifar_resnet34": Network(
        "ResNet-34 with a stem for small images: 21 million parameters", _MAKE, paper=_HE, torch_head="fc"
    ),
    "resnet10": Network("ResNet-10 for large images", _MAKE, paper=_HE, torch_head="fc"),
    "resnet18": Network("ResNet-18 for large images", _MAKE, paper=_HE, torch_head="fc"),
    "resnet34": Network("ResNet-34 for large images", _MAKE, paper=_HE, torch_head="fc"),
    "resnet50": Network("ResNet-50 for large images", _MAKE, paper=_HE, torch_head="fc"),
    "resnet101": Network("ResNet-101 for large images", _MAKE, paper=_HE, torch_head="fc"),
    "resnet152": Network("ResNet-152 for large images", _MAKE, paper=_HE, torch_head="fc"),
    "resnext50_32x4d": Network(
        "ResNeXt-50 32x4d for large images",
        _MAKE,
        paper="Xie et al., Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017",
        torch_head="fc",
    ),
    "vit_s16": _vit("vit_s16", "ViT-S/16 for large images: 22 million parameters", 16),
    "vit_b16": _vit("vit_b16", "ViT-B/16 for large images: 86 million parameters", 16),
    "vit_l16": _vit("vit_l16", "ViT-L/16 for large images: 303 million parameters", 16),
    "vit_s14": _vit("vit_s14", "ViT-S/14 for large images: 22 million parameters", 14),
    "vit_b14": _vit("vit_b14", "ViT-B/14 for large images: 86 million parameters", 14),
    "vit_l14": _vit("vit_l14", "ViT-L/14 for large images: 303 million parameters", 14),
    "efficientnet_lite0": Network(
        "EfficientNet-Lite0 for large images, fast on CPUs: 224 pixels", _LITE, paper=_TAN, torch_head="classifier"
    ),
    "efficientnet_lite1": Network("EfficientNet-Lite1: 240 pixels", _LITE, paper=_TAN, torch_head="classifier"),
    "efficientnet_lite2": Network("EfficientNet-Lite2: 260 pixels", _LITE, paper=_TAN, torch_head="classifier"),
    "convnext_tiny": _convnext("convnext_tiny", "ConvNeXt-Tiny for images of 32 pixels or more: 28 million parameters"),
    "convnext_base": _convnext("convnext_base", "ConvNeXt-Base for images of 32 pixels or more: 88 million parameters"),
}
