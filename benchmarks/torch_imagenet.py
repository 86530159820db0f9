"""torchvision's ResNets and ResNeXts in PyTorch, with torchvision's names, for benchmarks and tests only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class Normed(nn.Module):
    """Cosines between features and class vectors, as LDAM uses them."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.weight = nn.Parameter(functional.normalize(torch.rand(features, classes) * 2 - 1, dim=0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits between -1 and 1."""
        return functional.normalize(x, dim=1) @ functional.normalize(self.weight, dim=0)


class Block(nn.Module):
    """Two 3x3 convolutions, or a 3x3 between two 1x1 ones, next to a shortcut."""

    def __init__(self, shape: Sequence[tuple[int, int, int]], inputs: int, stride: int, groups: int):
        """Take (inputs, outputs, kernel size) of each convolution."""
        super().__init__()
        first_3x3 = next(number for number, (_, _, size) in enumerate(shape) if size == 3)
        for number, (width_in, width_out, size) in enumerate(shape):
            step, parts = (stride, groups) if number == first_3x3 else (1, 1)
            conv = nn.Conv2d(width_in, width_out, size, step, size // 2, groups=parts, bias=False)
            setattr(self, f"conv{number + 1}", conv)
            setattr(self, f"bn{number + 1}", nn.BatchNorm2d(width_out))
        self.length, outputs = len(shape), shape[-1][1]
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(convolutions(x) + shortcut(x))."""
        y = x
        for number in range(1, self.length + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = functional.relu(y) if number < self.length else y
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet-50 is (3, 4, 6, 3) with bottlenecks. ResNeXt-50 32x4d is the same with 32 groups of 4 filters."""

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 6, 3),
        *,
        bottleneck: bool = True,
        groups: int = 1,
        group_width: int = 64,
        classes: int = 1000,
        normed: bool = False,
    ):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for stage, length in enumerate(blocks):
            filters = 64 * 2**stage
            inner = groups * group_width * 2**stage
            outputs = 4 * filters if bottleneck else filters
            layer = nn.Sequential()
            for number in range(length):
                shape = [(inputs, inner, 1), (inner, inner, 3), (inner, outputs, 1)]
                if not bottleneck:
                    shape = [(inputs, filters, 3), (filters, filters, 3)]
                layer.append(Block(shape, inputs, 2 if stage > 0 and number == 0 else 1, groups))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", layer)
        self.fc = Normed(inputs, classes) if normed else nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))
