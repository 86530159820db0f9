"""Cost of a run in gradient evaluations and in seconds, from metrics.jsonl. Does not need JAX."""

from __future__ import annotations

import math

from saddle_jax.report.runs import Run, is_number

FIELD = "train/gradient_evaluations"  # mean per step since the previous record


def gradient_evaluations(run: Run, step: int) -> float:
    """Return the number of training-batch gradients that the run took up to `step`; NaN if its records do not tell."""
    total, before = 0.0, 0
    for record in run.metrics:
        if "train/loss" not in record or before >= step:
            continue
        if not is_number(record.get(FIELD)):
            return math.nan
        total += record[FIELD] * (min(record["step"], step) - before)
        before = record["step"]
    return total if before >= step else math.nan


def seconds(run: Run) -> float:
    """Return the seconds on the clock that training took, with evaluations and saves; NaN if its records do not tell.

    Compilation is not part of it. Steps without a speed, such as the first ones, count as the others do on average.
    """
    steps = spent = before = 0
    for record in run.metrics:
        if "train/loss" not in record:
            continue
        taken, before = record["step"] - before, record["step"]
        speed = record.get("images_per_second") or 0.0
        if is_number(speed) and speed > 0:
            steps += taken
            spent += taken * run.config["batch_size"] / speed
    return spent * before / steps if steps else math.nan
