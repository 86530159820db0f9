"""Images that stay encoded until a batch asks for them. They replace an array of images, and know its shape.

Shapes: N images, S x S pixels, 3 channels.
"""

from __future__ import annotations

import abc
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from saddle_jax.data.bad_images import KnownBad


class Decoding(NamedTuple):
    """How encoded images become pixels."""

    size: int  # S, pixels per side
    resize: int  # evaluation: pixels of the shorter side before the center crop
    max_bad_fraction: float  # training: fraction of the images that may be bad; their slots are masked
    exif_orientation: bool = True  # turn images as their EXIF orientation says


class Encoded(abc.ABC):
    """A list of encoded images."""

    def __init__(self, decoding: Decoding):
        self.decoding = decoding
        self.known_bad = KnownBad()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the decoded images."""
        return (len(self), self.decoding.size, self.decoding.size, 3)

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded images."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def may_be_bad(self) -> int:
        """How many of these images may be bad, if they are training images."""
        return math.floor(self.decoding.max_bad_fraction * len(self))

    def bad_lines(self) -> dict[int, str]:
        """Return {position: `name: reason`} of the bad images that this process has found in these training images."""
        return {position: f"{self.name(position)}: {reason}" for position, reason in self.known_bad.reasons.items()}

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, positions: np.ndarray) -> Encoded:
        """Return the images at these positions."""

    @abc.abstractmethod
    def name(self, position: int) -> str:
        """Return a name by which a person can find the image."""

    @abc.abstractmethod
    def digest(self) -> bytes:
        """Return a hash of the images' names and order. It does not cover the pixels."""

    def version(self) -> bytes:
        """Return a hash that also changes when an image is replaced under its name, where that is cheap to see."""
        return self.digest()

    @abc.abstractmethod
    def reader(self, tf: Any) -> Any:
        """Return a TensorFlow function from a position to the encoded image."""


class ImageFiles(Encoded):
    """Image files under a folder."""

    def __init__(self, root: str, paths_N: np.ndarray, decoding: Decoding):
        """Take the files `paths_N` (UTF-8 bytes) under `root`."""
        super().__init__(decoding)
        self.root, self.paths_N = root, paths_N
        self._tensor: Any = None  # tensor of the paths, shared by all readers

    def __len__(self) -> int:
        return len(self.paths_N)

    def __getitem__(self, positions: np.ndarray) -> ImageFiles:
        return ImageFiles(self.root, self.paths_N[positions], self.decoding)

    def name(self, position: int) -> str:
        return f"{self.root}/{self.paths_N[position].decode()}"

    def digest(self) -> bytes:
        return hashlib.sha256(b"\n".join(self.paths_N.tolist())).digest()

    def version(self) -> bytes:
        digest, root = hashlib.sha256(self.digest()), os.fsencode(self.root)
        for path in self.paths_N.tolist():
            try:
                found = os.stat(os.path.join(root, path))
                digest.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())
            except OSError:  # in a bucket, or a file that its reader will report
                digest.update(root + b"\n")
        return digest.digest()

    def reader(self, tf: Any) -> Any:
        if self._tensor is None:
            self._tensor = tf.constant(self.paths_N, tf.string)
        return lambda position: tf.io.read_file(tf.strings.join([self.root, "/", self._tensor[position]]))


class Contents(Encoded):
    """Images whose contents come from a Python function, such as files anywhere or arrays in memory."""

    def __init__(self, read: Callable[[int], bytes], names: Sequence[str], decoding: Decoding):
        """Take `names`, and the function that returns the content of the image at a position among them."""
        super().__init__(decoding)
        self._read, self._names = read, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, positions: np.ndarray) -> Contents:
        kept = [int(position) for position in positions]
        return Contents(lambda position: self._read(kept[position]), [self._names[p] for p in kept], self.decoding)

    def name(self, position: int) -> str:
        return self._names[position]

    def digest(self) -> bytes:
        return hashlib.sha256("\n".join(self._names).encode()).digest()

    def reader(self, tf: Any) -> Any:
        def read(position: np.ndarray) -> bytes:
            return self._read(int(position))

        return lambda position: tf.ensure_shape(tf.numpy_function(read, [position], tf.string, stateful=False), ())
