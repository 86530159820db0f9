"""The section of docs/results.md about links, from the figures of benchmarks/links.py. Bold is outside the noise."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from benchmarks.links_rows import LOSSES, ROWS
from saddle_jax.report import tables

RESULTS = pathlib.Path(__file__).parent / "results"
TITLE = "## Ways out of the saddle, digits"
LEVEL = 0.05  # of all comparisons of a column together
NAMES = {"ce_drw": "CE+DRW", "ldam_drw": "LDAM+DRW", "vs": "VS"}
SGDS = {1: "sgd", 2: "sgd_x2", 3: "sgd_x3"}  # by gradient evaluations a step of SGD's own number of steps
COMPARED = {"sgd": len(ROWS) - 1, "equal": sum(row.link != "sgd" for row in ROWS.values())}  # differences a column has
HEADS = ("overall vs. SGD", "tail vs. SGD", "overall vs. equal SGD", "tail vs. equal SGD")
AGAINST = {"sgd": "against SGD", "equal": "against equal SGD"}
QUANTITIES = {"overall": "Overall", "tail": "Tail", "lambda_min": "λmin"}

Runs = Mapping[str, Mapping[str, float]]  # of a row: by seed, what was found


class Change(NamedTuple):
    """Paired differences of one row from another, over the seeds that both have."""

    values: np.ndarray
    comparisons: int  # that share the error

    @property
    def is_outside(self) -> bool:
        """Whether Student's interval, at LEVEL divided by the number of comparisons, excludes 0."""
        n = len(self.values)
        if n < 2:
            return False
        half = stats.t.ppf(1 - LEVEL / self.comparisons / 2, n - 1) * self.values.std(ddof=1) / n**0.5
        return bool(abs(self.values.mean()) > half)

    def cell(self, digits: int = 1) -> str:
        """Return "+1.3 ± 1.2 (10)", in bold outside the noise. The brackets hold the number of seeds that rise."""
        deviation = f" ± {self.values.std(ddof=1):.{digits}f}" if len(self.values) > 1 else ""
        text = f"{self.values.mean():+.{digits}f}{deviation}"
        return f"{f'**{text}**' if self.is_outside else text} ({(self.values > 0).sum()})"


def change(runs: Mapping[str, Runs], name: str, base: str, quantity: str, comparisons: int) -> Change | None:
    """Return the change that a row makes, or None if no seed has both rows."""
    seeds = sorted(runs.get(name, {}).keys() & runs.get(base, {}).keys(), key=int)
    seeds = [seed for seed in seeds if quantity in runs[name][seed] and quantity in runs[base][seed]]
    if not seeds:
        return None
    return Change(np.array([runs[name][s][quantity] - runs[base][s][quantity] for s in seeds]), comparisons)


def ratio(runs: Mapping[str, Runs], name: str, quantity: str) -> np.ndarray:
    """Return a row's figure divided by SGD's, by seed."""
    seeds = sorted(runs.get(name, {}).keys() & runs["sgd"].keys(), key=int)
    return np.array([runs[name][seed][quantity] / runs["sgd"][seed][quantity] for seed in seeds])


def equal_compute(runs: Mapping[str, Runs], name: str) -> str | None:
    """Return the SGD row with as many evaluations as a link, or nearly as many. None for SGD itself."""
    if ROWS[name].link == "sgd":
        return None
    return SGDS[int(np.clip(round(ratio(runs, name, "evaluations").mean()), 1, 3))]


def section(folder: pathlib.Path = RESULTS) -> list[str]:
    """Return the lines of the section, from the figures in a folder."""
    record = json.loads((folder / "links-digits.json").read_text())
    timing_path = folder / "links-time.json"
    timing = json.loads(timing_path.read_text()) if timing_path.is_file() else {}
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    lines = [
        TITLE,
        "",
        "These tables compare every link on long-tailed handwritten digits: `configs/digits_lt.py`, 114 images of",
        "the largest class down to 2, ResNet-8, 100 epochs, on CPUs. Accuracy is test accuracy in percent after the",
        "last epoch, mean ± standard deviation over n seeds. Each seed has its own images, initial weights, and",
        "order of the images, the same in all rows, so seeds are paired. The tail is the three rarest classes.",
        "",
        "- **vs. SGD** is the paired difference from SGD: its mean and standard deviation over the seeds. **vs. equal",
        "  SGD** is the paired difference from the row of SGD with the nearest number of gradient evaluations: one,",
        "  two, or three times the epochs, with stretched schedules. In parentheses is the number of seeds in which",
        "  the figure rises.",
        "- **Bold** differences are outside the noise: Student's confidence interval of the mean difference excludes",
        f"  0, at 95 % for the column as a whole (Bonferroni: {COMPARED['sgd']} rows against SGD, {COMPARED['equal']}"
        " against equal SGD).",
        "  These seeds cannot tell the other differences from chance.",
        "- **λmin** is the most negative Hessian eigenvalue of any tail class. The loss is the one that was trained,",
        "  so λmin cannot be compared between the losses below.",
        "- **Evaluations** and **seconds** per run are relative to SGD's; the heading gives SGD's own seconds.",
        f"  Seconds exclude compilation and are {seconds_of(timing)}.",
        "- SSE-SAM makes 3.7 evaluations per step and is compared with SGD of three times the epochs. In its last",
        "  30 % of the run, CPUs compute a fourth pass that is not used; it is not counted.",
        "- The links' sizes were chosen by overall accuracy on three other seeds with CE+DRW",
        "  (`benchmarks/results/links-tuning.json`) and are used with both losses. SAM's is",
        "  that of `make demo`. SSE-SAM, Focal-SAM, CNC-PGD, and LPF-SGD use the smallest or the largest size that was",
        "  tried, so a size beyond it may do better.",
        "",
        "`python benchmarks/links.py` measured this section",
        f"({record['date']}, {record['device']}, {versions}; `benchmarks/results/links-digits.json`).",
    ]
    for loss in LOSSES:
        if record["runs"].get(loss, {}).get("sgd"):
            lines += of_loss(loss, record["runs"][loss], timing)
    return lines


def seconds_of(timing: Mapping[str, Any]) -> str:
    """Return the source of the seconds."""
    if timing:
        return f"medians of `--time` with CE+DRW, links in turns ({timing['date']})"
    return "medians of these runs, links in turns, on a machine shared with other work"


def of_loss(loss: str, runs: Mapping[str, Runs], timing: Mapping[str, Any]) -> list[str]:
    """Return a loss's two tables, accuracy and cost, and their verdict."""
    present = [name for name in ROWS if runs.get(name)]
    timed = timing.get("runs", {}).get("ce_drw") or runs
    sgd = np.median([run["seconds"] for run in timed["sgd"].values()])
    found = {name: changes_of(runs, name) for name in present}
    accuracies = [["", *tables.COLUMNS, *HEADS, "n"]]
    rest = [["", "evaluations", f"seconds (SGD {sgd:.1f})", "λmin", "vs. SGD"]]
    for name in present:
        values = list(runs[name].values())
        changes = {key: one.cell(digits=3 if key[1] == "lambda_min" else 1) for key, one in found[name].items()}
        cells = [tables.spread([run[column] for run in values]) for column in tables.COLUMNS]
        cells += [changes.get((kind, quantity), "") for kind in COMPARED for quantity in ("overall", "tail")]
        accuracies.append([ROWS[name].title, *cells, tables.seeds(len(values))])
        seconds = ratio(timed, name, "seconds")
        cells = [f"{ratio(runs, name, 'evaluations').mean():.2f}", f"{np.median(seconds):.2f}" if seconds.size else ""]
        curvatures = [run["lambda_min"] for run in values if "lambda_min" in run]
        fewer = f" ({len(curvatures)} seeds)" if 0 < len(curvatures) < len(values) else ""
        cells.append(tables.spread(curvatures, digits=3) + fewer)
        rest.append([ROWS[name].title, *cells, changes.get(("sgd", "lambda_min"), "")])
    return ["", f"### {NAMES[loss]}", "", *markdown(accuracies), "", *markdown(rest), "", *verdict(found)]


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def changes_of(runs: Mapping[str, Runs], name: str) -> dict[tuple[str, str], Change]:
    """Return a row's differences from SGD and from SGD of equal evaluations, by kind and quantity."""
    bases = {"sgd": "sgd", "equal": equal_compute(runs, name)}
    pairs = [("sgd", quantity) for quantity in QUANTITIES] + [("equal", "overall"), ("equal", "tail")]
    found = {
        (kind, quantity): change(runs, name, base, quantity, COMPARED[kind])
        for kind, quantity in pairs
        if (base := bases[kind]) not in (None, name)
    }
    return {key: one for key, one in found.items() if one is not None}


def verdict(found: Mapping[str, Mapping[tuple[str, str], Change]]) -> list[str]:
    """Return the lines that name the rows outside the noise. `found` is by row, kind, and quantity."""
    lines = ["| outside the noise | better, or closer to 0 | worse, or farther from 0 |", "|---|---|---|"]
    for kind, quantity in dict.fromkeys(key for changes in found.values() for key in changes):
        ours = {name: changes[kind, quantity] for name, changes in found.items() if (kind, quantity) in changes}
        outside = {name: one.values.mean() for name, one in ours.items() if one.is_outside}
        up = ", ".join(_in_a_list(name) for name, mean in outside.items() if mean > 0)
        down = ", ".join(_in_a_list(name) for name, mean in outside.items() if mean < 0)
        lines.append(f"| {QUANTITIES[quantity]} {AGAINST[kind]} | {up or 'none'} | {down or 'none'} |")
    return lines


def _in_a_list(name: str) -> str:
    """Return a row's title without a comma: "SGD (twice the epochs)"."""
    title, _, detail = ROWS[name].title.partition(", ")
    return f"{title} ({detail})" if detail else title
