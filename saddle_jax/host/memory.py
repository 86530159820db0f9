"""The memory of devices and of the host."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import resource
import sys

import jax


def peak_memory_mib() -> float:
    """Return the most memory used so far: of the first accelerator where it tells, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def memory_limit() -> int:
    """Return the bytes of a device's memory; of a CPU device its share of the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(jax.local_devices())


def free_memory() -> tuple[int, int]:
    """Return the free bytes of the first device and of the host beside it: 0 where the device is the host."""
    host = free_host_memory()
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"], host
    return host // len(jax.local_devices()), 0


def free_host_memory() -> int:
    """Return the bytes that the system says are available, within the limit of a container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = [total]
    for path, pattern in (("/proc/meminfo", r"MemAvailable:\s+(\d+) kB"), ("/sys/fs/cgroup/memory.max", r"(\d+)$")):
        with contextlib.suppress(OSError):
            if match := re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE):
                found.append(int(match[1]) * (1024 if "meminfo" in path else 1))
    if len(found) == 1:  # no Linux: what is free is not told in one way
        found.append(total // 2)
    return min(found)
