"""The originals of our networks, PyTorch's libraries; a test that needs one is skipped where it is missing."""

from __future__ import annotations

from types import ModuleType

import pytest

# What torchvision registers, beside its compiled part. That part does not load with every build of torch, and
# networks do not need it.
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def library(name: str) -> ModuleType:
    """Import and return torch, timm, or torchvision, or skip the test."""
    torch = pytest.importorskip("torch")
    if not hasattr(torch.ops.torchvision, "nms"):
        definitions = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            definitions.define(operator)
        _KEPT.append(definitions)
    return pytest.importorskip(name)


_KEPT: list = []  # PyTorch forgets the operators of a library that nobody holds
