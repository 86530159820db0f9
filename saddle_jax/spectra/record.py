"""Turn a measured spectrum into summary numbers and arrays for plotting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from saddle_jax.spectra.classwise import Spectrum
from saddle_jax.spectra.escape import Escape


def numbers(spectrum: Spectrum) -> dict[str, Any]:
    """Return the numbers of a spectrum's summary; None for a value that is not finite (one probe, zero Hessian)."""
    found = {
        "loss": spectrum.loss,
        "gradient_norm": spectrum.gradient_norm,
        "lambda_max": spectrum.largest.value,
        "residual_max": spectrum.largest.residual,
        "error_max": spectrum.largest.error,
        "lambda_min": spectrum.smallest.value,
        "residual_min": spectrum.smallest.residual,
        "error_min": spectrum.smallest.error,
        "ratio": spectrum.ratio,
        "trace": spectrum.trace,
        "trace_error": spectrum.trace_error,
        "sigma": spectrum.density.sigma,
        "repeat": spectrum.check.repeat,
        "asymmetry": spectrum.check.asymmetry,
    }
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def arrays(spectrum: Spectrum, along: Escape | None, unravel: Callable | None) -> dict[str, np.ndarray]:
    """Return the arrays from which the figures are drawn.

    Args:
      spectrum: the measured spectrum.
      along: the measurement along v, or None if no direction has negative curvature.
      unravel: maps a flat vector to the parameter tree; used to store the eigenvectors by parameter. None stores none.
    """
    density, nodes = spectrum.density, spectrum.quadrature
    kept = {
        "grid": density.grid_G,
        "density": density.mean_G,
        "density_sd": density.sd_G,
        "nodes": nodes.nodes_SK,
        "weights": nodes.weights_SK,
        "diagonal": spectrum.tridiagonal.diagonal_SK,
        "off_diagonal": spectrum.tridiagonal.off_diagonal_SK,
    }
    if along is not None:
        fields = ("norms_M", "along_M", "sam_along_M", "places_T", "losses_T", "quadratic_T")
        kept |= {f"escape_{name[:-2]}": getattr(along, name) for name in fields}
    if unravel is not None:
        for name, end in (("eigenvector_max", spectrum.largest), ("eigenvector_min", spectrum.smallest)):
            kept |= flatten_dict({name: jax.device_get(unravel(end.vector_P))}, sep="/")
    return kept


def one_line(summary: dict[str, Any]) -> str:
    """Return a one-line summary of a target for the terminal."""
    error = "" if summary["trace_error"] is None else f" ± {summary['trace_error']:.2g}"
    ratio = "n/a" if summary["ratio"] is None else f"{summary['ratio']:.3f}"
    return (
        f"{summary['images']:6,d} images  λmax {summary['lambda_max']:.4g} (residual "
        f"{summary['residual_max']:.1g})  λmin {summary['lambda_min']:.4g} ({summary['residual_min']:.1g})  "
        f"ratio {ratio}  trace {summary['trace']:.4g}{error}"
    )
