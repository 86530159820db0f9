"""Eigenvalues and spectral density from Lanczos' tridiagonal matrices (Lin, Saad and Yang, SIAM Review 2016).

Shapes: S probes, K Lanczos steps, G grid points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal

from saddle_jax.spectra.lanczos import Tridiagonal

_POINTS_A_SIGMA, _SIGMAS = 4, 6


class Quadrature(NamedTuple):
    """Gauss quadrature of each probe's spectral measure: its Ritz values, with weights that sum to 1."""

    nodes_SK: np.ndarray  # NaN beyond a probe's length
    weights_SK: np.ndarray  # 0 beyond a probe's length


class Density(NamedTuple):
    """Spectral density, smoothed by a Gaussian; it integrates to 1."""

    grid_G: np.ndarray
    mean_G: np.ndarray  # over probes
    sd_G: np.ndarray  # standard deviation over probes; 0 with a single probe
    sigma: float  # standard deviation of the Gaussian


def quadrature(tridiagonal: Tridiagonal) -> Quadrature:
    """Return the nodes and weights of every probe."""
    nodes_SK = np.full(tridiagonal.diagonal_SK.shape, np.nan)
    weights_SK = np.zeros_like(nodes_SK)
    for probe, length in enumerate(tridiagonal.lengths_S):
        values, vectors = ritz(tridiagonal, probe)
        nodes_SK[probe, :length], weights_SK[probe, :length] = values, vectors[0] ** 2
    return Quadrature(nodes_SK, weights_SK)


def ritz(tridiagonal: Tridiagonal, probe: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a probe's Ritz values in ascending order, and the Ritz vectors as columns of coefficients in its basis."""
    length = tridiagonal.lengths_S[probe]
    diagonal_K, off_diagonal_K = tridiagonal.diagonal_SK[probe, :length], tridiagonal.off_diagonal_SK[probe, :length]
    values, vectors = eigh_tridiagonal(diagonal_K, off_diagonal_K[:-1])
    return np.asarray(values), np.asarray(vectors)


def density(quadrature: Quadrature, variance: float) -> Density:
    """Return the density as a sum of Gaussians, one at every node.

    Each Gaussian has the variance `variance` · max(1, largest node - smallest node), as in the reference. The grid has
    four points per standard deviation and reaches six standard deviations from every node. The density is 0 in the gaps
    between nodes that are farther apart.
    """
    nodes_N = quadrature.nodes_SK[quadrature.weights_SK > 0]
    sigma = float(np.sqrt(variance * max(1.0, np.ptp(nodes_N))))
    reach = _SIGMAS * _POINTS_A_SIGMA + 1  # one point farther, where the density is 0
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
