"""Translate the names and layouts of a network's parameters from PyTorch and timm to ours, and back.

layer1.0.conv1.weight           (out, in, h, w)  params/layer1_0/conv1/kernel            (h, w, in, out)
layer1.0.bn1.weight, .bias                       params/layer1_0/bn1/scale, /bias
layer1.0.bn1.running_mean, _var                  batch_stats/layer1_0/bn1/mean, /var
layer1.0.downsample.0.weight                     params/layer1_0/downsample_conv/kernel
blocks.0.attn.qkv.weight        (out, in)        params/blocks_0/attn/qkv/kernel         (in, out)
linear., fc. or head.weight     (out, in)        params/linear/kernel                    (in, out)
linear.weight without a bias    (in, out)        params/linear/kernel                    (in, out): cosine head
fc_cb.weight                    (out, in)        params/linear_balanced/kernel           (in, out)
projection_head.0.weight        (out, in)        params/projector/kernel                 (in, out)
contrast_head.0.weight          (out, in)        params/predictor/kernel                 (in, out)

The last three belong to GLMC's wide ResNet-32. The layers of GLMC's ResNet-34 have other names and are not supported.
Prefixes that training code puts before all these names are removed: `module.`, `model.`, and the like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from flax import traverse_util

from saddle_jax.errors import CheckpointError

_HEAD = ("params", "linear")
_CLASSIFIERS = (_HEAD, ("params", "linear_balanced"))
# From DataParallel, Lightning, and torch.compile, and the usual names of a module that holds the network; also nested.
_PREFIX = re.compile(r"((module|model|_orig_mod|net|backbone)\.)+")
_RULES = (
    (r"^(fc|classifier|head\.fc)\.|^head\.(?=weight$|bias$)", "linear."),
    (r"^fc_cb\.", "linear_balanced."),
    (r"^projection_head\.0\.", "projector."),
    (r"^contrast_head\.0\.", "predictor."),
    (r"\b(layer\d+\.\d+)\.downsample\.0\.", r"\1.downsample_conv."),
    (r"\b(layer\d+\.\d+)\.downsample\.1\.", r"\1.downsample_bn."),
    (r"\.(?=\d+\.)", "_"),
)
_STATISTICS = {"running_mean": "mean", "running_var": "var"}
_THEIR_MODULES = (
    (r"\bdownsample_conv\b", "downsample.0"),
    (r"\bdownsample_bn\b", "downsample.1"),
    (r"_(?=\d+(_|\.|$))", "."),
)
_THEIR_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}

Path = tuple[str, ...]


def prefix_of(name: str) -> str:
    """Return the prefix that `our_path` removes from a tensor's name; it may be empty."""
    found = _PREFIX.match(name)
    return found[0] if found else ""


def our_path(name: str, dimensions: int) -> Path:
    """Return the path for a tensor of this name, whether or not a network has it."""
    name = name[len(prefix_of(name)) :]
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    *modules, leaf = name.split(".")
    if leaf in _STATISTICS:
        return ("batch_stats", *modules, _STATISTICS[leaf])
    if leaf == "weight":
        leaf = "scale" if dimensions == 1 else "kernel"
    return ("params", *modules, leaf)


def convert(
    tensors: Mapping[str, np.ndarray], params: Any, model_state: Any, outputs_C: np.ndarray | None = None
) -> tuple[Any, Any]:
    """Return the tensors as trees with the structure and dtypes of `params` and `model_state`.

    Args:
      tensors: maps PyTorch's names to tensors.
      params: parameters of the network, arrays or shapes.
      model_state: other state of the network, arrays or shapes.
      outputs_C: the checkpoint's output for each of our classes, or None if the order is the same.

    Raises:
      CheckpointError: the tensors do not fit the network. The error lists every tensor without a parameter, every
        parameter without a tensor, and every wrong shape, dtype, or value.
    """
    expected = traverse_util.flatten_dict({"params": params, **model_state})
    names = [name for name in tensors if name.rpartition(".")[2] != "num_batches_tracked"]
    biased = {path[:-1] for name in names if (path := our_path(name, 1))[-1] == "bias"}
    problems: list[str] = []
    found: dict[Path, np.ndarray] = {}
    took: dict[Path, str] = {}
    for name in names:
        path = our_path(name, tensors[name].ndim)
        if path in took:
            problems.append(f"{name!r} and {took[path]!r} both map to {'/'.join(path)}")
        elif path not in expected:
            problems.append(f"{name!r}: the network has no {'/'.join(path)!r}")
        else:
            took[path] = name
            is_cosine = path[:-1] in _CLASSIFIERS and path[:-1] not in biased
            value = _our_layout(tensors[name], transposed=not is_cosine)
            if misfit := _misfit(value, expected[path]):
                problems.append(f"{name!r} as {'/'.join(path)}: {misfit}")
            else:
                with np.errstate(over="ignore"):
                    found[path] = np.array(value, expected[path].dtype, order="C")
                if not np.isfinite(found[path]).all():
                    problems.append(f"{name!r} holds a number that is not finite")
    problems += [f"{'/'.join(path)}: the file has no tensor for it" for path in expected if path not in took]
    if problems:
        common = {prefix_of(name) + name[len(prefix_of(name)) :].partition(".")[0] + "." for name in names}
        if not took and len(common) == 1 < len(names):
            raise CheckpointError(
                f"all {len(names)} names begin with {common.pop()!r}, expected names such as 'conv1.weight' and "
                "'layer1.0.conv1.weight'. Fix: save the state_dict of the network itself, without this prefix"
            )
        has_bias = _HEAD in biased
        head = f", here --config.model.head={'linear' if has_bias else 'normed'}"
        wrong_head = ((*_HEAD, "bias") in expected) != has_bias and any(path[:-1] == _HEAD for path in took)
        lines = [
            f"the file does not fit the config's network ({len(problems)} problems). Fix: set the fields of "
            f"config.model and the classes as they were in training{head if wrong_head else ''}",
            *(f"  - {problem}" for problem in problems),
        ]
        raise CheckpointError("\n".join(lines))
    if outputs_C is not None:
        for path in found:
            if path[:-1] in _CLASSIFIERS:
                found[path] = found[path][..., outputs_C]
    trees = traverse_util.unflatten_dict(found)
    return trees.pop("params"), trees


def to_torch(params: Any, model_state: Any, *, head: str, steps: int) -> dict[str, np.ndarray]:
    """Return a network's parameters and state as the state_dict of its PyTorch network; `convert` is its inverse.

    Args:
      params: parameters of the network alone, without a method's further heads.
      model_state: other state of the network, arrays.
      head: PyTorch's name of the classifier: fc in torchvision, linear in the reference, head in timm's transformers.
      steps: training steps taken. PyTorch's BatchNorm counts them, and a strict load needs the count.
    """
    ours: dict[Path, Any] = traverse_util.flatten_dict({"params": params, **model_state})
    tensors: dict[str, np.ndarray] = {}
    for path, value in ours.items():
        modules = ".".join({"linear": head}.get(module, module) for module in path[1:-1])
        for ours_in_name, theirs in _THEIR_MODULES:
            modules = re.sub(ours_in_name, theirs, modules)
        is_cosine = path[:-1] in _CLASSIFIERS and (*path[:-1], "bias") not in ours
        is_transposed = path[-1] == "kernel" and not is_cosine
        name = f"{modules}.{_THEIR_LEAVES.get(path[-1], path[-1])}".lstrip(".")
        tensors[name] = _their_layout(np.asarray(value), is_transposed)
        if path[-1] == "mean":
            tensors[f"{modules}.num_batches_tracked"] = np.array(steps, np.int64)
    return tensors


def _their_layout(array: np.ndarray, is_transposed: bool) -> np.ndarray:
    array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T if is_transposed else array
    return np.ascontiguousarray(array)


def _our_layout(tensor: np.ndarray, *, transposed: bool) -> np.ndarray:
    if tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor.T if transposed and tensor.ndim == 2 else tensor


def _misfit(value: np.ndarray, expected: Any) -> str:
    if not np.issubdtype(value.dtype, np.floating) and value.dtype != ml_dtypes.bfloat16:
        return f"found {value.dtype}, expected floating-point numbers"
    if value.shape != expected.shape:
        return f"found {value.shape}, expected {expected.shape}"
    return ""
