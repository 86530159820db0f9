"""Plan what fits into memory: where the Lanczos basis goes, how many probes run at once, and whether to linearize."""

from __future__ import annotations

from typing import NamedTuple

from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError
from saddle_jax.spectra.lanczos import ROWS

_CPU_CHUNK = 8  # images per device; the fastest size measured with ResNet-32 (benchmarks/README.md)
_ACCELERATOR_PIXELS = 2**19  # pixels per chunk and device: 512 images of 32 x 32


class Memory(NamedTuple):
    """Available memory in bytes."""

    device: int  # on each device
    host: int  # on the host, in addition to the devices; 0 if the device is the host


class Plan(NamedTuple):
    """Plan for computing one target's spectrum."""

    basis: str  # device | host | none
    probes_at_once: int
    linearize: bool
    line: str  # for the terminal: memory needed, and what would fit


def chunk_size(spectra: ConfigDict, image_shape: tuple[int, ...], num_devices: int, *, on_cpu: bool) -> int:
    """Return the number of images per chunk over all devices, a multiple of the number of devices."""
    if spectra.chunk_size:
        return -(-spectra.chunk_size // num_devices) * num_devices
    pixels = image_shape[0] * image_shape[1]
    return num_devices * (_CPU_CHUNK if on_cpu else max(1, _ACCELERATOR_PIXELS // pixels))


def require_memory(images: int, free: int) -> None:
    """Check that a target's decoded images fit into memory.

    Args:
      images: bytes of the decoded images.
      free: bytes of free memory.

    Raises:
      ConfigError: they do not fit.
    """
    if images > free:
        raise ConfigError(
            f"spectra.classes: a target's decoded images take {_size(images)}, but only {_size(free)} are free. "
            "Fix: choose classes or groups with fewer images"
        )


def make_plan(
    spectra: ConfigDict,
    memory: Memory,
    *,
    num_parameters: int,
    num_chunks: int,
    linear_map_bytes: int,
    on_cpu: bool,
) -> Plan:
    """Return a plan that fits into memory.

    Args:
      spectra: the config's fields for spectra.
      memory: available memory.
      num_parameters: number of the network's parameters.
      num_chunks: number of chunks of the target's images.
      linear_map_bytes: bytes that the linear map of one chunk takes on each device.
      on_cpu: whether the devices are CPUs.

    Raises:
      ConfigError: the config asks for something that does not fit. The message says what would fit.
    """
    steps, probes = min(spectra.steps, num_parameters), spectra.probes
    width = 8 if spectra.dtype == "float64" else 4
    vector, rows = num_parameters * width, -(-steps // ROWS) * ROWS
    basis_bytes, working = rows * vector, 8 * vector  # `working` is for the vectors of one step
    least = min(probes, spectra.probes_at_once or 1)
    fits = max(0, (memory.device // least - working) // vector // ROWS * ROWS)
    basis = spectra.basis
    if basis == "auto":
        basis = "device" if steps <= fits else "host" if least * basis_bytes <= memory.host else "none"
    at_once = least
    if not spectra.probes_at_once and not on_cpu:
        # A product of several vectors takes about half of a linear map's memory per vector.
        a_probe = working + linear_map_bytes // 2 + (basis_bytes if basis == "device" else 0)
        at_once = max(1, min(probes, (memory.device // 2) // a_probe))
        if basis == "host":
            at_once = max(1, min(at_once, memory.host // basis_bytes))
    taken = at_once * (working + (basis_bytes if basis == "device" else 0))
    linearize = spectra.linearize == "always" or (
        spectra.linearize == "auto" and num_chunks * linear_map_bytes <= memory.device - taken
    )
    problems = []
    if taken > memory.device:
        fewer = "--config.spectra.probes_at_once=1" if at_once > 1 else "more --config.spectra.memory_gib"
        problems.append(
            f"spectra: found {at_once} probes at once, which take {_size(taken)} (basis on {basis}, {steps} steps x "
            f"{num_parameters:,} parameters x {width} bytes), expected at most {_size(memory.device)}, where {fits:,} "
            f"steps would fit. Fix: {'--config.spectra.basis=auto' if spectra.basis == 'device' else fewer}"
        )
    if spectra.linearize == "always" and num_chunks * linear_map_bytes > memory.device:
        problems.append(
            f"spectra.linearize='always': found {num_chunks} chunks x {_size(linear_map_bytes)}, expected at most "
            f"{_size(memory.device)}. Fix: --config.spectra.linearize=auto"
        )
    host = memory.host or memory.device
    if basis == "host" and at_once * basis_bytes > host:
        problems.append(
            f"spectra.basis='host': found a basis of {_size(at_once * basis_bytes)}, expected at most {_size(host)}. "
            f"Fix: --config.spectra.steps={host // (at_once * vector) // ROWS * ROWS}, or --config.spectra.basis=none"
        )
    if problems:
        raise ConfigError(problems)
    loss = {"device": "", "host": "", "none": " (not stored: eigenvalues repeat, and eigenvectors take a second run)"}
    line = (
        f"basis on {basis}{loss[basis]}: {steps} steps x {num_parameters:,} parameters x {width} bytes = "
        f"{_size(steps * vector)} per probe; {fits:,} steps fit into {_size(memory.device)}"
    )
    return Plan(basis, at_once, linearize, line)


def _size(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB" if size >= 2**27 else f"{size / 2**20:,.2f} MiB"
