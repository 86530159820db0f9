"""The spectrum of one set of images' loss: extreme eigenvalues with residuals, trace, density.

Shapes: S probes, K steps, P parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from saddle_jax.errors import NonFiniteError
from saddle_jax.spectra.checks import OperatorCheck, check_operator
from saddle_jax.spectra.density import Density, Quadrature, density, quadrature, ritz
from saddle_jax.spectra.hvp import DifferentiableLoss
from saddle_jax.spectra.lanczos import Basis, Tridiagonal, lanczos


class Extreme(NamedTuple):
    """An eigenvalue at one end of the spectrum, as well as Lanczos found it."""

    value: float
    residual: float  # |Hv - λv|, v of length 1: an eigenvalue lies no further away than this
    vector_P: jax.Array


class Spectrum(NamedTuple):
    """What was measured of one loss."""

    loss: float
    gradient_norm: float
    largest: Extreme
    smallest: Extreme
    trace: float  # Hutchinson's estimate
    trace_error: float  # its standard error; NaN with one probe
    tridiagonal: Tridiagonal
    quadrature: Quadrature
    density: Density
    check: OperatorCheck

    @property
    def ratio(self) -> float:
        """|λmin / λmax|, how far from convex: 0 where no eigenvalue is negative, NaN for a Hessian of 0."""
        if self.smallest.value >= 0:
            return 0.0 if self.largest.value else float("nan")
        return abs(self.smallest.value / self.largest.value) if self.largest.value else float("inf")


def measure(
    mean_loss: DifferentiableLoss,
    *,
    steps: int = 100,
    probes: int = 10,
    seed: int = 0,
    basis: str = "device",
    variance: float = 1e-5,
    what: str = "spectrum",
    on_step: Callable[[int], Any] = lambda _: None,
) -> Spectrum:
    """Check the operator, then measure its spectrum.

    Args:
      steps: of Lanczos, a probe; no more than there are parameters are taken.
      probes: random start vectors, `mean_loss.width` at once; the same ones for every loss and checkpoint.
      basis: see `lanczos`.
      variance: see `density`.
      what: names the loss in a message.
      on_step: called after each step of Lanczos, with the number of vectors that it took.

    Raises:
      NonFiniteError, OperatorError: see `check_operator`; also if loss or gradient are not finite.
    """
    loss, gradient_norm = mean_loss.loss(), float(jnp.linalg.norm(mean_loss.gradient()))
    if not np.isfinite([loss, gradient_norm]).all():
        raise NonFiniteError(
            f"{what}: the loss is {loss}, the length of its gradient {gradient_norm}: these weights have diverged. "
            "Fix: an earlier --checkpoint"
        )
    size, dtype = mean_loss.params_P.size, mean_loss.params_P.dtype
    check = check_operator(mean_loss, signs(seed, (probes, probes + 1), size, dtype), what)
    ends = {"largest": _End(np.argmax), "smallest": _End(np.argmin)}
    parts: list[Tridiagonal] = []
    for first in range(0, probes, mean_loss.width):
        starts_SP = signs(seed, range(first, min(first + mean_loss.width, probes)), size, dtype)
        told = functools.partial(on_step, len(starts_SP))
        tridiagonal, store = lanczos(mean_loss, starts_SP, min(steps, size), basis, told)
        for end in ends.values():
            end.consider(tridiagonal, store, keep=basis == "none")
        parts.append(tridiagonal)
        del store  # before the next one is made: there is room for one
    tridiagonal = parts[0]
    for part in parts[1:]:
        tridiagonal = tridiagonal.extended(part)
    nodes = quadrature(tridiagonal)
    samples_S = size * tridiagonal.diagonal_SK[:, 0]  # v·Hv for v with entries ±1: Lanczos' first step
    return Spectrum(
        loss=loss,
        gradient_norm=gradient_norm,
        largest=extreme(mean_loss, ends["largest"].ritz_vector()),
        smallest=extreme(mean_loss, ends["smallest"].ritz_vector()),
        trace=float(samples_S.mean()),
        trace_error=float(samples_S.std(ddof=1) / probes**0.5) if probes > 1 else float("nan"),
        tridiagonal=tridiagonal,
        quadrature=nodes,
        density=density(nodes, variance),
        check=check,
    )


def signs(seed: int, numbers: Any, size: int, dtype: Any) -> jax.Array:
    """Return random vectors with entries ±1, the same for a number in every dtype; (S, P)."""
    keys = [jax.random.fold_in(jax.random.key(seed), number) for number in numbers]
    return jnp.stack([2 * (jax.random.bits(key, (size,), np.uint8) & 1).astype(dtype) - 1 for key in keys])


def extreme(mean_loss: DifferentiableLoss, vector_P: jax.Array) -> Extreme:
    """Return the Rayleigh quotient of a Ritz vector, and how far that is from an eigenvalue."""
    vector_P = vector_P / jnp.linalg.norm(vector_P)
    product_P = mean_loss(vector_P[None])[0]
    value = jnp.vdot(vector_P, product_P)
    return Extreme(float(value), float(jnp.linalg.norm(product_P - value * vector_P)), vector_P)


class _End:
    """The most extreme Ritz value over all probes so far, and its vector."""

    def __init__(self, choose: Callable[[Any], Any]):
        self._choose = choose
        self._value: float | None = None
        self._vector_P: jax.Array | None = None
        self._later: tuple[Basis, np.ndarray, Tridiagonal, int]

    def consider(self, tridiagonal: Tridiagonal, store: Basis, *, keep: bool) -> None:
        """Look at further probes; `keep` their basis, which takes no memory, and make the vector at the very end."""
        for probe in range(len(tridiagonal.lengths_S)):
            values, vectors = ritz(tridiagonal, probe)
            place = self._choose(values)
            if self._value is not None and self._choose([self._value, values[place]]) == 0:
                continue
            self._value = values[place]
            coefficients_SK = np.zeros_like(tridiagonal.diagonal_SK)
            coefficients_SK[probe, : len(values)] = vectors[:, place]
            if keep:
                self._later = (store, coefficients_SK, tridiagonal, probe)
            else:
                self._vector_P = store.combine(coefficients_SK, tridiagonal)[probe]

    def ritz_vector(self) -> jax.Array:
        """Return the vector."""
        if self._vector_P is not None:
            return self._vector_P
        store, coefficients_SK, tridiagonal, probe = self._later
        return store.combine(coefficients_SK, tridiagonal)[probe]
