"""`make demo`: compare SGD and SAM on long-tailed handwritten digits, with the same seeds and epochs for both.

The demo then measures the smallest Hessian eigenvalue of the tail classes in every run, draws the spectra of one seed,
and writes a report on all runs. Every run has a complete directory under demo/. Finished runs are not trained again.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data import sources
from saddle_jax.errors import SaddleError
from saddle_jax.experiment import config_file
from saddle_jax.host import console, output
from saddle_jax.modes import report as report_program
from saddle_jax.report import comparisons, differences, plots, rows, runs, style, tables
from saddle_jax.report import spectra as spectra_plots
from saddle_jax.spectra import results
from saddle_jax.spectra.spectrometer import Spectrometer
from saddle_jax.training import checkpoint, seeds
from saddle_jax.training.program import Program, make_program
from saddle_jax.training.run import Member

METHOD = "ce_drw"  # cross-entropy with deferred re-weighting
TAIL = (7, 8, 9)
NAMES = {"": "SGD", "_sam": "SGD + SAM"}


def main(arguments: list[str] | None = None) -> None:
    """Train the missing runs, print the table, draw the figures, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m saddle_jax.modes.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12, help="number of seeds to train, starting at 0")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("demo"), help="folder for the runs")
    parser.add_argument(
        "--probes", type=int, default=10, help="number of random vectors for the spectra that are drawn"
    )
    options = parser.parse_args(arguments)
    for name in ("seeds", "probes"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: found {getattr(options, name)}, expected 1 or more")
    began = time.monotonic()
    reports = {suffix: [] for suffix in NAMES}
    programs: dict[str, Program] = {}
    for group in seeds.groups(range(options.seeds), seeds.seeds_at_once(options.seeds)):
        for suffix in NAMES:
            reports[suffix] += train(suffix, group, options.out, programs)
        for seed in group:
            print(f"seed {seed:2d}: " + ", ".join(tail(NAMES[s], reports[s][seed]) for s in NAMES), flush=True)
    show(reports, options.out)
    show_spectra(options.seeds, options.probes, options.out, programs)
    report = report_program.write(workdirs(options.seeds, options.out), options.out / "report")
    print(f"Report: {report} (open it in a browser)")
    print(f"\nRuns: {options.out}/{METHOD}/, {options.out}/{METHOD}_sam/   ({time.monotonic() - began:.0f} s)")


def train(suffix: str, group: Sequence[int], out: pathlib.Path, programs: dict[str, Program]) -> list[dict]:
    """Train the unfinished runs of a method for a group of seeds; return each run's test report at its last step."""
    members = []
    for seed in group:
        config, workdir = config_of(suffix, seed), workdir_of(suffix, seed, out)
        if not (workdir / "results.json").is_file():
            members.append(Member(config, workdir, sources.load(config)))
    if members:
        program = program_for(suffix, members[0].config, members[0].splits, programs)
        seeds.train_at_once(members, program, ["make", "demo"], quiet=True)
    return [tables.read_results(workdir_of(suffix, seed, out)) for seed in group]


def program_for(suffix: str, config: ConfigDict, splits: sources.Splits, programs: dict[str, Program]) -> Program:
    """Return the program of a method. All seeds share it, because their class sizes are the same."""
    if suffix not in programs:
        programs[suffix] = make_program(config, splits)
    return programs[suffix]


def config_of(suffix: str, seed: int) -> ConfigDict:
    """Return the config of one run."""
    config = config_file.load(f"digits_lt:{METHOD}{suffix}")
    config.seed = config.data.subset_seed = seed
    config.eval.every = config.checkpoint_every = config.duration
    return config


def workdir_of(suffix: str, seed: int, out: pathlib.Path) -> pathlib.Path:
    """Return the directory of one run."""
    return out / (METHOD + suffix) / f"seed-{seed}"


def workdirs(number: int, out: pathlib.Path) -> list[pathlib.Path]:
    """Return the directories of all runs, for seeds from 0."""
    return [workdir_of(suffix, seed, out) for suffix in NAMES for seed in range(number)]


def tail(name: str, report: dict) -> str:
    """Return the accuracies of a report as "SAM overall 92.1 tail 80.0"."""
    return f"{name} overall {report['accuracy']:.1f} tail {tables.accuracy(report, 'tail'):.1f}"


def show(reports: dict[str, list[dict]], out: pathlib.Path) -> None:
    """Print the table and a conclusion, and draw accuracy by class size."""
    counts_C = sources.load(config_file.load(f"digits_lt:{METHOD}")).stats.counts_C
    about = (
        f"Long-tailed handwritten digits: {counts_C.max()} training images in the largest class, {counts_C.min()} in "
        "the smallest. ResNet-8, cross-entropy with deferred re-weighting, 100 epochs. Test accuracy in percent after "
        "the last epoch, mean ± standard deviation over n seeds. head: classes 0-2, mid: 3-6, tail: 7-9 (5, 3, and 2 "
        "images)."
    )
    print()
    _say(about)
    print()
    print(tables.comparison({NAMES[suffix]: reports[suffix] for suffix in NAMES}, width=console.columns()))
    print()
    _say("What SAM changed, paired by seed (same images, initial weights, and batches):")
    (images,), _ = rows.arrange(map(runs.read, workdirs(len(reports[""]), out)))
    columns = ("overall", "tail")
    for sentence in differences.sentences(comparisons.compare(images, columns, "last"), columns):
        _say(f"  {sentence}")
    print("  SAM takes twice as many gradients.")
    classes = {NAMES[suffix]: [report["class_accuracy"] for report in reports[suffix]] for suffix in NAMES}
    title = "Long-tailed digits: SGD and SAM by class size"
    digits = list(map(str, range(len(counts_C))))
    figure = plots.classes_figure(classes, digits, counts_C, title=title, rank_sizes=(3, 4, 3))
    print(f"Picture: {style.save(figure, out / 'class_accuracy')}")


def show_spectra(number: int, probes: int, out: pathlib.Path, programs: dict[str, Program]) -> None:
    """Measure the missing spectra of the tail classes, print the effect of SAM, and draw the spectra of one seed."""
    smallest, residual = {suffix: np.zeros(number) for suffix in NAMES}, 0.0
    spectrometer: Spectrometer | None = None

    def measure(suffix: str, seed: int, **spectra: Any) -> pathlib.Path:
        nonlocal spectrometer
        config, workdir = config_of(suffix, seed), workdir_of(suffix, seed, out)
        config.spectra.update(classes=",".join(map(str, TAIL)), steps=40, probes=2, escape_batches=0)
        config.spectra.update(spectra)
        splits = sources.load(config)
        make = spectrometer.another if spectrometer else Spectrometer  # shares the compiled functions
        spectrometer = make(config, splits)
        like = program_for(suffix, config, splits, programs).init(0)
        state = checkpoint.restore_weights(checkpoint.find(workdir / "checkpoints"), like)
        return spectrometer.measure(jax.device_get(state), workdir, quiet=True)

    for suffix in NAMES:
        for seed in range(number):
            found = results.read_summary(measure(suffix, seed))["targets"]
            value, error = min((found[f"class-{c}"]["lambda_min"], found[f"class-{c}"]["residual_min"]) for c in TAIL)
            smallest[suffix][seed], residual = value, max(residual, error)
    print()
    _say("The most negative Hessian eigenvalue of any tail class's loss after training (at a minimum: none):")
    for suffix, name in NAMES.items():
        print(f"  {name:10s} {tables.spread(smallest[suffix], digits=3)}")
    print(f"  largest residual |Hv - λv| of any: {residual:.1g}")
    change = smallest["_sam"] - smallest[""]
    print(f"  nearer to 0 with SAM in {(change > 0).sum()} of {number} seeds")
    typical = int(np.argsort(change)[(number - 1) // 2])
    drawn = {"classes": "0," + ",".join(map(str, TAIL)), "probes": probes, "escape_batches": 32}
    folders = {name: measure(suffix, typical, **drawn) for suffix, name in NAMES.items()}
    for folder in folders.values():
        spectra_plots.draw_folder(folder)
    picture = spectra_plots.draw_comparison(folders, out / "spectra")
    print(f"Picture: {picture} (seed {typical}, whose change is the median; its runs have more in spectra/)")


def _say(text: str) -> None:
    """Print a text in lines that fit."""
    print(console.wrapped(text, indent="  " if text.startswith(" ") else ""))


if __name__ == "__main__":
    output.keep_going()
    try:
        main()
    except SaddleError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
