"""Checks that a Hessian-vector product is deterministic and symmetric."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from saddle_jax.errors import NonFiniteError, OperatorError
from saddle_jax.host import devices
from saddle_jax.spectra.lanczos import Product

# Tolerances relative to |Hu| + |Hv|. On a CPU, repeated products must agree bit for bit. An accelerator may change the
# order of its sums.
_SAME = {"float32": 1e-5, "float64": 1e-13}
_SYMMETRIC = {"float32": 1e-3, "float64": 1e-9}


class OperatorCheck(NamedTuple):
    """Measured deviations, relative to |Hu| + |Hv| for random u and v with entries ±1."""

    repeat: float  # largest difference between an entry of two repeated products, times √P
    asymmetry: float  # |u·Hv - v·Hu|


def check_operator(product: Product, vectors_2P: jax.Array, what: str) -> OperatorCheck:
    """Compute the product of each of two vectors twice; compare the repeats, and u·Hv with v·Hu.

    Args:
      vectors_2P: two vectors with entries ±1.
      what: name of the loss, for error messages.

    Raises:
      NonFiniteError: a product is not finite.
      OperatorError: the products differ by more than rounding. The message names likely causes.
    """
    first, second = (np.asarray(jax.device_get(product(vectors_2P)), np.float64) for _ in range(2))
    u, v = np.asarray(jax.device_get(vectors_2P), np.float64)
    if not np.isfinite(first).all():
        raise NonFiniteError(f"{what}: found a Hessian-vector product that is not finite. Fix: an earlier --checkpoint")
    scale = float(np.linalg.norm(first, axis=1).sum()) or 1.0
    found = OperatorCheck(
        repeat=float(np.abs(first - second).max() * np.sqrt(first.shape[1]) / scale),
        asymmetry=float(abs(u @ first[1] - v @ first[0]) / scale),
    )
    dtype = jnp.dtype(vectors_2P.dtype).name
    allowed = 0.0 if devices.on_cpu() else _SAME[dtype]
    if not found.repeat <= allowed:
        raise OperatorError(
            f"{what}: found two products of the same vector that differ by {found.repeat:.1e} of their length, "
            f"expected {allowed:g} or less: the operator is not deterministic. Likely causes: random augmentation, "
            "dropout, or resampling inside the loss; on a GPU, sums in varying order. "
            "Fix: XLA_FLAGS=--xla_gpu_deterministic_ops=true, or a loss without random draws"
        )
    if not found.asymmetry <= _SYMMETRIC[dtype]:
        raise OperatorError(
            f"{what}: found u·Hv and v·Hu that differ by {found.asymmetry:.1e} of |Hu| + |Hv|, expected "
            f"{_SYMMETRIC[dtype]:g} or less: the operator is not symmetric. Likely causes: a custom derivative rule, a "
            "stop_gradient inside the loss, or products in reduced precision. "
            "Fix: --config.spectra.dtype=float64 rules out rounding"
        )
    return found
