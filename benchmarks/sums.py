"""Check that this machine's XLA sums correctly, by comparing training and spectra at full size to float64.

    python benchmarks/sums.py             # as saddle_jax runs
    python benchmarks/sums.py --faulty    # with the YNN fusions on, which saddle_jax switches off

Augmented pixels must equal NumPy's to the byte. Everything else is compared in units of the largest entry. Sums may be
off by 1e-5. Results of a ResNet-32 may be off by 5e-2: on random images, float32 alone moves its gradient by up to 1e-2
(rectifiers near 0 change sides). The command exits with 1 if anything is off by more.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import sys
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
if "--faulty" in sys.argv:
    kinds = ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("DOT", "ELTWISE", "REDUCE"))
    os.environ["XLA_FLAGS"] = f"--xla_cpu_experimental_ynn_fusion_type={kinds}"

import jax
import jax.numpy as jnp
import numpy as np

from configs import cifar10_lt
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.feeds import resident
from saddle_jax.data.images import make_batch
from saddle_jax.data.order import Order, slots_at
from saddle_jax.losses import weighted_sums
from saddle_jax.models.networks import make_resnet

BATCH = 128
DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (2048, 32, 32, 3), dtype=np.uint8)
LABELS = (DRAW.integers(0, 100, 2048) % 10).astype(np.int32)


def main() -> None:
    """Compute, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faulty", action="store_true", help="leave the YNN fusions on")
    parser.parse_args()
    print(f"jax {jax.__version__}, XLA_FLAGS={os.environ.get('XLA_FLAGS', '')}")
    wrong = 0
    for parts, bound in ((augmented(), 0.0), (per_class(), 1e-5), (network(), 5e-2)):
        for name, error in parts:
            print(f"{name:65s} {error:.1e}{'' if error <= bound else '   wrong'}", flush=True)
            wrong += not error <= bound
    sys.exit(int(wrong > 0))


def error_of(found, expected) -> float:
    """Return the largest difference between two trees, relative to each array's largest entry."""
    pairs = zip(jax.tree.leaves(jax.device_get(found)), jax.tree.leaves(jax.device_get(expected)), strict=True)
    return max(float(np.max(np.abs(a - b.astype(float))) / (np.max(np.abs(b)) + 1e-30)) for a, b in pairs)


def augmented() -> Iterator[tuple[str, float]]:
    """Yield the fraction of the bytes that differ from NumPy's."""
    augmentation = Augmentation("crop_flip", (32, 32, 3), crop_padding=4)
    cut = jax.jit(lambda data, slots: resident.batch(data, slots, augmentation))
    for size in (BATCH, 1024):
        slots = slots_at(Order(0, LABELS, size, 1, augmentation), 0)
        found = cut(resident.Resident(jnp.asarray(IMAGES), jnp.asarray(LABELS)), slots)
        expected = make_batch(IMAGES, LABELS, slots, augmentation)
        yield f"crop_flip, {size} images", float(np.mean(np.asarray(found.images) != expected.images))


def per_class() -> Iterator[tuple[str, float]]:
    """Yield the error of weighted sums and of per-class means over many rows."""
    for rows, classes in ((70_000, 3), (70_000, 10), (200_000, 100)):
        losses, labels = DRAW.exponential(size=rows), DRAW.integers(0, classes, rows)
        weights, mask = DRAW.uniform(size=classes), np.arange(rows) % 7 > 0
        found = jax.jit(weighted_sums)(np.float32(losses), labels, mask, np.float32(weights))
        kept = weights[labels] * mask
        yield f"weighted sums, {rows} rows, {classes} classes", error_of(found, ((losses * kept).sum(), kept.sum()))

        def means(losses, labels, classes=classes):
            of_class = jax.nn.one_hot(labels, classes, dtype=losses.dtype)
            return (losses[:, None] * of_class).sum(0) / of_class.sum(0)

        expected = np.bincount(labels, losses, classes) / np.bincount(labels, minlength=classes)
        yield (
            f"means of a class, {rows} rows, {classes} classes",
            error_of(jax.jit(means)(np.float32(losses), labels), expected),
        )
        features = DRAW.standard_normal((rows, 3))
        matrix = DRAW.standard_normal((3, 3))
        quadratic = jax.jit(jax.vmap(lambda x, m: jnp.sum(jnp.square(m @ x)), (0, None)))
        expected = np.square(features @ matrix.T).sum(1)
        yield (
            f"a quadratic form of {rows} rows",
            error_of(quadratic(np.float32(features), np.float32(matrix)), expected),
        )


def network() -> Iterator[tuple[str, float]]:
    """Yield the error of ResNet-32's loss, statistics, gradient and Hessian-vector product."""
    config = cifar10_lt.get_config("ce").model
    config.kernels = "lax"
    network = make_resnet(None, config, 10, None)

    def results(train, params, model_state, direction, images, labels):
        def loss(params):
            mask = jnp.ones(len(images), bool)
            logits, updated = network.logits(params, model_state, images, mask, train=train)
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean(), updated

        (value, updated), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        product = jax.jvp(jax.grad(lambda params: loss(params)[0]), (params,), (direction,))[1]
        return value, updated, gradient, product

    params, model_state = network.init(jax.random.key(1), (32, 32, 3))
    direction = jax.tree.map(lambda x: DRAW.standard_normal(x.shape), params)
    arguments = params, model_state, direction, DRAW.standard_normal((BATCH, 32, 32, 3)), LABELS[:BATCH]
    for train in (True, False):
        compute = jax.jit(functools.partial(results, train))
        found = jax.device_get(compute(*in_dtype(arguments, np.float32)))
        with jax.enable_x64(True):
            right = jax.device_get(compute(*in_dtype(arguments, np.float64)))
        names = ("loss", "statistics", "gradient", "Hessian-vector product")
        for name, a, b in zip(names, found, right, strict=True):
            mode = "training" if train else "evaluation"
            yield f"{name} of ResNet-32 in {mode} mode, {BATCH} images", error_of(a, b)


def in_dtype(tree, dtype):
    """Return a tree on the host, with its floating-point arrays in that dtype."""
    tree = jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda x: x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x, tree)


if __name__ == "__main__":
    main()
