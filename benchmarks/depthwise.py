"""Times of EfficientNet-Lite0's depthwise convolutions on a CPU, shape by shape: XLA's, shifted products', oneDNN's.

python benchmarks/depthwise.py --size 96 --batch 100
"""

from __future__ import annotations

import argparse
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
from measure import in_turns

from saddle_jax.models import depthwise, kernels

# (pixels of an image of 224, channels, side of the kernel, stride)
SHAPES = [(112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 3, 1), (56, 144, 5, 2), (28, 240, 5, 1), (14, 480, 3, 1)]
SHAPES += [(14, 672, 5, 1), (7, 1152, 5, 1), (7, 1152, 3, 1)]


def main() -> None:
    """Print the milliseconds of each form: of the convolution, and of it with both gradients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="pixels of the network's images")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for at_224, channels, side, stride in SHAPES:
        pixels = -(-at_224 * options.size // 224)
        images = jnp.asarray(np.random.default_rng(0).standard_normal((options.batch, pixels, pixels, channels)), float)
        kernel = jnp.ones((side, side, 1, channels))
        cases = {}
        for name, convolve in forms(channels, stride).items():
            both = jax.jit(jax.grad(lambda x, k, f=convolve: jnp.sum(jnp.square(f(x, k))), argnums=(0, 1)))
            for kind, function in (("forward", jax.jit(convolve)), ("gradients", both)):
                cases[name, kind] = functools.partial(lambda f, *given: jax.block_until_ready(f(*given)), function)
        cases = {case: functools.partial(call, images, kernel) for case, call in cases.items()}
        found = in_turns(cases, options.repeats, warm_up=1)
        shown = (f"{name}, {kind} {1e3 * np.median(times[:, 0]):.1f} ms" for (name, kind), times in found.items())
        print(
            f"{pixels}x{pixels}, {channels} channels, {side}x{side}, stride {stride}: {'   '.join(shown)}", flush=True
        )


def forms(channels: int, stride: int) -> dict:
    """Return functions (images, kernel) -> output, padded as in TensorFlow."""
    fields = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": channels, "precision": None}
    fields |= {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1)}

    def by_flax(images, kernel, *, onednn):
        convolve = kernels.conv_fields(onednn=onednn)["conv_general_dilated"]
        return convolve(images, kernel, (stride, stride), "SAME", **fields)

    def by_xla(images, kernel):
        with depthwise.only_xla():
            return by_flax(images, kernel, onednn=False)

    found = {"XLA": by_xla, "shifts": functools.partial(by_flax, onednn=False)}
    if importlib.util.find_spec(kernels.PACKAGE):
        found["oneDNN"] = functools.partial(by_flax, onednn=True)
    return found


if __name__ == "__main__":
    main()
