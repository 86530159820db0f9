"""Cost of Hessian-vector products and whole spectra against PyTorch's double backward, side by side in one run.

    pip install torch==2.13.0         # for this benchmark only
    python benchmarks/spectra.py

It uses ResNet-32 on CIFAR-sized images, evaluation-mode BatchNorm, plain cross-entropy, and float32 at the highest
precision. Times do not depend on weights and pixels, so both are random. PyTorch's side does what the reference does.
For every product, it runs batches of 128 forward and backward with a graph, then backward through that graph. Its
Lanczos uses full re-orthogonalization, one vector at a time. Writes benchmarks/results/spectra-<device>.json.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import torch_resnet  # noqa: E402 (needs the path above)
from measure import RESULTS, write
from torch_resnet import CUDA, PLACE

from configs import cifar10_lt
from saddle_jax.data.feeds import evaluation
from saddle_jax.host import devices  # noqa: E402
from saddle_jax.host.memory import free_memory
from saddle_jax.longtail import ClassStats
from saddle_jax.losses import cross_entropy
from saddle_jax.methods.plain import make as make_plain
from saddle_jax.spectra import classwise, plan
from saddle_jax.spectra.hvp import MeanLoss, flat_point, linear_map_bytes, make_pieces
from saddle_jax.spectra.lanczos import lanczos


class Torch:
    """The reference's way."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        torch_resnet.allow_tf32(False)
        self.net = torch_resnet.ResNet().eval().to(PLACE)
        self.images = torch.tensor(images.transpose(0, 3, 1, 2) / 255, dtype=torch.float32, device=PLACE)
        self.labels = torch.tensor(labels, device=PLACE).long()
        self.params = list(self.net.parameters())

    def product(self, vector: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the Hessian's product with a vector."""
        total = [torch.zeros_like(p) for p in self.params]
        for start in range(0, len(self.labels), 128):
            images, labels = self.images[start : start + 128], self.labels[start : start + 128]
            loss = functional.cross_entropy(self.net(images), labels) * len(labels) / len(self.labels)
            grads = torch.autograd.grad(loss, self.params, create_graph=True)
            parts = torch.autograd.grad(grads, self.params, grad_outputs=vector)
            total = [t + p for t, p in zip(total, parts, strict=True)]
        if CUDA:
            torch.cuda.synchronize()
        return total

    def random_vector(self) -> list[torch.Tensor]:
        """Return a vector of length 1 whose entries have equal magnitude."""
        signs = [torch.randint_like(p, 2) * 2 - 1 for p in self.params]
        return self._scaled(signs, 1 / self._dot(signs, signs).sqrt())

    def lanczos(self, steps: int) -> np.ndarray:
        """Return the Ritz values."""
        basis, alphas, betas = [self.random_vector()], [], []
        for _ in range(steps):
            w = self.product(basis[-1])
            alphas.append(float(self._dot(w, basis[-1])))
            for q in basis:
                overlap = self._dot(w, q)
                w = [a - overlap * b for a, b in zip(w, q, strict=True)]
            betas.append(float(self._dot(w, w).sqrt()))
            basis.append(self._scaled(w, 1 / betas[-1]))
        return np.linalg.eigvalsh(np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1))

    @staticmethod
    def _dot(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()

    @staticmethod
    def _scaled(a: list[torch.Tensor], factor) -> list[torch.Tensor]:
        return [factor * x for x in a]


class Ours:
    """saddle_jax, with the settings that it chooses itself."""

    def __init__(self, kernels: str):
        config = cifar10_lt.get_config("ce_drw")
        config.model.kernels = kernels
        self.spectra = config.spectra
        self.method = make_plain(config, ClassStats(np.full(10, 5000), ()), (32, 32, 3), devices.AXIS)
        start = self.method.init(jax.random.key(0))
        self.point, unravel = flat_point(start.params, start.model_state, np.ones(10), "float32")
        self.pieces = make_pieces(self.method, cross_entropy, unravel, train_mode=False)
        self.on_cpu = jax.default_backend() == "cpu"
        self.chunk = plan.chunk_size(self.spectra, (32, 32, 3), devices.num_devices(), on_cpu=self.on_cpu)

    def mean_loss(self, images: np.ndarray, labels: np.ndarray) -> tuple[MeanLoss, plan.Plan]:
        """Return the loss of all images, not linearised, and the plan for it."""
        chunks = list(evaluation.evaluation_batches(images, labels, self.chunk, devices.num_devices()))
        device, host = free_memory()
        chosen = plan.make_plan(
            self.spectra,
            plan.Memory(device // 2, host // 2),
            num_parameters=self.point.params_P.size,
            num_chunks=len(chunks),
            linear_map_bytes=linear_map_bytes(self.pieces, self.point, chunks[0]),
            on_cpu=self.on_cpu,
        )
        return MeanLoss(self.pieces, self.point, chunks, width=chosen.probes_at_once), chosen

    def spectrum(self, images: np.ndarray, labels: np.ndarray, steps: int) -> int:
        """Linearize if the plan says so, and run Lanczos with as many probes as fit at once. Return their number."""
        mean_loss, chosen = self.mean_loss(images, labels)
        if chosen.linearize:
            mean_loss.linearize()
        starts = classwise.signs(0, range(chosen.probes_at_once), mean_loss.params_P.size, jnp.float32)
        lanczos(mean_loss, starts, steps, chosen.basis)
        return chosen.probes_at_once


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 50, 500, 5000], help="images per class")
    parser.add_argument(
        "--spectrum-sizes", type=int, nargs="+", default=[5, 50, 500], help="images per class, for whole spectra"
    )
    parser.add_argument("--steps", type=int, default=100, help="Lanczos steps")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each product; medians are reported")
    parser.add_argument("--kernels", default="auto", choices=["auto", "lax", "onednn"], help="model.kernels")
    options = parser.parse_args()
    kind = torch.cuda.get_device_name() if CUDA else "cpu"
    with devices.exact_arithmetic("float32"):
        ours = Ours(options.kernels)
        products = [product_row(ours, size, options.repeats) for size in options.sizes]
        spectra = [spectrum_row(ours, size, options.steps) for size in options.spectrum_sizes]
    found = {
        "kernels": options.kernels,
        "torch_threads": torch.get_num_threads(),
        "products": products,
        "spectra": spectra,
    }
    write("spectra", kind, ("jax", "jaxlib", "flax", "torch", "numpy"), found, RESULTS)


def random_class(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of one class."""
    images = np.random.default_rng(size).integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
    return images, np.full(size, 7, np.int32)


def product_row(ours: Ours, size: int, repeats: int) -> dict:
    """Time single products, alternating between PyTorch's and ours."""
    images, labels = random_class(size)
    theirs = Torch(images, labels)
    vector = theirs.random_vector()
    recomputed, chosen = ours.mean_loss(images, labels)
    ways = {"torch": lambda: theirs.product(vector)}
    starts = classwise.signs(0, range(chosen.probes_at_once), recomputed.params_P.size, jnp.float32)
    ways["forward over reverse"] = lambda: jax.block_until_ready(recomputed(starts))
    if chosen.linearize:
        linearized, _ = ours.mean_loss(images, labels)
        linearized.linearize()
        ways["linearized"] = lambda: jax.block_until_ready(linearized(starts))
    for way in ways.values():
        way()
    times = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - began) / (1 if name == "torch" else len(starts)))
    row = {"images": size, "vectors at once": len(starts), **{k: float(np.median(v)) for k, v in times.items()}}
    shown = "  ".join(f"{k} {1e3 * row[k]:,.1f} ms ({row[k] / row['torch']:.2f})" for k in ways)
    print(f"product, {size:5,d} images: {shown}", flush=True)
    return row


def spectrum_row(ours: Ours, size: int, steps: int) -> dict:
    """Time whole spectra per probe: PyTorch's with one probe, ours with as many as fit at once."""
    images, labels = random_class(size)
    theirs = Torch(images, labels)
    ours.spectrum(images, labels, 2)  # compile
    seconds = {"torch": 0.0, "saddle_jax": 0.0}
    # Ours, theirs, ours again: another load on the machine would show.
    began = time.perf_counter()
    probes = ours.spectrum(images, labels, steps)
    seconds["saddle_jax"] = (time.perf_counter() - began) / probes
    began = time.perf_counter()
    theirs.lanczos(steps)
    seconds["torch"] = time.perf_counter() - began
    began = time.perf_counter()
    ours.spectrum(images, labels, steps)
    again = (time.perf_counter() - began) / probes
    ratio = (seconds["saddle_jax"] + again) / 2 / seconds["torch"]
    row = {"images": size, "steps": steps, "probes": probes, **seconds, "saddle_jax again": again, "ratio": ratio}
    print(
        f"spectrum, {size:5,d} images, {steps} steps: torch {seconds['torch']:.1f} s, saddle_jax "
        f"{seconds['saddle_jax']:.1f} and {again:.1f} s per probe ({probes} at once), ratio {ratio:.2f}",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
