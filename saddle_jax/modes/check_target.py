"""`--mode check --target MACHINE`: compile the training step for another machine, and print what it needs there."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from saddle_jax.data import sources
from saddle_jax.data.encoded import Encoded
from saddle_jax.data.order import steps_per_epoch
from saddle_jax.data.sources import Splits
from saddle_jax.errors import ConfigError
from saddle_jax.experiment import checks
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import compiled, console, devices, machines
from saddle_jax.host.compiled import Estimate, Needs
from saddle_jax.host.devices import Target
from saddle_jax.host.machines import Machine
from saddle_jax.modes import plan
from saddle_jax.training import feature_cache, seeds
from saddle_jax.training.feed import Feed
from saddle_jax.training.program import make_program

_BYTES = ("MB", "GB")
USABLE = 0.95  # share of a device's memory that programs get


class Verdict(NamedTuple):
    """What the compiler says about a config's training step on a machine."""

    needs: Needs  # of the program that trains: an epoch as one loop where images stay on the devices, else a step
    steps: int  # number of steps that this program takes; costs are per step
    parameters: int  # of all runs that take their steps together
    estimate: Estimate  # of one step
    pipeline: str  # the pipeline that feeds it


def run(command: Command) -> int:
    """Compile for the machine that the command names, and print what a device of it needs. Nothing is written.

    Raises:
      ConfigError: there is no such machine, its compiler is not installed, or the step does not fit.
    """
    config, machine = command.config, machines.named(command.target or "")
    target = target_of(machine)
    with console.doing("reading the sizes of the set"):
        splits = sources.outline(config)
    with devices.build_for(target):
        program = make_program(config, splits)
        if config.model.cache_views:
            splits = feature_cache.with_blank_features(config, splits, program)
            program = make_program(config, splits)
        plan.describe(config, splits, program, "none: nothing is written", command.notes)
    number = "one device" if machine.count == 1 else f"{machine.count} devices"
    places = "one host" if machine.hosts == 1 else f"{machine.hosts} hosts"
    console.say("target", f"{machine.name}: {number} of {_size(machine.chip.memory)} in {places}")
    change = ""
    for change, candidate in _candidates(config, machine.count):
        if change:
            console.say("memory", f"trying {change}, because the step does not fit")
        if (found := _try(candidate, splits, machine)) is not None:
            if change:
                console.say("memory", f"the step fits with {change}")
            _tell(found, candidate, splits, machine)
            return 0
    raise ConfigError(
        f"--target: the step does not fit on {machine.name}{f', not even with {change}' if change else ''}. "
        "Fix: a smaller --config.batch_size, or more devices"
    )


def target_of(machine: Machine) -> Target:
    """Return a machine as the target of programs.

    Raises:
      ConfigError: there is no such machine, or its compiler is not installed.
    """
    return Target(machine.chip.platform, machines.devices_of(machine), machine.chip.memory)


def compile_for(config: ConfigDict, splits: Splits, machine: Machine) -> Verdict:
    """Compile a config's training step for a machine.

    Raises:
      ConfigError: the config does not fit the machine's devices or the images.
      jax.errors.JaxRuntimeError: the compiler fails, because the step does not fit or for another reason.
    """
    with devices.build_for(target_of(machine)):
        feed, function, arguments = training(config, splits)
        needs = compiled.needs_of(compiled.compile_lowered(function.lower(*arguments), machine))
    counted = needs.flops or _flops(config, splits, machine)
    # A loop's body counts once, and most of a step is in such a loop.
    loops = config.micro_batches
    if config.optim.name == "lpf_sgd" and config.lpf_sgd.samples > 1:
        loops *= config.lpf_sgd.samples / 2  # the first sample is before the loop
    needs = needs._replace(
        flops=None if counted is None else counted * loops,
        traffic=None if needs.traffic is None else needs.traffic * loops,
    )
    return Verdict(
        needs,
        feed.longest,
        sum(leaf.size for leaf in jax.tree.leaves(arguments[0].params)),
        compiled.estimate(needs, machine, config.model.dtype),
        feed.pipeline,
    )


def training(config: ConfigDict, splits: Splits) -> tuple[Feed, Callable[..., Any], tuple[Any, ...]]:
    """Return the feed of a config's training, the function that trains, and the shapes of its arguments.

    It is built for what `devices.target()` returns. If images stay on the devices, the function takes a whole epoch.
    """
    program = make_program(config, splits)
    runs = seeds.first_runs(config, pathlib.Path())
    state = jax.eval_shape(lambda: program.init(config.seed))
    if len(runs) > 1:
        state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(runs), *x.shape), x.dtype), state)
    feed = Feed([of_run for of_run, _ in runs], [splits] * len(runs), program)
    return feed, *feed.call(devices.replicate(state), feed.blank_segment(feed.longest))


def _flops(config: ConfigDict, splits: Splits, machine: Machine) -> float | None:
    """Return the flops of a step on one device, before the compiler optimizes it."""
    alone = config.copy_and_resolve_references()
    alone.batch_size //= machine.count
    alone.model.kernels = "lax"  # the compiler can't see into the CPU's own kernels
    alone.steps_at_once = 1
    with devices.build_for(Target(machine.chip.platform, tuple(jax.devices()[:1]), machine.chip.memory)):
        _, function, arguments = training(alone, splits)
        return (function.lower(*arguments).cost_analysis() or {}).get("flops")


def _try(config: ConfigDict, splits: Splits, machine: Machine) -> Verdict | None:
    """Return what the compiler says, or None if the program does not fit into a device's memory."""
    with console.doing(f"compiling for {machine.name}, which takes minutes for a large network"):
        try:
            found = compile_for(config, splits, machine)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            console.say("memory", f"the compiler finds no room: {str(error).splitlines()[0]}")
            return None
    memory = found.needs.memory
    if memory is None:
        console.say("memory", "the compiler does not say how much the step needs")
        return found
    share = memory / machine.chip.memory
    console.say(
        "memory",
        f"{_size(memory)} of {_size(machine.chip.memory)} on each device ({100 * share:.0f} %)"
        + (f", with {found.steps} steps in one call" if found.steps > 1 else ""),
    )
    return found if share <= USABLE else None


def _candidates(config: ConfigDict, parts: int) -> Iterator[tuple[str, ConfigDict]]:
    """Yield the config, then variants that save more and more memory, each with its changes as overrides.

    A change that does not go with the rest of the config is left out.
    """
    images = config.batch_size // parts
    numbers = [number for number in (2, 4, 8) if number > config.micro_batches and images % number == 0]
    saving = [("model.dtype", "bfloat16"), ("model.remat", True), *(("micro_batches", number) for number in numbers)]
    changes: dict[str, Any] = {}
    yield "", config
    for name, value in saving:
        candidate = config.copy_and_resolve_references()
        candidate.update_from_flattened_dict({**changes, name: value})
        if config_lib.flatten(config)[name] != value and not checks.problems_of(candidate, config):
            changes[name] = value
            yield " ".join(f"--config.{name}={value}" for name, value in changes.items()), candidate


def _tell(found: Verdict, config: ConfigDict, splits: Splits, machine: Machine) -> None:
    """Print what a step costs, and the least time that it takes."""
    needs, floor = found.needs, found.estimate
    traffic = "" if needs.traffic is None else f" and {_scaled(needs.traffic / 1e6, _BYTES)} to and from memory"
    if needs.flops is not None:
        flops = _scaled(needs.flops / 1e6, ("MFLOP", "GFLOP", "TFLOP"))
        console.say("cost", f"a step takes {flops}{traffic} on each device")
    for name, (count, size) in sorted(needs.collectives.items()):
        console.say("between", f"{count} {name} of {_scaled(size / 1e6, _BYTES)} together in a step")
    parts = {"products": floor.products, "memory traffic": floor.traffic, "sums over devices": floor.reduce}
    shares = ", ".join(f"{name} {_time(value)}" for name, value in parts.items() if value)
    per_second = config.batch_size / floor.seconds
    epoch = steps_per_epoch(len(splits.train.labels), config.batch_size, config.data.drop_last)
    console.say(
        "estimate",
        f"a step takes {_time(floor.seconds)} or more by the roofline model ({shares}); "
        f"an epoch of {epoch:,} steps takes {_time(epoch * floor.seconds)} or more",
    )
    if found.pipeline != "resident":
        verb = "decode" if isinstance(splits.train.images, Encoded) else "deliver"
        each = "" if machine.hosts == 1 else f", {per_second / machine.hosts:,.0f} on each of {machine.hosts} hosts"
        console.say("hosts", f"to keep up with that, the input pipeline must {verb} {per_second:,.0f} images/s{each}")
    else:
        console.say("hosts", "images stay on the devices; the hosts send only their order")
    if needs.traffic is None:
        console.say("note", "XLA does not report a GPU's memory traffic, so the estimate leaves it out")


def _scaled(value: float, units: Sequence[str], base: float = 1000.0) -> str:
    """Return a value in the unit that leaves few digits. Each unit is `base` times the one before."""
    step = 0
    while step < len(units) - 1 and value >= base:
        value, step = value / base, step + 1
    return f"{value:,.1f} {units[step]}"


def _size(size: float) -> str:
    return _scaled(size / 2**20, ("MiB", "GiB"), 1024.0)


def _time(seconds: float) -> str:
    return console.duration(seconds) if seconds >= 1 else f"{1e3 * seconds:,.3g} ms"
