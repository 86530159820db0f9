"""Device handling: what programs are built for, mapping a per-device function, sums over devices, and precision.

Everything that runs on several devices is a per-device function that sums explicitly over `AXIS`. `map_step` maps it,
with `jax.pmap` or as `jax.jit(jax.shard_map)`, whose results are equal bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from saddle_jax.host import xla

AXIS = "devices"
_mapping = "pmap"


class Target(NamedTuple):
    """What programs are built for: this machine and those of the other processes, or a description of others."""

    platform: str  # cpu, gpu, or tpu
    devices: tuple[Any, ...]  # of type jax.Device
    memory: int | None = None  # bytes on each device, if the devices are only described


_described = jax.make_user_context(None)  # in the keys of JAX's caches, so that traces for different targets stay apart


def build_for(target: Target) -> contextlib.AbstractContextManager:
    """Build and lower programs for described devices, in a `with` statement."""
    return _described(target)


def target() -> Target:
    """Return what programs are built for. Every choice that depends on the kind of device asks this."""
    return _described.value or Target(jax.default_backend(), tuple(jax.devices()))


def on_cpu() -> bool:
    """Return whether programs are built for CPUs."""
    return target().platform == "cpu"


def is_described() -> bool:
    """Return whether programs are built for devices that this machine lacks, which can hold no arrays."""
    return _described.value is not None


def num_devices() -> int:
    """Return the number of devices that share a batch, counting those of all processes."""
    return len(target().devices)


def set_mapping(name: str) -> None:
    """Choose how `map_step` maps: pmap or shard_map."""
    global _mapping
    _mapping = name


def _maps_with_pmap() -> bool:
    """Return whether steps are mapped with pmap. Described devices never are: they may span several hosts."""
    return _mapping == "pmap" and not is_described()


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
    donated = (0,) if donate else ()
    if _maps_with_pmap():
        return jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None,) * num_replicated + (0,),
            out_axes=0 if gather else None,
            donate_argnums=donated,
        )

    def on_device(*arguments: Any) -> Any:
        *replicated, parts = arguments
        outputs = step(*replicated, jax.tree.map(lambda x: x[0], parts))
        return jax.tree.map(lambda x: x[None], outputs) if gather else outputs

    of_parts = PartitionSpec(AXIS)
    mapped = jax.shard_map(
        on_device,
        mesh=Mesh(np.array(target().devices), (AXIS,)),
        in_specs=(PartitionSpec(),) * num_replicated + (of_parts,),
        out_specs=of_parts if gather else PartitionSpec(),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=donated)


def _sharding(*axes: str) -> NamedSharding:
    """Return where arguments lie: pmap takes this process's devices, shard_map those of all processes."""
    devices = jax.local_devices() if _maps_with_pmap() else target().devices
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(*axes))


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    if is_described():
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def jit_once(function: Callable) -> Callable:
    """Compile a function that runs once, such as the draw of first weights.

    XLA's CPU compiler takes a half to a sixth of the time at a lower optimization level, and the bits are the same.
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    compiled = jax.jit(function, compiler_options=options)

    def run(*args: Any) -> Any:
        is_traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args))
        return function(*args) if is_traced else compiled(*args)  # only the outermost jit may have options

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
    parts = num_devices() if is_described() else jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(parts, len(x) // parts, *x.shape[1:]), batch)


def put(tree: Any) -> Any:
    """Copy a tree of (D, ...) host arrays to this process's devices, one part each, without waiting for the copy.

    For devices that are only described, `put` and `replicate` return shapes, for which programs can be compiled.
    """
    return _placed(tree, _sharding(AXIS))


def deal(batch: Any) -> Any:
    """Copy this process's rows of a batch, a tree of (B, ...) arrays, to its devices, one part each."""
    return put(split(batch))


def replicate(tree: Any) -> Any:
    """Copy a tree of arrays, the same in all processes, to every device."""
    return _placed(tree, _sharding())


def local(tree: Any) -> Any:
    """Return the first local device's copy of a tree of arrays that are equal on all devices."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def own_parts(tree: Any) -> Any:
    """Return the parts of this process's devices, on the host, out of a tree of (D, ...) outputs."""

    def parts(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable:
            return jax.device_get(x)
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    return jax.tree.map(parts, tree)


def settle(tree: Any) -> Any:
    """Return the tree. With several CPU devices, wait for it first, because queued collectives can deadlock there."""
    return jax.block_until_ready(tree) if num_devices() > 1 and on_cpu() else tree


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
