"""ResNets for large images in PyTorch, in float64, as figures to be equal to; both sides draw the same weights.

    python -m tests.golden_imagenet       # needs PyTorch; writes tests/golden/imagenet.npz

A file of weights would be large. So every array is drawn by NumPy's RandomState, whose draws never change, from a seed
that is the name of the parameter; and of a gradient's array the file holds the length and the product with another
draw, which no wrong entry leaves as it is. Arrays are in PyTorch's layout, under torchvision's names.
"""

from __future__ import annotations

import pathlib
import zlib

import jax
import numpy as np

FILE = pathlib.Path(__file__).parent / "golden" / "imagenet.npz"
FORWARD = {  # in evaluation mode; the PyTorch network's arguments
    "resnet10": {"blocks": (1, 1, 1, 1), "bottleneck": False},
    "resnet50": {},
    "resnext50_32x4d": {"groups": 32, "group_width": 4},
}
HEADS = ("linear", "normed")  # one training pass each of ResNet-50
CLASSES, ROWS, SIZE, SCALE = 10, 8, 64, 30.0  # the normed head's logits are scaled as in LDAM


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers between -1 and 1 that the name and the shape determine."""
    return np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, shape)


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a parameter or a running statistic, sized so that activations neither vanish nor grow."""
    x = draw(name, shape)
    if name.startswith("fc."):
        return x * shape[-1] ** -0.5
    if len(shape) == 4:
        return x * (6 / (shape[0] * shape[2] * shape[3])) ** 0.5
    return x / 5 if name.endswith(("bias", "mean")) else 1 + x / 2


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Return normalized images (B, H, W, 3) and their labels."""
    return 2 * draw("images", (ROWS, SIZE, SIZE, 3)), np.arange(ROWS, dtype=np.int32) * 3 % CLASSES


def torch_name(path: tuple) -> str:
    """Map ("params", "layer1_0", "downsample_bn", "scale") to "layer1.0.downsample.1.weight"."""
    *modules, leaf = (key.key for key in path[1:] if key.key != "batch_stats")
    leaf = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(leaf, leaf)
    name = ".".join([*modules, leaf]).replace("linear.", "fc.")
    name = name.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
    return name.replace("_", ".", 1) if name.startswith("layer") else name


def to_torch(x, transposed: bool):
    """Return our kernel (h, w, in, out), or a linear head's (in, out), as (out, in, h, w) or (out, in)."""
    return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T if transposed else x


def variables(network, head: str):
    """Return our network's parameters and state, filled with the drawn values."""

    def init(key):
        return network.init(key, (8, 8, 3))

    def fill(path, leaf):
        as_torch = jax.eval_shape(lambda x: to_torch(x, head == "linear"), leaf).shape
        x = value(torch_name(path), as_torch)
        return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T if head == "linear" else x

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(init, jax.random.key(0)))


def digests(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return (arrays, 2) in the order of the names: the length of each array, its product with a draw."""
    probes = {name: draw(f"probe {name}", x.shape) for name, x in arrays.items()}
    return np.array([(np.linalg.norm(x), np.vdot(x, probes[name])) for name, x in sorted(arrays.items())])


def our_digests(tree, head: str) -> tuple[list[str], np.ndarray]:
    """Return the names and the digests of a tree that has a collection at its top."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {torch_name(path): np.asarray(to_torch(x, head == "linear")) for path, x in leaves}
    return sorted(arrays), digests(arrays)


def figures() -> dict[str, np.ndarray]:
    """Return everything that the file holds, by PyTorch."""
    import torch
    from torch.nn import functional

    from benchmarks.torch_imagenet import ResNet

    images, labels = images_and_labels()
    x, y = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels).long()

    def twin(name: str, head: str):
        net = ResNet(**FORWARD[name], classes=CLASSES, normed=head == "normed").double()
        state = {k: torch.tensor(value(k, v.shape)) for k, v in net.state_dict().items() if "num_batches" not in k}
        net.load_state_dict(state, strict=False)
        return net

    found = {}
    for name in FORWARD:
        with torch.no_grad():
            found[f"{name}/logits"] = twin(name, "linear").eval()(x).numpy()
    for head in HEADS:
        net = twin("resnet50", head).train()
        logits = net(x)
        loss = functional.cross_entropy(logits * (SCALE if head == "normed" else 1), y)
        loss.backward()
        gradients = {name: parameter.grad.numpy() for name, parameter in net.named_parameters()}
        statistics = {name: buffer.numpy() for name, buffer in net.named_buffers() if "running" in name}
        found[f"{head}/train_logits"], found[f"{head}/loss"] = logits.detach().numpy(), np.array(loss.item())
        found[f"{head}/gradients"], found[f"{head}/statistics"] = digests(gradients), digests(statistics)
        found[f"{head}/names"] = np.array(sorted(gradients))
    return found


if __name__ == "__main__":
    np.savez_compressed(FILE, **figures())
    print(f"written {FILE.name}, {FILE.stat().st_size / 1e3:.0f} kB")
