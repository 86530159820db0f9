"""Report section on calibration: how far confidence is from accuracy, where `--mode eval` has measured it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from saddle_jax.report import tables
from saddle_jax.report.page import Block, Heading, Table, Text
from saddle_jax.report.rows import ImageSet
from saddle_jax.report.runs import Run, is_number

_SCORES = {"nll": "NLL", "ece": "ECE", "macro_f1": "macro F1", "g_mean": "G-mean"}


def section(images: ImageSet) -> Iterator[Block]:
    """Yield the figures of `--mode eval` that go beyond accuracy, for rows whose runs have them."""
    cells, left_out = [], 0
    for row in images.rows:
        known = [scores for run in row.runs if (scores := read(run))]
        left_out += len(row.runs) - len(known)
        if known:
            values = (tables.spread([one[name] for one in known], 2 if name == "nll" else 1) for name in _SCORES)
            cells.append([row.name, *values, tables.seeds(len(known))])
    if not cells:
        return
    yield Heading("Calibration", 3)
    yield Table(["method", *_SCORES.values(), "n"], cells)
    yield Text(
        "At the last epoch, mean ± sample standard deviation over n seeds. NLL: mean of −log of the label's "
        "probability; ECE: expected calibration error in percent, the distance between confidence and accuracy. Lower "
        "is better for both. Macro F1 and G-mean, the geometric mean of the recalls, are in percent."
    )
    if left_out:
        yield Text(f"Runs left out: {left_out}. Measure them with --mode eval --workdir RUN.")


def read(run: Run) -> dict[str, float] | None:
    """Return the scores of a run's last step, or None if `--mode eval` has not measured them."""
    path = run.folder / "eval" / f"{run.results['last']['step']}-test.json"
    try:
        scores: Any = json.loads(path.read_bytes())["scores"]
        found = {name: scores[name]["value"] for name in _SCORES}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if all(map(is_number, found.values())) else None
