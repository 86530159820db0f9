"""`--mode check`: build everything, take one step, and draw some training images, without training."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import jax
import numpy as np

from saddle_jax.data import inspection, sources
from saddle_jax.errors import NonFiniteError
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import compiled, console
from saddle_jax.modes import check_target, plan, views
from saddle_jax.training import feature_cache, origin, seeds
from saddle_jax.training.feed import Feed
from saddle_jax.training.program import make_program
from saddle_jax.training.state import stack


def run(command: Command) -> int:
    """Build everything, print its sizes, take one step, and draw the views of some images.

    The network is shown by stage, or in full if the command is verbose. Only the drawing is written to the workdir.

    Raises:
      NonFiniteError: the loss or the update of the step is not finite.
    """
    if command.target is not None:
        return check_target.run(command)
    from clu import parameter_overview

    config, workdir = command.config, pathlib.Path(command.workdir)
    plan.require_directory(workdir)
    runs = seeds.first_runs(config, workdir)
    origins = [origin.find(run_config, folder) for run_config, folder in runs]
    with console.doing("reading the images"):
        splits = sources.load(config)
    program, fed = make_program(config, splits), splits
    shown = program.views
    if config.model.cache_views:
        fed = feature_cache.with_blank_features(config, splits, program)
        program = make_program(config, fed)
    plan.describe(config, fed, program, command.workdir, command.notes)
    console.table(inspection.class_table(splits))
    inspection.require_readable(splits, decode=config.data.check_decode)
    state = program.init(config.seed)
    if command.verbose:
        print(parameter_overview.get_parameter_overview(state.params, include_stats=False))
    else:
        console.table(_stages(state.params))
    feed = Feed([config for config, _ in runs], [fed] * len(runs), program)
    segment = next(feed.segments(0, 1, lambda _: True))
    start = jax.device_get(state)
    state = stack([found.adopt(start, splits)[0] if found else start for found in origins])
    with console.doing("compiling the training step"):
        function, arguments = feed.call(state, feed.blank_segment(feed.longest))
        memory = compiled.memory_of(function.lower(*arguments).compile())
    if memory is not None:
        what = "a step needs" if feed.longest == 1 else f"{feed.longest} steps in one call need"
        console.say("memory", f"{what} about {memory / 2**20:,.0f} MiB on each device, according to the compiler")
    with console.doing("taking a step"):
        metrics = jax.device_get(feed.advance(state, segment)[1])
    loss, perturbed = np.mean(metrics.loss), np.mean(metrics.perturbed_loss)
    if np.all(metrics.skipped):
        console.say("step", "skipped, because every image of the first batch is bad")
    else:
        console.say("step", f"loss {loss:.4f}, at w + e {perturbed:.4f}; the step was not kept")
    console.say("views", str(views.draw(config, splits, shown, workdir)))
    if not np.all(metrics.finite):
        raise NonFiniteError("step 1: the loss or the update is not finite. Fix: a lower learning rate or rho")
    return 0


def _stages(params: Any) -> console.Table:
    """Return a network's parameters by stage, the part of a module's name before a block's number."""
    sizes: dict[str, int] = {}
    blocks: dict[str, set[str]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        module = jax.tree_util.keystr(path[:1], simple=True)
        stage = re.sub(r"_\d+$", "", module)
        sizes[stage] = sizes.get(stage, 0) + leaf.size
        blocks.setdefault(stage, set()).add(module)
    total = sum(sizes.values())
    rows = [
        [stage, str(len(blocks[stage])), f"{size:,}", f"{100 * size / total:.1f} %"] for stage, size in sizes.items()
    ]
    rows.append(["total", "", f"{total:,}", "100.0 %"])
    return console.Table(["stage", "blocks", "parameters", "share"], rows, "lrrr", "Network (every tensor: --verbose)")
