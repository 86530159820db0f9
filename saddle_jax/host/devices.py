"""Device handling: the named axis, mapping a per-device function, sums over devices, and precision.

Everything that runs on several devices is a per-device function that sums explicitly over `AXIS`. `map_step` maps it.
`jax.pmap` is jit + shard_map underneath. `map_step_shard_map` spells that out and gives bit-equal results (tested). It
is the replacement if JAX ever drops pmap.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from saddle_jax.host import xla

AXIS = "devices"


def num_devices() -> int:
    """Return the number of devices that share a batch, counting those of all processes."""
    return jax.device_count()


def map_step(step: Callable, num_replicated: int, *, donate: bool = False, gather: bool = False) -> Callable:
    """Map a per-device function over all devices.

    Args:
      step: takes `num_replicated` arguments that are the same on every device, then one that holds a device's part.
      num_replicated: the number of those arguments.
      donate: reuse the first argument's memory for the result.
      gather: give outputs a leading device axis. Without it, the function must return the same on every device.

    Raises:
      ConfigError: XLA computes wrong sums on this machine.
    """
    xla.require_right_sums()
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None,) * num_replicated + (0,),
        out_axes=0 if gather else None,
        donate_argnums=(0,) if donate else (),
    )


def map_step_shard_map(step: Callable, num_replicated: int) -> Callable:
    """Do the same as `map_step`, as jit(shard_map), for batches without a leading device axis."""
    specs = (PartitionSpec(),) * num_replicated + (PartitionSpec(AXIS),)
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False))


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (AXIS,))


def jit_once(function: Callable) -> Callable:
    """Compile a function that runs once, such as the draw of first weights.

    CPUs compile random draws two to six times faster at a lower level of optimization, to the same bits.
    """
    on_cpu = jax.default_backend() == "cpu"
    compiled = jax.jit(function, compiler_options={"xla_backend_optimization_level": 1} if on_cpu else None)

    def run(*args: Any) -> Any:
        is_traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args))
        return function(*args) if is_traced else compiled(*args)  # options belong to the outermost jit alone

    return run


def own_rows(batch: Any) -> Any:
    """Return this process's rows of a tree of (B, ...) host arrays. A single process gets all rows."""
    if jax.process_count() == 1:
        return batch
    own = [jax.devices().index(device) for device in jax.local_devices()]

    def rows(x: np.ndarray) -> np.ndarray:
        return x.reshape(num_devices(), -1, *x.shape[1:])[own].reshape(-1, *x.shape[1:])

    return jax.tree.map(rows, batch)


def split(batch: Any) -> Any:
    """Reshape this process's rows, a tree of (B, ...) arrays, to (D, B / D, ...): one part per device."""
    parts = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(parts, len(x) // parts, *x.shape[1:]), batch)


def put(tree: Any) -> Any:
    """Copy a tree of (D, ...) host arrays to this process's devices, one part each, without waiting for the copy."""
    return jax.device_put(tree, NamedSharding(_local_mesh(), PartitionSpec(AXIS)))


def replicate(tree: Any) -> Any:
    """Copy a tree of arrays to every device of this process."""
    return jax.device_put(tree, NamedSharding(_local_mesh(), PartitionSpec()))


def local(tree: Any) -> Any:
    """Return the first local device's copy of a tree of arrays that are equal on all devices."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def settle(tree: Any) -> Any:
    """Return the tree. With several CPU devices, wait for it first, because queued collectives can deadlock there."""
    return jax.block_until_ready(tree) if num_devices() > 1 and jax.default_backend() == "cpu" else tree


def sum_over(tree: Any, axis_name: str | None) -> Any:
    """Return the sum over devices, or the tree itself without an axis."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def mean_over(tree: Any, axis_name: str | None) -> Any:
    """Return the mean over devices, or the tree itself without an axis."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def gather_rows(tree: Any, axis_name: str | None) -> Any:
    """Return the rows of all devices, in the order that they would have on one device (slots are dealt in turn).

    The derivative of a row sums what all devices contribute to it. That is right for a loss that is summed over
    devices.
    """
    if axis_name is None:
        return tree

    def rows(x: jax.Array) -> jax.Array:
        parts = jax.lax.all_gather(x, axis_name)
        return parts.swapaxes(0, 1).reshape(-1, *x.shape[1:])

    return jax.tree.map(rows, tree)


def own_rows_of(tree: Any, axis_name: str | None) -> Any:
    """Return this device's rows out of rows in the order of `gather_rows`."""
    if axis_name is None:
        return tree
    parts, own = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:])[:, own], tree)


def own_key(key: jax.Array, axis_name: str | None) -> jax.Array:
    """Return a random key that is unique to this device, or the key itself without an axis."""
    return key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))


def set_precision(name: str) -> None:
    """Set how accelerators compute float32 products: default (TF32 or bfloat16 passes), high, or highest."""
    jax.config.update("jax_default_matmul_precision", name)


def keep_compiled(folder: str) -> None:
    """Keep compiled programs in a folder, for later processes on the same machine."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@contextlib.contextmanager
def exact_arithmetic(dtype: str) -> Iterator[None]:
    """Compute in float32 with products at the highest precision, or in float64, whatever the run's precision."""
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        yield
