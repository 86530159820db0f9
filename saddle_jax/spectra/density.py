"""From Lanczos' tridiagonal matrices to eigenvalues and a spectral density (Lin, Saad and Yang, SIAM Review 2016).

Shapes: S probes, K steps, G grid points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal

from saddle_jax.spectra.lanczos import Tridiagonal

_POINTS_A_SIGMA = 4
_MOST_POINTS = 50_000


class Quadrature(NamedTuple):
    """Gauss quadrature of each probe's spectral measure: its Ritz values, with weights that sum to 1."""

    nodes_SK: np.ndarray  # NaN behind a probe's length
    weights_SK: np.ndarray  # 0 there


class Density(NamedTuple):
    """The spectral density, smoothed by a Gaussian; it integrates to 1."""

    grid_G: np.ndarray
    mean_G: np.ndarray  # over probes
    sd_G: np.ndarray  # over probes; 0 with a single one
    sigma: float  # of the Gaussian


def quadrature(tridiagonal: Tridiagonal) -> Quadrature:
    """Return every probe's nodes and weights."""
    nodes_SK = np.full(tridiagonal.diagonal_SK.shape, np.nan)
    weights_SK = np.zeros_like(nodes_SK)
    for probe, length in enumerate(tridiagonal.lengths_S):
        values, vectors = ritz(tridiagonal, probe)
        nodes_SK[probe, :length], weights_SK[probe, :length] = values, vectors[0] ** 2
    return Quadrature(nodes_SK, weights_SK)


def ritz(tridiagonal: Tridiagonal, probe: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a probe's Ritz values, rising, and their vectors' coefficients in its basis, a column each."""
    length = tridiagonal.lengths_S[probe]
    diagonal_K, off_diagonal_K = tridiagonal.diagonal_SK[probe, :length], tridiagonal.off_diagonal_SK[probe, :length]
    values, vectors = eigh_tridiagonal(diagonal_K, off_diagonal_K[:-1])
    return np.asarray(values), np.asarray(vectors)


def density(quadrature: Quadrature, variance: float) -> Density:
    """Return the density: a Gaussian at every node, of variance `variance` · max(1, largest node - smallest).

    The reference's width; its grid has 10,000 points whatever the range.
    """
    low, high = np.nanmin(quadrature.nodes_SK), np.nanmax(quadrature.nodes_SK)
    sigma = float(np.sqrt(variance * max(1.0, high - low)))
    low, high = low - 6 * sigma, high + 6 * sigma
    grid_G = np.linspace(low, high, int(np.clip(_POINTS_A_SIGMA * (high - low) / sigma, 1000, _MOST_POINTS)))
    values_SG = np.zeros((len(quadrature.nodes_SK), len(grid_G)))
    for values_G, nodes_K, weights_K in zip(values_SG, *quadrature, strict=True):
        for node, weight in zip(nodes_K[weights_K > 0], weights_K[weights_K > 0], strict=True):
            values_G += weight * np.exp(-0.5 * ((grid_G - node) / sigma) ** 2)
    values_SG /= sigma * np.sqrt(2 * np.pi)
    sd_G = values_SG.std(0, ddof=1) if len(values_SG) > 1 else np.zeros_like(grid_G)
    return Density(grid_G, values_SG.mean(0), sd_G, sigma)
