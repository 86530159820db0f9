"""Convolutions equal XLA's in float64, with derivatives of every order, under every transformation."""

import functools
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from saddle_kernels import conv

# batch, height, width, channels, filters, kernel, stride, padding, groups: the convolutions of all kinds of ResNets
SHAPES = {
    "3x3": (6, 9, 8, 5, 7, 3, 1, 1, 1),
    "3x3 wide": (33, 16, 16, 16, 32, 3, 1, 1, 1),
    "3x3 stride 2": (5, 16, 15, 16, 32, 3, 2, 1, 1),
    "3x3 grouped": (3, 14, 14, 32, 64, 3, 2, 1, 8),
    "3x3 depthwise": (3, 9, 9, 16, 16, 3, 1, 1, 16),
    "1x1": (4, 7, 7, 64, 48, 1, 1, 0, 1),
    "1x1 stride 2": (4, 7, 8, 12, 24, 1, 2, 0, 1),
    "7x7 stem": (2, 40, 36, 3, 16, 7, 2, 3, 1),
    "one pixel": (1, 1, 1, 4, 4, 3, 1, 1, 1),
    "padding past the kernel": (2, 5, 5, 3, 4, 3, 1, 3, 1),
}
TOLERANCE = {"float32": 5e-6, "bfloat16": 1.5e-2}


def by_xla(x, k, *, stride, padding, groups):
    """Return what XLA computes."""
    sides, layout = ((padding, padding),) * 2, ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, k, (stride, stride), sides, dimension_numbers=layout, feature_group_count=groups)


def case(name, dtype="float32"):
    """Return the images and the kernel, and the two convolutions to compare."""
    batch, height, width, channels, filters, kernel, stride, padding, groups = SHAPES[name]
    draw = np.random.default_rng(0)
    x = draw.standard_normal((batch, height, width, channels)).astype(np.float32)
    k = draw.standard_normal((kernel, kernel, channels // groups, filters)).astype(np.float32)
    geometry = {"stride": stride, "padding": padding, "groups": groups}
    return (jnp.asarray(x, dtype), jnp.asarray(k)), (functools.partial(f, **geometry) for f in (conv, by_xla))


def in_float64(function, *arguments):
    """Return the function's results in float64."""
    with jax.enable_x64(True):
        wide = [np.asarray(x, np.float64) for x in arguments]
        return jax.device_get(jax.jit(function)(*wide))


def assert_close(found, expected, dtype="float32"):
    """Compare trees, in units of the largest entry of each array."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=0, atol=TOLERANCE[dtype] * np.abs(b).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients(name, dtype):
    (x, k), (ours, xla) = case(name, dtype)
    cotangent = np.random.default_rng(1).standard_normal(jax.eval_shape(ours, x, k).shape).astype(np.float32)
    cotangent = jnp.asarray(cotangent, dtype)

    def results(function, x, k, cotangent):
        y, vjp = jax.vjp(function, x, k)
        return y, vjp(cotangent)

    found = jax.jit(functools.partial(results, ours))(x, k, cotangent)
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [dtype, dtype, "float32"]
    assert_close(found, in_float64(functools.partial(results, xla), x, k, cotangent), dtype)


def loss_of(function):
    """Return a loss that is not linear in anything."""
    return lambda x, k: jnp.sum(jnp.tanh(function(jnp.sin(x), k)))


@pytest.mark.parametrize("name", ["3x3 stride 2", "3x3 grouped"])
def test_second_derivatives(name):
    (x, k), (ours, xla) = case(name)
    dx, dk = (jnp.cos(jnp.arange(v.size, dtype=jnp.float32)).reshape(v.shape) for v in (x, k))

    def forward_over_reverse(function, x, k, dx, dk):
        return jax.jvp(jax.grad(loss_of(function), (0, 1)), (x, k), (dx, dk))[1]

    def reverse_over_reverse(function, x, k, dx, dk):
        def slope(x, k):
            of_x, of_k = jax.grad(loss_of(function), (0, 1))(x, k)
            return jnp.sum(of_x * dx) + jnp.sum(of_k * dk)

        return jax.grad(slope, (0, 1))(x, k)

    def linearized(function, x, k, dx, dk):
        return jax.linearize(jax.grad(loss_of(function), (0, 1)), x, k)[1](dx, dk)

    expected = in_float64(functools.partial(forward_over_reverse, xla), x, k, dx, dk)
    for way in (forward_over_reverse, reverse_over_reverse, linearized):
        assert_close(jax.jit(functools.partial(way, ours))(x, k, dx, dk), expected)


def test_forward_mode():
    (x, k), (ours, xla) = case("3x3")
    arguments = (x, k), (jnp.ones_like(x), jnp.ones_like(k))
    expected = in_float64(lambda x, k: jax.jvp(xla, (x, k), (jnp.ones_like(x), jnp.ones_like(k)))[1], x, k)
    assert_close(jax.jvp(ours, *arguments)[1], expected)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, 3)])
def test_vmap_of_the_convolution_and_its_gradients(axes):
    (x, k), (ours, xla) = case("3x3 stride 2")
    several = [
        v if axis is None else jnp.moveaxis(jnp.stack([v, 2 * v, v - 1]), 0, axis)
        for v, axis in zip((x, k), axes, strict=True)
    ]

    def results(function, x, k):
        return jax.vmap(lambda x, k: (function(x, k), jax.grad(loss_of(function), (0, 1))(x, k)), axes)(x, k)

    assert_close(
        jax.jit(functools.partial(results, ours))(*several), in_float64(functools.partial(results, xla), *several)
    )


def test_remat_in_a_scan_changes_no_bit():
    (x, k), (ours, _) = case("3x3 wide")
    k = k[..., :16]

    def step(k, remat):
        block = (
            jax.checkpoint(lambda k: ours(jnp.tanh(ours(x, k)), k))
            if remat
            else lambda k: ours(jnp.tanh(ours(x, k)), k)
        )
        return k - 1e-6 * jax.grad(lambda k: jnp.sum(jnp.square(block(k))))(k)

    scanned = jax.jit(lambda k: lax.scan(lambda k, _: (step(k, True), None), k, None, length=3)[0], donate_argnums=0)
    expected = k
    for _ in range(3):
        expected = jax.jit(functools.partial(step, remat=False))(expected)
    np.testing.assert_array_equal(scanned(jnp.array(k)), expected)


def test_several_threads_at_once():
    def work(seed, found):
        x = jax.random.normal(jax.random.key(seed), (7 + seed, 16, 16, 16))
        k = jax.random.normal(jax.random.key(seed), (3, 3, 16, 16))
        gradient = jax.jit(jax.grad(lambda k: jnp.sum(jnp.square(conv(x, k, padding=1)))))
        found[seed] = [np.asarray(gradient(k)) for _ in range(10)]

    found = {}
    threads = [threading.Thread(target=work, args=(seed, found)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(3):
        alone = {}
        work(seed, alone)
        for result in found[seed]:
            np.testing.assert_array_equal(result, alone[seed][0])


GRADIENTS = """
import hashlib, jax, jax.numpy as jnp
from saddle_kernels import conv
x = jax.random.normal(jax.random.key(0), (50, 16, 16, 16))
k = jax.random.normal(jax.random.key(1), (3, 3, 16, 16))
gradients = jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.square(conv(x, k, padding=1))), (0, 1)))(x, k)
print(hashlib.sha256(b"".join(g.tobytes() for g in jax.device_get(gradients))).hexdigest())
"""


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec as P
from saddle_kernels import conv
x, k = jax.random.normal(jax.random.key(0), (4, 6, 6, 3)), jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
lax_conv = lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
mesh = Mesh(np.array(jax.devices()), ("d",))
assert len(jax.devices()) == 2
def mapped(f, specs):
    return jax.shard_map(f, mesh=mesh, in_specs=(P("d"), P()), out_specs=specs)
for f in (conv, lax_conv):
    total = mapped(lambda x, k: lax.psum(jnp.sum(f(x, k) ** 2), "d"), P())
    outside = jax.jit(jax.grad(lambda x, k: jnp.sum(mapped(f, P("d"))(x, k) ** 2), 1))(x, k)
    inside = jax.jit(mapped(jax.grad(lambda x, k: lax.psum(jnp.sum(f(x, k) ** 2), "d"), 1), P()))(x, k)
    print(*(float(jnp.sum(jnp.abs(g))) for g in (jax.jit(jax.grad(total, 1))(x, k), outside, inside)))
"""


def test_gradients_inside_shard_map_are_summed_over_devices():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", SHARDED]
    ours, xla = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()
    np.testing.assert_allclose([float(v) for v in ours.split()], [float(v) for v in xla.split()], rtol=1e-5)


def test_a_processor_without_avx512_leaves_bfloat16_to_xla():
    code = """
import jax, jax.numpy as jnp
from saddle_kernels import conv
x, k = jnp.ones((2, 8, 8, 3), jnp.bfloat16), jnp.ones((3, 3, 3, 4))
gradient = jax.jit(jax.grad(lambda x, k: conv(x, k).sum().astype(jnp.float32), (0, 1)))
print("@saddle_conv" in gradient.lower(x, k).as_text(), float(gradient(x, k)[1][0, 0, 0, 0]))
"""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert result.stdout == "False 72.0\n"


def test_precision_is_that_of_the_place_of_the_call():
    def function(x, k):
        with jax.default_matmul_precision("highest"):
            return conv(x, k)

    arrays = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    exported = jax.export.export(jax.jit(function), platforms=["cuda"])(*arrays)
    assert "HIGHEST" in exported.mlir_module()


@pytest.mark.parametrize("size", [0, 20])
def test_vmap_of_none_and_of_many(size):
    x, k = jnp.ones((size, 2, 8, 8, 3)), jnp.ones((size, 3, 3, 3, 4))
    function = jax.jit(jax.vmap(conv))
    assert function(x, k).shape == (size, 2, 6, 6, 4)
    assert function.lower(x, k).as_text().count("@saddle_conv") <= 1  # a loop, not a call for each
    np.testing.assert_array_equal(function(x, k), 27)


def test_results_do_not_depend_on_the_number_of_cores():
    cores = sorted(os.sched_getaffinity(0))
    digests = set()
    for allowed in (cores[:1], cores):
        command = ["taskset", "-c", ",".join(map(str, allowed)), sys.executable, "-c", GRADIENTS]
        digests.add(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert len(digests) == 1


def test_a_forked_child_ends():
    """JAX itself does not survive a fork; a child that leaves it alone must not hang on our locks or threads."""
    code = GRADIENTS + "import os, sys; pid = os.fork(); os._exit(0) if pid == 0 else sys.exit(os.waitpid(pid, 0)[1])"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_are_left_to_xla(dtype):
    with jax.enable_x64(True):
        x, k = jnp.ones((2, 8, 8, 3), dtype), jnp.ones((3, 3, 3, 4), dtype)
        assert "saddle_conv" not in jax.jit(conv).lower(x, k).as_text()
        assert conv(x, k).dtype == dtype


def test_on_other_devices_xla_computes():
    x, k = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    gradient = jax.jit(jax.grad(lambda x, k: jnp.sum(conv(x, k)), (0, 1)))
    exported = jax.export.export(gradient, platforms=["cuda", "tpu"])(x, k)
    assert "custom_call" not in exported.mlir_module()


def test_no_image_is_a_batch():
    k = jnp.ones((3, 3, 3, 4))
    y, vjp = jax.vjp(lambda x, k: conv(x, k, padding=1), jnp.zeros((0, 8, 8, 3)), k)
    assert y.shape == (0, 8, 8, 4)
    np.testing.assert_array_equal(vjp(y)[1], 0)


@pytest.mark.parametrize(
    ("images", "kernel", "fields", "message"),
    [
        ((2, 8, 8, 3), (3, 3, 4, 5), {}, "do not go together in 1 groups"),
        ((2, 8, 8, 4), (3, 3, 2, 5), {"groups": 2}, "do not go together in 2 groups"),
        ((2, 2, 8, 3), (3, 3, 3, 5), {}, "is larger than images"),
        ((2, 8, 8, 3), (3, 3, 3, 5), {"padding": -1}, "a padding of 0 or more"),
        ((2, 8, 8, 3), (3, 3, 3, 5), {"stride": 0}, "a stride of 1 or more"),
        ((8, 8, 3), (3, 3, 3, 5), {}, "expected 4 axes each"),
    ],
)
def test_what_does_not_fit_is_refused(images, kernel, fields, message):
    with pytest.raises(ValueError, match=message):
        conv(jnp.ones(images), jnp.ones(kernel), **fields)
