"""Stages of an augmentation: in each at most one operation acts on an image, chosen and quantised by whole numbers.

Shapes: B images of H x W pixels and K channels, uint8; a stage has a column for the operation (0 is none) and some for
its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from saddle_jax.data import geometry, photometry
from saddle_jax.data.backends import Backend
from saddle_jax.data.photometry import (
    AUTOCONTRAST,
    BLUR_RADIUS,
    BRIGHTNESS,
    CONTRAST,
    EQUALIZE,
    POSTERIZE,
    SOLARIZE,
    SOLARIZE_ADD,
)

COLOUR, SHARPNESS, HUE, GREY, BLUR, MOVE_NEAREST, MOVE, SLIDE_X, SLIDE_Y, CUT_OUT = range(8, 18)
_LEVELS = (POSTERIZE, SOLARIZE, SOLARIZE_ADD, BRIGHTNESS, CONTRAST, AUTOCONTRAST, EQUALIZE)
# Whole numbers that say what an operation does; their meaning is in `photometry` and `geometry`.
NUMBERS = {
    **dict.fromkeys((AUTOCONTRAST, EQUALIZE, GREY), 0),
    **dict.fromkeys((POSTERIZE, SOLARIZE, SOLARIZE_ADD, BRIGHTNESS, CONTRAST, COLOUR, SHARPNESS, HUE), 1),
    **{BLUR: BLUR_RADIUS + 1, CUT_OUT: 4},
    **{MOVE_NEAREST: 6, MOVE: 7, SLIDE_X: 3, SLIDE_Y: 3},  # but for MOVE_NEAREST's, the first is the kernel
}


class Stage(NamedTuple):
    """What can happen to an image at one point of an augmentation."""

    operations: tuple[int, ...]

    @property
    def width(self) -> int:
        """Columns."""
        return 1 + max(NUMBERS[operation] for operation in self.operations)


def apply(
    stages: tuple[Stage, ...], images_BHWK: Any, columns_BR: Any, fill_K: tuple[int, ...], backend: Backend
) -> Any:
    """Return the images after all stages, whose columns lie beside each other.

    Args:
      fill_K: level of each channel where a move brings in what is outside.
    """
    start = 0
    for stage in stages:
        columns_BS = columns_BR[:, start : start + stage.width]
        start += stage.width
        for operations, change in _changes(stage, fill_K, backend):
            chosen_B = columns_BS[:, 0] == operations[0]
            for operation in operations[1:]:
                chosen_B = chosen_B | (columns_BS[:, 0] == operation)
            images_BHWK = backend.on_chosen(chosen_B, change, images_BHWK, columns_BS)
    return images_BHWK


def _changes(
    stage: Stage, fill_K: tuple[int, ...], backend: Backend
) -> list[tuple[tuple[int, ...], Callable[..., Any]]]:
    """Return the stage's operations, those that are computed together in one tuple, and what they do to images."""
    xp = backend.xp
    levels = tuple(operation for operation in _LEVELS if operation in stage.operations)
    singles: dict[int, Callable[[Any, Any], Any]] = {
        COLOUR: lambda images, columns: photometry.colour(images, columns[:, 1], xp),
        SHARPNESS: lambda images, columns: photometry.sharpness(images, columns[:, 1], xp),
        HUE: lambda images, columns: photometry.hue(images, columns[:, 1], xp),
        GREY: lambda images, _: photometry.grey(images, xp),
        BLUR: lambda images, columns: photometry.blur(images, columns[:, 1 : NUMBERS[BLUR] + 1], xp),
        MOVE_NEAREST: lambda images, columns: geometry.move_nearest(images, columns[:, 1:7], fill_K, backend),
        MOVE: lambda images, columns: geometry.move(images, columns[:, 1], columns[:, 2:8], fill_K, backend),
        SLIDE_X: lambda images, columns: geometry.slide_lines(
            images, columns[:, 1], columns[:, 2:4], fill_K, backend, down=False
        ),
        SLIDE_Y: lambda images, columns: geometry.slide_lines(
            images, columns[:, 1], columns[:, 2:4], fill_K, backend, down=True
        ),
        CUT_OUT: lambda images, columns: geometry.cut_out(images, columns[:, 1:5], xp),
    }
    changes: list[tuple[tuple[int, ...], Callable[..., Any]]] = [
        ((operation,), change) for operation, change in singles.items() if operation in stage.operations
    ]
    if levels:
        changes.append(
            (levels, lambda images, columns: photometry.change_levels(
                images, columns[:, 0], columns[:, 1] if stage.width > 1 else columns[:, 0], levels, backend
            ))
        )  # fmt: skip
    return changes
