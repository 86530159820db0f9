"""Class-wise Hessian spectra along the training of CE+DRW with and without SAM: the paper's central figure.

    python benchmarks/reproduce.py --cell cifar10_lt:ce_drw,ratio=100 --seed 0        # train both first
    python benchmarks/reproduce.py --cell cifar10_lt:ce_drw_sam,ratio=100 --seed 0
    python benchmarks/saddle_rows.py                                                  # hours; the same call continues

It measures the extreme eigenvalues of six classes at seven checkpoints of each run, those of the paper's figure. The
summaries go to benchmarks/results/cifar/<cell>-seed0/, from which `make figures` draws docs/saddle.png and
`python benchmarks/reproduce.py --page` writes the table.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import cifar_rows  # noqa: E402 (needs the path above)
from published import WITH_SPECTRA, Cell  # noqa: E402

from saddle_jax.report import spectra, tables  # noqa: E402
from saddle_jax.spectra import results  # noqa: E402

EPOCHS = (10, 50, 100, 160, 170, 190, 200)  # of 200; DRW begins after 160
CLASSES = (0, 2, 5, 7, 8, 9)
# Two start vectors of 40 steps find the ends of a spectrum; the residuals in the table say how well.
SETTINGS = ("--config.spectra.probes=2", "--config.spectra.steps=40", "--config.spectra.escape_batches=0")
NAMES = {cell: "SAM" if cell.method.endswith("_sam") else "SGD" for cell in WITH_SPECTRA}


def main() -> int:
    """Measure what is missing, and keep the summaries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs/cifar", help="folder of the trained runs")
    parser.add_argument("--results", type=pathlib.Path, default=cifar_rows.FOLDER, help="folder for the summaries")
    parser.add_argument("override", nargs="*", help="more --config.spectra.FIELD=VALUE flags, after --")
    options = parser.parse_args()
    for cell in WITH_SPECTRA:
        run = options.runs.resolve() / cell.name / "seed-0"
        if not (run / "results.json").is_file():
            print(f"left out: {cell.name}, whose run has not finished")
            continue
        steps = tables.read_results(run)["step"]
        chosen = ",".join(str(epoch * steps // EPOCHS[-1]) for epoch in EPOCHS)
        command = ["main.py", "--mode=spectra", f"--workdir={run}", f"--checkpoint={chosen}"]
        command += [f"--config.spectra.classes={','.join(map(str, CLASSES))}", *SETTINGS, *options.override]
        print(shlex.join(command), flush=True)
        if code := subprocess.run([sys.executable, *command], cwd=ROOT).returncode:
            return code
        for step, folder in results.folders(run).items():
            kept = folder_of(options.results, cell) / "spectra" / str(step)
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "summary.json", kept)
    return 0


def folder_of(results_folder: pathlib.Path, cell: Cell) -> pathlib.Path:
    """Return the folder that keeps a cell's summaries."""
    return results_folder / f"{cell.name}-seed0"


def measured(results_folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return the folders of the cells that have been measured, by their optimizer."""
    folders = {NAMES[cell]: folder_of(results_folder, cell) for cell in WITH_SPECTRA}
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


def table(results_folder: pathlib.Path) -> Iterator[str]:
    """Yield the lines of a table: the last checkpoint's extreme eigenvalues, and their ratio at every checkpoint."""
    for name, folder in measured(results_folder).items():
        summaries = spectra.alike_summaries(folder)
        epochs = [f"{summary['epoch']:g}" for summary in summaries]
        yield from (f"**{name}**", "", f"| class | images | λmin | λmax | error | {' | '.join(epochs)} |")
        yield "|" + "---|" * (5 + len(epochs))
        for target, last in summaries[-1]["targets"].items():
            found = [summary["targets"].get(target, {}).get("ratio") for summary in summaries]
            ratios = ["" if ratio is None else f"{ratio:.2f}" for ratio in found]
            error = max(last["error_min"], last["error_max"])
            ends = [f"{last['images']:,}", f"{last['lambda_min']:.2f}", f"{last['lambda_max']:.2f}", f"{error:.0e}"]
            yield f"| {' | '.join([last['title'], *ends, *ratios])} |"
        yield ""


if __name__ == "__main__":
    sys.exit(main())
