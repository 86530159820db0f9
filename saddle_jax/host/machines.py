"""Accelerators by name, as their makers describe them, so that a program can be compiled for one that we don't have.

JAX compiles for a described machine with the libraries that the machine's own users install: libtpu for TPUs, and
jax-cuda13-plugin with NVIDIA's compiler for GPUs.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from saddle_jax.errors import ConfigError, did_you_mean


class Chip(NamedTuple):
    """One device of an accelerator. Rates are the peak that its maker publishes."""

    platform: str  # tpu or gpu
    memory: int  # bytes
    bandwidth: float  # of its memory, bytes/s
    flops: Mapping[str, float]  # per second in products, by the network's dtype, at JAX's default precision
    link: float  # bytes/s that it can send to other devices
    devices_per_host: int
    example: str
    multiprocessors: int = 0  # of a GPU; the compiler needs this field and those below
    compute_capability: tuple[int, int] = (0, 0)
    clock_ghz: float = 0.0
    fpus_per_core: int = 0
    shared_memory: int = 0  # bytes of a multiprocessor
    l2_cache: int = 0  # bytes


def _tpu(*, memory: int, bandwidth: float, flops: float, link: float, example: str) -> Chip:
    # At the default precision, a TPU multiplies float32 numbers in one pass of bfloat16.
    rates = {"bfloat16": flops, "float32": flops}
    return Chip("tpu", memory * 2**30, bandwidth, rates, link, devices_per_host=4, example=example)


_A100 = Chip(
    platform="gpu",
    memory=80 * 10**9,
    bandwidth=2039e9,
    flops={"bfloat16": 312e12, "float32": 156e12},  # float32 as TF32
    link=300e9,
    devices_per_host=8,
    example="a100:4",
    multiprocessors=108,
    compute_capability=(8, 0),
    clock_ghz=1.41,
    fpus_per_core=64,
    shared_memory=167_936,
    l2_cache=40 * 2**20,
)
_H100 = _A100._replace(
    bandwidth=3352e9,
    flops={"bfloat16": 989e12, "float32": 495e12},
    link=450e9,
    example="h100:8",
    multiprocessors=132,
    compute_capability=(9, 0),
    clock_ghz=1.98,
    fpus_per_core=128,
    shared_memory=233_472,
    l2_cache=50 * 2**20,
)
CHIPS = {
    "v4": _tpu(memory=32, bandwidth=1228e9, flops=275e12, link=300e9, example="v4:2x2x4"),
    "v5e": _tpu(memory=16, bandwidth=819e9, flops=197e12, link=200e9, example="v5e:4x4"),
    "v5p": _tpu(memory=95, bandwidth=2765e9, flops=459e12, link=600e9, example="v5p:2x2x1"),
    "v6e": _tpu(memory=32, bandwidth=1640e9, flops=918e12, link=448e9, example="v6e:2x2"),
    "a100": _A100,
    "h100": _H100,
    "h200": _H100._replace(memory=141 * 10**9, bandwidth=4800e9, example="h200:8"),
}


class Machine(NamedTuple):
    """Several equal devices that share a batch."""

    name: str  # such as v5e:4x4
    chip: Chip
    count: int

    @property
    def hosts(self) -> int:
        """Number of hosts that the devices belong to."""
        return -(-self.count // self.chip.devices_per_host)


def named(name: str) -> Machine:
    """Return the machine that a name describes: a chip, and how many of them, as a grid (TPUs) or a number (GPUs).

    Raises:
      ConfigError: the name is not understood.
    """
    kind, _, shape = name.partition(":")
    expected = f"expected one of {', '.join(chip.example for chip in CHIPS.values())}, or another number of these"
    if kind not in CHIPS:
        raise ConfigError(f"--target: found {name!r}, {expected}.{did_you_mean(kind, CHIPS)}")
    chip = CHIPS[kind]
    axes = chip.example.count("x")
    if not re.fullmatch(r"[1-9]\d{0,3}" + r"x[1-9]\d{0,2}" * axes, shape):
        what = f"a grid such as {chip.example}" if axes else f"a number of GPUs such as {chip.example}"
        raise ConfigError(f"--target: found {name!r}, expected {what}")
    return Machine(name, chip, math.prod(int(side) for side in shape.split("x")))


def packages(platform: str = "") -> list[str]:
    """Return pip's names of the packages that compile for tpu or gpu, or for both, with their versions."""
    version = importlib.metadata.version("jax")
    tpu = [f"libtpu{_libtpu()}"]
    gpu = [f"jax-cuda13-pjrt=={version}", f"jax-cuda13-plugin=={version}", "nvidia-cuda-nvcc", "nvidia-nvvm"]
    return {"tpu": tpu, "gpu": gpu}.get(platform, tpu + gpu)


def _libtpu() -> str:
    """Return the version specifier of libtpu that the installed jax requires."""
    for requirement in importlib.metadata.requires("jax") or ():
        if found := re.match(r"libtpu([^;\s]*)", requirement):
            return found[1]
    return ""


def require_compiler(chip: Chip) -> None:
    """Check that the library which compiles for a chip is installed.

    Raises:
      ConfigError: it is not.
    """
    library = "libtpu" if chip.platform == "tpu" else "jax_plugins.xla_cuda13"
    with contextlib.suppress(ModuleNotFoundError):  # the plugin's parent package is missing
        if importlib.util.find_spec(library) is not None:
            return
    what, size = ("libtpu", "210 MB") if chip.platform == "tpu" else ("NVIDIA's compiler", "250 MB")
    fix = f"pip install --no-deps {' '.join(packages(chip.platform))}"
    raise ConfigError(f"--target: compiling for this machine needs {what}, a download of {size}. Fix: {fix}")


def compute_on_cpu() -> None:
    """Make this process compute on the CPU alone. Otherwise, the compilers' libraries look for their devices here."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    # Without this, libtpu asks Google's cloud what machine this is.
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(name, value)


def devices_of(machine: Machine) -> tuple[Any, ...]:
    """Return JAX's descriptions of a machine's devices. Programs can be compiled for them, but can't run.

    Raises:
      ConfigError: there is no such machine, or its compiler is not installed.
    """
    from jax.experimental import topologies

    require_compiler(machine.chip)
    kind, _, shape = machine.name.partition(":")
    if machine.chip.platform == "gpu":
        options = {"target_config": _target_config(machine), "topology": f"1x1x{machine.count}"}
        return tuple(topologies.get_topology_desc(platform="cuda", topology_name=kind, **options).devices)
    options: dict[str, Any] = {}
    if machine.count == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device
    try:
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=machine.name, **options).devices)
    except Exception as error:
        raise ConfigError(
            f"--target: libtpu knows no machine {machine.name} ({str(error).splitlines()[0]}). "
            f"Fix: another shape, such as {machine.chip.example}"
        ) from error


def _target_config(machine: Machine) -> str:
    """Return a GPU's description in the form that XLA reads."""
    chip = machine.chip
    major, minor = chip.compute_capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {chip.shared_memory}
  threads_per_core_limit: 2048
  core_count: {chip.multiprocessors}
  fpus_per_core: {chip.fpus_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {chip.bandwidth:.0f}
  l2_cache_size: {chip.l2_cache}
  clock_rate_ghz: {chip.clock_ghz}
  device_memory_size: {chip.memory}
  shared_memory_per_block_optin: {chip.shared_memory - 1024}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "NVIDIA {machine.name.partition(":")[0].upper()}"
"""
