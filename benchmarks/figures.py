"""Redraw the figures of README and docs/ from recorded data, in seconds: `make figures`.

    python benchmarks/figures.py                           # from benchmarks/results/
    python benchmarks/figures.py --record demo --seed 8    # after make demo: train one seed of it again, and record

Recording takes the accuracies of the runs of `make demo`, and trains SGD and SAM with one of its seeds again. That time
every tenth epoch keeps a checkpoint, for the paths on the loss landscape and for the spectra along training.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import sys
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import cifar_rows  # noqa: E402 (needs the path above)
import saddle_rows  # noqa: E402
from measure import RESULTS  # noqa: E402

from saddle_jax.report import plots, slices, spectra, style  # noqa: E402
from saddle_jax.spectra import results  # noqa: E402

DOCS = RESULTS.parent.parent / "docs"
RECORDED = RESULTS / "figures"
METHODS = {"SGD": "ce_drw", "SAM": "ce_drw_sam"}  # recipes of digits_lt, as in make demo
RAREST, EVERY = "class-9", "10 epochs"
_DRAWN = ("grid", "density", "density_sd")  # of a spectrum; the landscape and the slice are kept where they exist


def draw(out: pathlib.Path) -> None:
    """Draw every figure whose data is recorded into a folder."""
    recorded = json.loads((RECORDED / "demo.json").read_text())
    counts, sizes = recorded["counts"], recorded["rank_sizes"]
    accuracy = {name: recorded["class_accuracy"][name] for name in METHODS}
    figure = plots.classes_figure(accuracy, recorded["names"], counts, rank_sizes=sizes)
    save(figure, out / "demo.png")
    runs = {name: RECORDED / name.lower() for name in METHODS}
    last = {name: results.folder_at(run, None) for name, run in runs.items()}
    save(spectra.comparison(last), out / "demo_spectra.png")
    spectra.draw_animation(runs, out / "training")
    save(
        slices.landscapes({name: spectra.load(folder, RAREST) for name, folder in last.items()}), out / "landscape.png"
    )
    save(escape_map(json.loads((RESULTS / "saddle-cpu.json").read_text())), out / "escape.png")
    if along := spectra.ratios(saddle_rows.measured(cifar_rows.FOLDER), size=(5.5, 3.8)):
        save(along, out / "saddle.png")


@style.styled
def escape_map(recorded: dict[str, Any]) -> style.Figure:
    """Draw the steps that each link takes to leave a strict saddle, by radius, as a heat map; return the figure.

    Args:
      recorded: what benchmarks/saddle.py writes.
    """
    links = {name: row for name, row in recorded["links"].items() if name != "SGD"}
    medians = {name: [np.inf if m is None else m for m in row["median_steps"]] for name, row in links.items()}
    names = sorted(links, key=lambda name: (medians[name][-1], medians[name][-3]))  # the fastest at large radii first
    sgd = recorded["links"]["SGD"]["median_steps"][0]
    table = np.array([medians[name] for name in names])
    # Beyond 4 times SGD's steps, or below a quarter, the color stays the same.
    shades = LinearSegmentedColormap.from_list("faster_slower", ["#0072b2", "#ffffff", "#d55e00"])
    figure, axes = style.new_figure(9, 4.6)
    axes.imshow(np.log2(np.minimum(table, 1e9) / sgd).clip(-2, 2), cmap=shades, vmin=-2, vmax=2, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        dark = not sgd / 3 < value < 3 * sgd
        text = f"{value:.0f}" if np.isfinite(value) else "never"
        look = {"color": style.WHITE if dark else style.INK, "fontsize": 8, "weight": "bold" if dark else "normal"}
        axes.text(column, row, text, ha="center", va="center", **look)
    axes.set_xticks(range(len(recorded["radii"])), [f"{radius:.2g}" for radius in recorded["radii"]], fontsize="small")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("radius, in the link's own unit")
    axes.set_title(f"Steps to leave a strict saddle (SGD: {sgd:.0f})", weight="bold")
    seeds, steps = recorded["seeds"], recorded["steps"]
    style.note(
        figure,
        f"Median of {seeds} seeds. Blue is faster than SGD, orange slower. Never: after {steps:,} steps, "
        "at least half of the seeds are still there.",
    )
    return figure


def save(figure: style.Figure, path: pathlib.Path) -> None:
    """Save a figure for a page."""
    path.write_bytes(style.png(figure, 150))
    print(path.name)


def record(demo: pathlib.Path, seed: int) -> None:
    """Record the accuracies of `make demo`, and the landscape and spectra of one of its seeds, trained again."""
    RECORDED.mkdir(parents=True, exist_ok=True)
    found = {name: sorted((demo / method).glob("seed-*/results.json")) for name, method in METHODS.items()}
    stats = json.loads((demo / METHODS["SGD"] / "seed-0" / "class_stats.json").read_text())
    last = {name: [json.loads(path.read_text())["last"] for path in paths] for name, paths in found.items()}
    kept = {
        "names": stats["names"],
        "counts": stats["counts"],
        "rank_sizes": [last["SGD"][0]["groups"][group]["classes"] for group in ("head", "mid", "tail")],
        "class_accuracy": {
            n: np.round([one["class_accuracy"] for one in all_], 3).tolist() for n, all_ in last.items()
        },
    }
    (RECORDED / "demo.json").write_text(json.dumps(kept) + "\n")
    runs = {name: demo / "figures" / name.lower() for name in METHODS}
    for name, run in runs.items():
        if not run.exists():
            train(METHODS[name], seed, run)
    for name, run in runs.items():
        other = next(other for other in METHODS if other != name)
        measure(run, runs[other])
        keep(run, RECORDED / name.lower())


def train(method: str, seed: int, workdir: pathlib.Path) -> None:
    """Train a run of the demo, and keep its checkpoints of every tenth epoch."""
    from saddle_jax.data import sources
    from saddle_jax.experiment.durations import parse_duration
    from saddle_jax.modes import demo
    from saddle_jax.training import checkpoint, loop
    from saddle_jax.training.program import make_program
    from saddle_jax.training.state import Observer, TrainState

    config = demo.config_of(method.removeprefix(demo.METHOD), seed)
    splits = sources.load(config)
    program = make_program(config, splits)
    schedules = program.schedules
    every = parse_duration(EVERY).steps(schedules.steps_per_epoch, schedules.total_steps)
    aside = workdir.with_name(f"{workdir.name}-checkpoints")

    def look(state: TrainState, *_: Any) -> str:
        checkpoint.save(aside / str(int(state.step)), state, None, {})
        return ""

    steps = frozenset(range(0, schedules.total_steps, every))
    loop.train(config, workdir, splits, program, ["make", "figures"], observer=Observer(steps, look))
    for step in steps:
        shutil.move(aside / str(step) / str(step), workdir / "checkpoints" / str(step))


def measure(run: pathlib.Path, other: pathlib.Path) -> None:
    """Measure the spectra at every second checkpoint, and at the last one the landscape."""
    import jax

    from saddle_jax.data import sources
    from saddle_jax.experiment import config as config_lib
    from saddle_jax.modes import spectra as mode
    from saddle_jax.spectra.spectrometer import Spectrometer
    from saddle_jax.training import checkpoint
    from saddle_jax.training.program import make_program

    config = config_lib.from_json((run / "config.json").read_bytes())
    splits = sources.load(config)
    like = make_program(config, splits).init(config.seed)
    steps = checkpoint.available(run / "checkpoints")[::2]
    first = None
    for step in steps:
        is_last = step == steps[-1]
        config.spectra.update(classes="0,7,8,9" if is_last else RAREST[-1], steps=40, escape_batches=0)
        config.spectra.landscape = str(other) if is_last else ""
        first = spectrometer = first.another(config, splits) if first else Spectrometer(config, splits)
        state = checkpoint.restore(checkpoint.find(run / "checkpoints", str(step)), like)
        paths = mode.paths_of([run, other], like) if is_last else {}
        spectrometer.measure(jax.device_get(state), run, paths=paths)


def keep(run: pathlib.Path, out: pathlib.Path) -> None:
    """Keep what the figures need, in single precision."""
    shutil.rmtree(out, ignore_errors=True)
    for step, folder in results.folders(run).items():
        stored = results.read_summary(folder)
        settings = {**stored["settings"], "landscape": bool(stored["settings"]["landscape"])}
        header = results.Header(step, stored["epoch"], settings)
        for name, summary in stored["targets"].items():
            arrays = spectra.load(folder, name)
            wanted = (*_DRAWN, *(key for key in arrays if key.startswith(("landscape", "path")) and name == RAREST))
            kept = {key: np.float32(arrays[key]) for key in wanted}
            results.save(out / "spectra" / str(step), header, name, summary, kept)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=pathlib.Path, help="the folder of make demo's runs")
    parser.add_argument("--seed", type=int, default=0, help="the seed to train again")
    parser.add_argument("--out", type=pathlib.Path, default=DOCS, help="the folder of the figures")
    options = parser.parse_args()
    if options.record:
        record(options.record, options.seed)
    draw(options.out)
