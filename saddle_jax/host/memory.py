"""Memory use and memory limits of the devices and the host."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import resource
import sys

import jax

from saddle_jax.host import devices


def peak_memory_mib() -> float:
    """Return the peak memory use so far: the first accelerator's if it reports one, else this process's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def memory_limit() -> int:
    """Return a device's memory in bytes. A CPU device gets its share of the machine's memory."""
    if described := devices.target().memory:
        return described
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(jax.local_devices())


def free_memory() -> tuple[int, int]:
    """Return the free bytes of the first device and of the host beside it, or 0 for the host if it is the device."""
    host = free_host_memory()
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"], host
    return host // len(jax.local_devices()), 0


def free_host_memory() -> int:
    """Return the bytes that the system reports as available, within a container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = [total]
    for path, pattern in (("/proc/meminfo", r"MemAvailable:\s+(\d+) kB"), ("/sys/fs/cgroup/memory.max", r"(\d+)$")):
        with contextlib.suppress(OSError):
            if match := re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE):
                found.append(int(match[1]) * (1024 if "meminfo" in path else 1))
    if len(found) == 1:  # not Linux: there is no common way to ask, so assume half
        found.append(total // 2)
    return min(found)
