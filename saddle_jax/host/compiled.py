"""What a compiled program needs on each device, and the least time that a device takes to run it."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import jax

from saddle_jax.host.machines import Machine

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_ARRAY = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\]")
_COLLECTIVE = re.compile(
    r"= (\(.*?\)|\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_CALLBACK = re.compile(r"callback|outside_compilation|SendToHost|host_transfer", re.IGNORECASE)


class Collective(NamedTuple):
    """A kind of operation between devices, with its totals over a program."""

    count: int
    bytes: int  # size of the results on a device


class Needs(NamedTuple):
    """What a compiled program needs on each device. None means that the compiler does not report it."""

    memory: int | None  # bytes of its arguments, results, and buffers
    flops: float | None
    traffic: float | None  # bytes that go to and from the device's memory
    collectives: dict[str, Collective]
    custom_calls: tuple[str, ...]
    float64: bool
    callbacks: bool  # whether it calls back to the host


class Estimate(NamedTuple):
    """Seconds that each resource needs if it works at its peak all the time (the roofline model).

    A real step takes longer; no step can be faster than this.
    """

    products: float
    traffic: float | None
    reduce: float

    @property
    def seconds(self) -> float:
        """Return the time of a step: products and traffic overlap, and sums over devices come after them."""
        return max(self.products, self.traffic or 0.0) + self.reduce


def compile_lowered(lowered: jax.stages.Lowered, machine: Machine) -> jax.stages.Compiled:
    """Compile a program for a described machine."""
    # XLA autotunes its own matrix products on a GPU. Without a GPU, it fails for some shapes; cuBLAS needs no tuning.
    options = {"xla_gpu_enable_triton_gemm": False} if machine.chip.platform == "gpu" else None
    return lowered.compile(compiler_options=options)


def memory_of(compiled: jax.stages.Compiled) -> int | None:
    """Return the bytes of a program's arguments, results, and buffers on each device, or None if it is not known."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return int(used - memory.alias_size_in_bytes)


def needs_of(compiled: jax.stages.Compiled) -> Needs:
    """Return what a compiled program needs. A loop's body counts once in flops, traffic, and collectives."""
    text = compiled.as_text() or ""
    cost = compiled.cost_analysis() or {}
    cost = cost[0] if isinstance(cost, list) else cost
    return Needs(
        memory=memory_of(compiled),
        flops=cost.get("flops"),
        traffic=cost.get("bytes accessed"),
        collectives=_collectives(text),
        custom_calls=tuple(sorted(set(re.findall(r'custom_call_target="([^"]+)"', text)))),
        float64="f64[" in text,
        callbacks=bool(_CALLBACK.search(text)),
    )


def estimate(needs: Needs, machine: Machine, dtype: str) -> Estimate:
    """Return the time of a step on a machine by the roofline model, for a network whose products are in `dtype`."""
    chip = machine.chip
    reduced = needs.collectives.get("all-reduce", Collective(0, 0)).bytes
    # In a ring, each device sends everything twice, except for the share that it sums itself.
    sent = 2 * reduced * (machine.count - 1) / machine.count
    return Estimate(
        products=(needs.flops or 0.0) / chip.flops[dtype],
        traffic=None if needs.traffic is None else needs.traffic / chip.bandwidth,
        reduce=sent / chip.link,
    )


def _collectives(text: str) -> dict[str, Collective]:
    """Return the operations between devices in the text of an optimized program."""
    found: dict[str, Collective] = {}
    for result, name, begins in _COLLECTIVE.findall(text):
        arrays = [
            _BYTES[dtype] * math.prod(int(n) for n in sizes.split(",") if n) for dtype, sizes in _ARRAY.findall(result)
        ]
        if begins and name != "all-reduce":  # its result holds the inputs, then the outputs
            arrays = arrays[len(arrays) // 2 :]
        count, total = found.get(name, Collective(0, 0))
        found[name] = Collective(count + 1, total + sum(arrays))
    return found
