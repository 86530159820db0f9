"""From Lanczos' tridiagonal matrices to eigenvalues and a spectral density (Lin, Saad and Yang, SIAM Review 2016).

Shapes: S probes, K steps, G grid points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal

from saddle_jax.spectra.lanczos import Tridiagonal

_POINTS_A_SIGMA, _SIGMAS = 4, 6


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

    The reference's width. The grid has four points a standard deviation, up to six of them from a node; between nodes
    that are further apart the density is 0.
    """
    nodes_N = quadrature.nodes_SK[quadrature.weights_SK > 0]
    sigma = float(np.sqrt(variance * max(1.0, np.ptp(nodes_N))))
    reach = _SIGMAS * _POINTS_A_SIGMA + 1  # one point further, where it is 0
    places_N = np.round(nodes_N * (_POINTS_A_SIGMA / sigma)).astype(np.int64)
    grid_G = np.unique(places_N[:, None] + np.arange(-reach, reach + 1)) * (sigma / _POINTS_A_SIGMA)
    values_SG = np.zeros((len(quadrature.nodes_SK), len(grid_G)))
    for values_G, nodes_K, weights_K in zip(values_SG, *quadrature, strict=True):
        for node, weight in zip(nodes_K[weights_K > 0], weights_K[weights_K > 0], strict=True):
            first, last = np.searchsorted(grid_G, (node - _SIGMAS * sigma, node + _SIGMAS * sigma))
            values_G[first:last] += weight * np.exp(-0.5 * ((grid_G[first:last] - node) / sigma) ** 2)
    values_SG /= sigma * np.sqrt(2 * np.pi)
    sd_G = values_SG.std(0, ddof=1) if len(values_SG) > 1 else np.zeros_like(grid_G)
    return Density(grid_G, values_SG.mean(0), sd_G, sigma)
