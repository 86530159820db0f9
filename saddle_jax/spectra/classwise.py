"""Hessian spectrum of the loss on one set of images: extreme eigenvalues with residuals, trace, and density.

Shapes: S probes, K Lanczos steps, P parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from saddle_jax.errors import NonFiniteError
from saddle_jax.spectra.checks import OperatorCheck, check_operator
from saddle_jax.spectra.density import Density, Quadrature, density, quadrature, ritz
from saddle_jax.spectra.hvp import DifferentiableLoss
from saddle_jax.spectra.lanczos import Basis, Tridiagonal, lanczos

# In units of ε·|λ|max, with ε the dtype's precision. True eigenvalues of 12 images under a ResNet-8 and of two under a
# ResNet-32 lay up to 1.9 units beyond float32's residual.
ROUNDING = 4


class Extreme(NamedTuple):
    """Lanczos' estimate of the eigenvalue at one end of the spectrum."""

    value: float
    residual: float  # |Hv - λv| for v of length 1, as computed
    error: float  # the residual and the rounding of a product: expect a true eigenvalue no farther away
    vector_P: jax.Array


class Spectrum(NamedTuple):
    """Measured spectrum of one loss."""

    loss: float
    gradient_norm: float
    largest: Extreme
    smallest: Extreme
    trace: float  # Hutchinson's estimate
    trace_error: float  # standard error of the trace; NaN with one probe
    tridiagonal: Tridiagonal
    quadrature: Quadrature
    density: Density
    check: OperatorCheck

    @property
    def ratio(self) -> float:
        """|λmin / λmax|, a measure of non-convexity. It is 0 if no eigenvalue is negative, NaN if the Hessian is 0."""
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
      mean_loss: loss to measure.
      steps: Lanczos steps per probe, at most the number of parameters.
      probes: number of random start vectors, of which `mean_loss.width` run at once. Every loss and checkpoint gets the
        same vectors.
      seed: seed of the start vectors.
      basis: see `lanczos`.
      variance: see `density`.
      what: name of the loss, for error messages.
      on_step: called after each Lanczos step with the number of vectors in the step.

    Raises:
      NonFiniteError: a product, the loss, or its gradient is not finite.
      OperatorError: see `check_operator`.
    """
    loss, gradient_norm = mean_loss.loss(), float(jnp.linalg.norm(mean_loss.gradient()))
    if not np.isfinite([loss, gradient_norm]).all():
        raise NonFiniteError(
            f"{what}: the loss is {loss} and the norm of its gradient is {gradient_norm}: these weights have diverged. "
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
        del store  # free it before the next one is made: memory holds only one
    tridiagonal = parts[0]
    for part in parts[1:]:
        tridiagonal = tridiagonal.extended(part)
    largest, smallest = extremes(mean_loss, [end.ritz_vector() for end in ends.values()])
    nodes = quadrature(tridiagonal)
    samples_S = size * tridiagonal.diagonal_SK[:, 0]  # v·Hv for v with entries ±1, from the first Lanczos step
    return Spectrum(
        loss=loss,
        gradient_norm=gradient_norm,
        largest=largest,
        smallest=smallest,
        trace=float(samples_S.mean()),
        trace_error=float(samples_S.std(ddof=1) / probes**0.5) if probes > 1 else float("nan"),
        tridiagonal=tridiagonal,
        quadrature=nodes,
        density=density(nodes, variance),
        check=check,
    )


def signs(seed: int, numbers: Any, size: int, dtype: Any) -> jax.Array:
    """Return one random vector with entries ±1 per number, (S, P); a number gives the same signs in every dtype."""
    keys = [jax.random.fold_in(jax.random.key(seed), number) for number in numbers]
    return jnp.stack([2 * (jax.random.bits(key, (size,), np.uint8) & 1).astype(dtype) - 1 for key in keys])


def extremes(mean_loss: DifferentiableLoss, vectors: Sequence[jax.Array]) -> list[Extreme]:
    """Return the Rayleigh quotients of the Ritz vectors of both ends, with their residuals and errors.

    The residual is that of a computed product, which is off by rounding: ε·|λ|max times a factor that depends on the
    network. The error allows for `ROUNDING`.
    """
    found = []
    for vector_P in vectors:
        vector_P = vector_P / jnp.linalg.norm(vector_P)
        product_P = mean_loss(vector_P[None])[0]
        value = jnp.vdot(vector_P, product_P)
        found.append((float(value), float(jnp.linalg.norm(product_P - value * vector_P)), vector_P))
    rounding = ROUNDING * float(jnp.finfo(vectors[0].dtype).eps) * max(abs(value) for value, _, _ in found)
    return [Extreme(value, residual, residual + rounding, vector_P) for value, residual, vector_P in found]


class _End:
    """Most extreme Ritz value over all probes so far, and its vector."""

    def __init__(self, choose: Callable[[Any], Any]):
        self._choose = choose
        self._value: float | None = None
        self._vector_P: jax.Array | None = None
        self._later: tuple[Basis, np.ndarray, Tridiagonal, int]

    def consider(self, tridiagonal: Tridiagonal, store: Basis, *, keep: bool) -> None:
        """Take more probes into account.

        Args:
          keep: keep `store` and compute the vector only in `ritz_vector`. This is for a basis that takes no memory.
        """
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
        """Return the Ritz vector of the most extreme value."""
        if self._vector_P is not None:
            return self._vector_P
        store, coefficients_SK, tridiagonal, probe = self._later
        return store.combine(coefficients_SK, tridiagonal)[probe]
