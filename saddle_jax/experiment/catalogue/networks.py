"""The networks that an experiment can name. Each takes images of any size, unless its entry says otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from saddle_jax.experiment.catalogue.entry import Network, Values
from saddle_jax.experiment.fields import Field, number


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
    )


_HE = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
_MAKE = "saddle_jax.models.networks:make_resnet"

_TAN = "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019"
_LITE = "saddle_jax.models.efficientnet_lite:make"

NETWORKS = {
    "resnet8": Network("ResNet-8 for small images: 16, 32 and 64 filters", _MAKE, paper=_HE),
    "resnet20": Network("ResNet-20 for small images", _MAKE, paper=_HE),
    "resnet32": Network("ResNet-32 for small images, the paper's: 0.46 million parameters", _MAKE, paper=_HE),
    "resnet44": Network("ResNet-44 for small images", _MAKE, paper=_HE),
    "resnet56": Network("ResNet-56 for small images", _MAKE, paper=_HE),
    "resnet110": Network("ResNet-110 for small images", _MAKE, paper=_HE),
    "wide_resnet32": Network("ResNet-32 with four times the filters: 7.4 million parameters", _MAKE, paper=_HE),
    "cifar_resnet34": Network("ResNet-34 with a stem for small images: 21 million parameters", _MAKE, paper=_HE),
    "resnet10": Network("ResNet-10 for large images", _MAKE, paper=_HE),
    "resnet18": Network("ResNet-18 for large images", _MAKE, paper=_HE),
    "resnet34": Network("ResNet-34 for large images", _MAKE, paper=_HE),
    "resnet50": Network("ResNet-50 for large images", _MAKE, paper=_HE),
    "resnet101": Network("ResNet-101 for large images", _MAKE, paper=_HE),
    "resnet152": Network("ResNet-152 for large images", _MAKE, paper=_HE),
    "resnext50_32x4d": Network(
        "ResNeXt-50 32x4d for large images",
        _MAKE,
        paper="Xie et al., Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017",
    ),
    "efficientnet_lite0": Network("EfficientNet-Lite0 for large images, fast on CPUs: 224 pixels", _LITE, paper=_TAN),
    "efficientnet_lite1": Network("EfficientNet-Lite1: 240 pixels", _LITE, paper=_TAN),
    "efficientnet_lite2": Network("EfficientNet-Lite2: 260 pixels", _LITE, paper=_TAN),
    "convnext_tiny": _convnext("convnext_tiny", "ConvNeXt-Tiny for images of 32 pixels or more: 28 million parameters"),
    "convnext_base": _convnext("convnext_base", "ConvNeXt-Base for images of 32 pixels or more: 88 million parameters"),
}
