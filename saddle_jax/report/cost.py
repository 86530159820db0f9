"""What runs cost, from metrics.jsonl. Needs no JAX."""

from __future__ import annotations

import math

from saddle_jax.report.runs import Run, is_number

FIELD = "train/gradient_evaluations"  # a step's mean since the record before


def gradient_evaluations(run: Run, step: int) -> float:
    """Return how many gradients of a whole batch the run has taken by `step`; NaN where its records do not tell."""
    total, before = 0.0, 0
    for record in run.metrics:
        if "train/loss" not in record or before >= step:
            continue
        if not is_number(record.get(FIELD)):
            return math.nan
        total += record[FIELD] * (min(record["step"], step) - before)
        before = record["step"]
    return total if before >= step else math.nan
