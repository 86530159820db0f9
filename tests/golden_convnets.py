"""Small convolutional networks of timm, in float64, as figures to be equal to; both sides draw the same weights.

    python -m tests.golden_convnets       # needs timm; writes tests/golden/convnets.npz

Every array is drawn from its name, as in golden_imagenet. The file holds names, shapes, and features.
"""

from __future__ import annotations

import pathlib

import numpy as np

from tests.golden_imagenet import draw

FILE = pathlib.Path(__file__).parent / "golden" / "convnets.npz"
SIZE = 37  # pixels: TensorFlow's padding differs from PyTorch's at even sizes, which the layers inside have


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a parameter or a running statistic. Activations grow enough for ReLU6 to clip some at 6."""
    x = draw(name, shape)
    if len(shape) > 1:
        return x * (8 / np.prod(shape[1:])) ** 0.5
    return x if name.endswith(("bias", "mean")) else 1 + x / 2


def images() -> np.ndarray:
    """Return normalized images (B, H, W, 3)."""
    return 2 * draw("convnet images", (3, SIZE, SIZE, 3))


def tensors_of(names: np.ndarray, shapes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the weights that the file lists."""
    return {name: value(name, tuple(map(int, shape.split()))) for name, shape in zip(names, shapes, strict=True)}


def efficientnet_lite():
    """Return timm's EfficientNet-Lite of three stages and a quarter of the filters, without a classifier."""
    import functools

    from timm.models import _efficientnet_builder as builder
    from timm.models.efficientnet import EfficientNet
    from torch import nn

    stages = [["ds_r1_k3_s1_e1_c16"], ["ir_r2_k5_s2_e6_c24"], ["ir_r1_k3_s2_e6_c40"]]
    return EfficientNet(
        block_args=builder.decode_arch_def(stages, 1.0, fix_first_last=True),
        num_features=320,
        stem_size=8,
        fix_stem=True,
        round_chs_fn=functools.partial(builder.round_channels, multiplier=0.25),
        act_layer=nn.ReLU6,
        norm_layer=functools.partial(nn.BatchNorm2d, eps=1e-3),
        pad_type="same",
        num_classes=0,
    )


def convnext():
    """Return timm's ConvNeXt with few blocks and filters, without a classifier."""
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(depths=(1, 1, 2, 1), dims=(4, 8, 16, 32), num_classes=0)


FAMILIES = {"efficientnet_lite": efficientnet_lite, "convnext": convnext}


def figures() -> dict[str, np.ndarray]:
    """Return everything that the file holds, by timm."""
    import torch

    found = {}
    x = torch.tensor(images().transpose(0, 3, 1, 2))
    for family, make in FAMILIES.items():
        net = make().double().eval()
        shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items() if "num_batches" not in name}
        net.load_state_dict({k: torch.tensor(value(k, shape)) for k, shape in shapes.items()}, strict=False)
        found[f"{family}/names"] = np.array(list(shapes))
        found[f"{family}/shapes"] = np.array([" ".join(map(str, shape)) for shape in shapes.values()])
        with torch.no_grad():
            found[f"{family}/features"] = net(x).numpy()
    return found


if __name__ == "__main__":
    from tests.torch_libraries import library

    library("timm")
    np.savez_compressed(FILE, **figures())
    print(f"written {FILE.name}, {FILE.stat().st_size / 1e3:.0f} kB")
