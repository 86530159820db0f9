"""Features that a frozen backbone has computed before. They replace an array of images, and know its shape.

Shapes: N images, V views of each (the first is not augmented), D features.
"""

from __future__ import annotations

import numpy as np


class Features:
    """The features of a set of images."""

    def __init__(self, values_NVD: np.ndarray, image_shape: tuple[int, ...]):
        """Keep features and the shape of the images that they were computed from, (height, width, channels)."""
        self.values_NVD, self._image_shape = values_NVD, image_shape

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the images."""
        return (len(self), *self._image_shape)

    @property
    def nbytes(self) -> int:
        """The size of the features."""
        return self.values_NVD.nbytes

    @property
    def views(self) -> int:
        """The number of views of each image."""
        return self.values_NVD.shape[1]

    def __len__(self) -> int:
        return len(self.values_NVD)
