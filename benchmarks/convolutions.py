"""Times of ResNet-32's convolutions, shape by shape: PyTorch's, XLA's, and other forms written in JAX.

Because of this table, measured on 2 CPU cores, the network keeps `lax.conv_general_dilated`: no form wins throughout.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from measure import in_turns

SHAPES = [(3, 16, 32, 1), (16, 16, 32, 1), (16, 32, 32, 2), (32, 32, 16, 1), (32, 64, 16, 2), (64, 64, 8, 1)]
NUMBERS = ("NHWC", "HWIO", "NHWC")
Form = Callable[[jax.Array, jax.Array, jax.Array, int], jax.Array]  # (input, kernel, output's gradient, stride)


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Return the network's 3x3 convolution."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=NUMBERS)


def shifted(x: jax.Array, g: jax.Array, stride: int) -> list[jax.Array]:
    """Return the input that each of the kernel's nine taps sees."""
    height, width = g.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = (height - 1) * stride + 1, (width - 1) * stride + 1
    return [padded[:, i : i + rows : stride, j : j + columns : stride] for i in range(3) for j in range(3)]


def forward(x, kernel, g, stride):  # noqa: D103
    del g
    return convolve(x, kernel, stride)


def forward_patches(x, kernel, g, stride):  # noqa: D103
    patches = jnp.concatenate(shifted(x, g, stride), -1)
    return jnp.einsum("bhwc,cd->bhwd", patches, kernel.reshape(-1, kernel.shape[-1]))


def forward_nine(x, kernel, g, stride):  # noqa: D103
    taps = zip(shifted(x, g, stride), kernel.reshape(9, *kernel.shape[2:]), strict=True)
    return sum(jnp.einsum("bhwc,cd->bhwd", view, tap) for view, tap in taps)


def input_gradient(x, kernel, g, stride):  # noqa: D103
    return jax.vjp(lambda x: convolve(x, kernel, stride), x)[1](g)[0]


def kernel_gradient(x, kernel, g, stride):  # noqa: D103
    return jax.vjp(lambda kernel: convolve(x, kernel, stride), kernel)[1](g)[0]


def kernel_gradient_patches(x, kernel, g, stride):  # noqa: D103
    patches = jnp.concatenate(shifted(x, g, stride), -1)
    return jnp.einsum("bhwc,bhwd->cd", patches, g).reshape(kernel.shape)


def kernel_gradient_nine(x, kernel, g, stride):  # noqa: D103
    return jnp.stack([jnp.einsum("bhwc,bhwd->cd", view, g) for view in shifted(x, g, stride)]).reshape(kernel.shape)


def kernel_gradient_eighths(x, kernel, g, stride):  # noqa: D103
    parts = zip(jnp.split(x, 8), jnp.split(g, 8), strict=True)
    return sum(kernel_gradient(x, kernel, g, stride) for x, g in parts)


FORMS: dict[str, dict[str, Form]] = {
    "forward": {"lax": forward, "patches, one dot": forward_patches, "nine dots": forward_nine},
    "input gradient": {"lax": input_gradient},
    "kernel gradient": {
        "lax": kernel_gradient,
        "patches, one dot": kernel_gradient_patches,
        "nine dots": kernel_gradient_nine,
        "lax on eighths of the batch": kernel_gradient_eighths,
    },
}


def measure(batch: int, repeats: int) -> list[dict]:
    """Time all forms for all shapes, with the forms of one direction in turns. Print and return milliseconds."""
    draw = np.random.default_rng(0)
    table = []
    for width_in, width, size, stride in SHAPES:
        x = draw.standard_normal((batch, size, size, width_in), np.float32)
        kernel = draw.standard_normal((3, 3, width_in, width), np.float32)
        g = draw.standard_normal((batch, size // stride, size // stride, width), np.float32)
        for direction, forms in FORMS.items():
            ways = torch_way(direction, x, kernel, g, stride) | {
                name: jax_way(form, stride, x, kernel, g) for name, form in forms.items()
            }
            row = {"from": width_in, "to": width, "size": size, "stride": stride, "direction": direction}
            row |= time_ways(ways, repeats)
            table.append(row)
            shown = "   ".join(f"{name} {row[name][0]:.1f} ms, processor {row[name][1]:.1f}" for name in ways)
            print(f"{width_in:2d} -> {width}, {size}x{size}, stride {stride}, {direction}: {shown}", flush=True)
    return table


def time_ways(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Return the median milliseconds of each way, as (clock, processor)."""
    times = in_turns(ways, repeats, warm_up=2)
    return {name: tuple(1e3 * float(x) for x in np.median(found[:, :2], 0)) for name, found in times.items()}


def jax_way(form: Form, stride: int, *arrays: np.ndarray) -> Callable[[], object]:
    """Return one call of a form."""
    compiled = jax.jit(form, static_argnums=3)
    placed = jax.device_put(arrays)
    return lambda: jax.block_until_ready(compiled(*placed, stride))


def torch_way(direction: str, x: np.ndarray, kernel: np.ndarray, g: np.ndarray, stride: int) -> dict[str, Callable]:
    """Return PyTorch's eager NCHW convolution, or nothing if PyTorch is missing or uses another device."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch
    from torch_resnet import CUDA, PLACE

    if (jax.default_backend() == "gpu") != CUDA:
        return {}
    x_, g_ = (torch.tensor(a.transpose(0, 3, 1, 2).copy(), device=PLACE) for a in (x, g))
    k_ = torch.tensor(kernel.transpose(3, 2, 0, 1).copy(), device=PLACE)

    def call() -> None:
        if direction == "forward":
            torch.nn.functional.conv2d(x_, k_, None, stride, 1)
        else:
            wanted = [direction == "input gradient", direction == "kernel gradient", False]
            torch.ops.aten.convolution_backward(
                g_, x_, k_, None, [stride, stride], [1, 1], [1, 1], False, [0, 0], 1, wanted
            )
        if CUDA:
            torch.cuda.synchronize()

    return {"PyTorch": call}
