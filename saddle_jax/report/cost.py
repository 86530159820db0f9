"""Cost of a run in gradient evaluations, from metrics.jsonl. Does not need JAX."""

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
