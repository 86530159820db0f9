"""Curves over epochs from metrics.jsonl, and their mean over seeds. Does not need JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saddle_jax.report.runs import Run, is_number

Curve = Mapping[float, float]  # epoch -> value


def read(run: Run, field: str) -> Curve:
    """Return {epoch: value} of a field in the records where it is a number; {step: value} if no record has an epoch."""
    rate = next((r["epoch"] / r["step"] for r in run.metrics if _positive(r.get("epoch")) and _positive(r["step"])), 1)
    found = {r["step"]: r[field] for r in run.metrics if _positive(r["step"]) and is_number(r.get(field))}
    return {round(step * rate, 6): value for step, value in sorted(found.items())}


def mean(curves: Sequence[Curve]) -> Curve:
    """Return the mean of the curves at the epochs that all of them share."""
    common = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    return {epoch: sum(curve[epoch] for curve in curves) / len(curves) for epoch in common}


def _positive(value: Any) -> bool:
    return is_number(value) and value > 0
