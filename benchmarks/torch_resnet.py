"""The reference's ResNet in PyTorch, and a train step as in a plain loop, for benchmarks only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

CUDA = torch.cuda.is_available()
PLACE = torch.device("cuda" if CUDA else "cpu")


class Block(torch.nn.Module):
    """Two convolutions next to a parameter-free shortcut."""

    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.conv2 = torch.nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = torch.nn.BatchNorm2d(width), torch.nn.BatchNorm2d(width)
        self.stride, self.missing = stride, width - width_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(convolutions(x) + shortcut(x))."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        half = self.missing // 2
        return functional.relu(
            y + functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
        )


class ResNet(torch.nn.Module):
    """ResNet-32 has 5 blocks in each of its three stages. ResNet-8 has 1. Parameters have the reference's names."""

    def __init__(self, blocks: int = 5, classes: int = 10):
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(16)
        inputs = 16
        for stage, width in enumerate((16, 32, 64)):
            first = Block(inputs, width, 1 if stage == 0 else 2)
            rest = (Block(width, width, 1) for _ in range(blocks - 1))
            setattr(self, f"layer{stage + 1}", torch.nn.Sequential(first, *rest))
            inputs = width
        self.linear = torch.nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def allow_tf32(allowed: bool) -> None:
    """Set whether a GPU may compute float32 products in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def make_step(
    network: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    rho: float | None,
    channels_last: bool = False,
    compiled: bool = False,
    bfloat16: bool = False,
) -> Callable[[], None]:
    """Return one train step on a batch that is already on the device, normalized, and in float32.

    Args:
      network: images to logits; trained in place.
      rho: SAM's radius; None is plain SGD.
      bfloat16: run the forward pass under autocast.
    """
    torch.backends.cudnn.benchmark = True
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = network.to(PLACE).to(memory_format=layout)
    x = torch.tensor(images.transpose(0, 3, 1, 2) / 255 - 0.5, dtype=torch.float32, device=PLACE)
    x, y = x.contiguous(memory_format=layout), torch.tensor(labels, device=PLACE).long()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=2e-4)
    forward = torch.compile(net) if compiled else net

    def backward() -> None:
        optimizer.zero_grad()
        with torch.autocast(PLACE.type, torch.bfloat16) if bfloat16 else contextlib.nullcontext():
            loss = functional.cross_entropy(forward(x), y)
        loss.backward()

    def step() -> None:
        backward()
        if rho is not None:
            shifts = _climb(net, rho)
            backward()
            with torch.no_grad():
                for weight, shift in zip(net.parameters(), shifts, strict=True):
                    weight.sub_(shift)
        optimizer.step()
        if CUDA:
            torch.cuda.synchronize()

    return step


@torch.no_grad()
def _climb(net: torch.nn.Module, rho: float) -> list[torch.Tensor]:
    grads = [weight.grad for weight in net.parameters()]
    norm = torch.stack([grad.norm() for grad in grads]).norm()
    shifts = [grad * (rho / (norm + 1e-12)) for grad in grads]
    for weight, shift in zip(net.parameters(), shifts, strict=True):
        weight.add_(shift)
    return shifts
