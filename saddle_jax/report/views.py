"""Draw a sheet of training images without and with augmentation. Needs neither JAX nor TensorFlow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from saddle_jax.report import style
from saddle_jax.report.style import plain

_DPI = 130
_CELL = 0.9  # inches per side
_LEFT, _TOP = 1.6, 0.45  # inches for the labels of rows and columns


class View(NamedTuple):
    """Random draws of one view."""

    title: str
    images_DNHWK: np.ndarray  # D draws for each of N images, uint8


@style.styled
def draw(names: Sequence[str], images_NHWK: np.ndarray, views: Sequence[View]) -> bytes:
    """Return a PNG with one row per image, and columns for the image itself and for every draw of every view.

    Args:
      names: labels of the rows.
      images_NHWK: the images without augmentation, as the network sees them.
      views: the augmented images.
    """
    groups = [View("original", images_NHWK[None]), *views]
    columns = sum(len(view.images_DNHWK) for view in groups)
    width, height = _LEFT + _CELL * (columns + 0.3 * len(views)), _TOP + _CELL * len(names)
    figure = Figure(figsize=(width, height), dpi=_DPI)
    canvas = np.full((int(_DPI * height), int(_DPI * width), 3), 255, np.uint8)  # axes would take a second to draw
    left = _LEFT
    for view in groups:
        span = _CELL * len(view.images_DNHWK)
        figure.text(left / width, 1 - 0.7 * _TOP / height, plain(view.title), va="bottom", fontsize=9)
        for draw_number, images in enumerate(view.images_DNHWK):
            for row, image in enumerate(images):
                rows = _pixels(_TOP + _CELL * (row + 0.06), 0.94 * _CELL)
                columns = _pixels(left + _CELL * draw_number, 0.94 * _CELL)
                rgb = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
                canvas[rows, columns] = style.resized(rgb, *canvas[rows, columns].shape[:2])
        left += span + 0.3 * _CELL
    for row, name in enumerate(names):
        middle = height - _TOP - _CELL * (row + 0.5)
        figure.text((_LEFT - 0.1) / width, middle / height, plain(name), ha="right", va="center", fontsize=8)
    figure.figimage(canvas, origin="upper")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _pixels(start: float, length: float) -> slice:
    """Return the pixels from `start` on, both in inches."""
    return slice(round(_DPI * start), round(_DPI * (start + length)))
