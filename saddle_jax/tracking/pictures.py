"""Draw a run's confusion of the test images for a tracker. Does not need JAX."""

from __future__ import annotations

from saddle_jax.report import confusion, plots, predictions, style
from saddle_jax.tracking.about import About

_MOST_CLASSES = 1000  # a larger matrix takes a gigabyte, and shows less than the report, which groups the classes


def draw_confusion(about: About, step: int) -> bytes | None:
    """Return a PNG of the confusion matrix at a step, or None if it can't be drawn or has too many classes."""
    if len(about.names) > _MOST_CLASSES:
        return None
    found = predictions.at_step(about.folder, step, len(about.names))
    if found is None:
        return None
    percents = confusion.by_size(confusion.matrix(*found, len(about.names)), about.counts_C)
    title = f"{about.name}: step {step:,}, in % of each true class"
    return style.png(plots.confusion(percents, about.names, about.counts_C, title))
