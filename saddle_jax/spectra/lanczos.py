"""Lanczos with full reorthogonalization for several start vectors at once (Golub and Van Loan, 4th ed., §10.1).

The loop runs on the host and calls jitted pieces. A product takes milliseconds to seconds, so the loop costs next to
nothing. It works on every device and with products that stream their data from the host. This module knows nothing
about networks: a product maps (S, P) to (S, P).

Shapes: S start vectors (probes), K steps, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from saddle_jax.errors import NonFiniteError

Product = Callable[[jax.Array], jax.Array]
ROWS = 16  # basis vectors per array; reorthogonalization reads unfilled rows only in the last array


class Tridiagonal(NamedTuple):
    """Tridiagonal matrix QᵀHQ of each probe, where Q is the probe's basis. Entries beyond a probe's length are 0."""

    diagonal_SK: np.ndarray
    off_diagonal_SK: np.ndarray  # entry k couples steps k and k + 1; the last entry belongs to a step not taken
    lengths_S: np.ndarray  # steps taken; less than K if the probe's Krylov space was exhausted

    def extended(self, other: Tridiagonal) -> Tridiagonal:
        """Return these probes followed by the other's."""
        return Tridiagonal(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


class Basis(Protocol):
    """Storage of the basis vectors."""

    def append(self, vectors_SP: jax.Array) -> None:
        """Store the next vector of each probe."""

    def orthogonalize(self, vectors_SP: jax.Array) -> jax.Array:
        """Return the vectors without their components along the basis."""
        ...

    def combine(self, coefficients_SK: np.ndarray, tridiagonal: Tridiagonal) -> jax.Array:
        """Return Σ_k coefficient_k · vector_k for each probe, (S, P)."""
        ...


def lanczos(
    product: Product,
    starts_SP: jax.Array,
    num_steps: int,
    basis: str = "device",
    on_step: Callable[[], Any] = lambda: None,
) -> tuple[Tridiagonal, Basis]:
    """Run Lanczos from each start vector.

    Args:
      product: the product of a symmetric matrix with S vectors at once.
      starts_SP: start vectors of any length.
      num_steps: maximum number of steps.
      basis: "device", "host", or "none". With "none", each vector is orthogonalized only against the last two. The
        basis then loses orthogonality as eigenvalues converge, and they appear several times ("ghosts"). The extreme
        eigenvalues stay right. Combining basis vectors takes a second run.
      on_step: called after every step.

    Raises:
      NonFiniteError: a product is not finite.
    """
    q_SP = _normalize(starts_SP, _norms(starts_SP))
    store: Basis = {"device": _OnDevice, "host": _OnHost, "none": _Nowhere}[basis](product, q_SP, num_steps)
    previous_SP, beta_S = jnp.zeros_like(q_SP), np.zeros(len(q_SP))
    diagonal_KS, off_diagonal_KS = np.zeros((num_steps, len(q_SP))), np.zeros((num_steps, len(q_SP)))
    lengths_S, scale_S, alive_S = np.zeros(len(q_SP), int), np.zeros(len(q_SP)), np.ones(len(q_SP), bool)
    tolerance = 100 * float(jnp.finfo(q_SP.dtype).eps)
    for k in range(num_steps):
        store.append(q_SP)
        alpha_S, w_SP = _recurrence(product(q_SP), q_SP, previous_SP, jnp.asarray(beta_S, q_SP.dtype))
        before_S, w_SP = _norms(w_SP), store.orthogonalize(w_SP)
        alpha, before, beta = (np.where(alive_S, x, 0.0) for x in jax.device_get((alpha_S, before_S, _norms(w_SP))))
        if (beta < 0.7 * before).any():  # cancellation left rounding errors, so repeat (Daniel et al., 1976)
            w_SP = store.orthogonalize(w_SP)
            beta = np.where(alive_S, jax.device_get(_norms(w_SP)), 0.0)
        if not (np.isfinite(alpha).all() and np.isfinite(beta).all()):
            raise NonFiniteError(
                "found a Hessian-vector product that is not finite: the loss overflows at these weights. "
                "Fix: weights from earlier in training"
            )
        scale_S = np.maximum(scale_S, np.abs(alpha) + beta_S)
        # A smaller beta is rounding error: the Krylov space is exhausted, and the probe's spectrum is exact.
        beta_S = np.where(beta > tolerance * scale_S, beta, 0.0)
        diagonal_KS[k], off_diagonal_KS[k] = alpha, beta_S
        lengths_S += alive_S
        alive_S = alive_S & (beta_S > 0)
        on_step()
        if not alive_S.any():
            break
        previous_SP, q_SP = q_SP, _normalize(w_SP, jnp.asarray(beta_S, w_SP.dtype))
    return Tridiagonal(diagonal_KS.T, off_diagonal_KS.T, lengths_S), store


@jax.jit
def _recurrence(
    product_SP: jax.Array, q_SP: jax.Array, previous_SP: jax.Array, beta_S: jax.Array
) -> tuple[jax.Array, jax.Array]:
    w_SP = product_SP - beta_S[:, None] * previous_SP
    alpha_S = jnp.sum(w_SP * q_SP, axis=1)
    return alpha_S, w_SP - alpha_S[:, None] * q_SP


@jax.jit
def _norms(vectors_SP: jax.Array) -> jax.Array:
    return jnp.linalg.norm(vectors_SP, axis=1)


@jax.jit
def _normalize(vectors_SP: jax.Array, norm_S: jax.Array) -> jax.Array:
    """Return vectors of length 1, or 0 for a probe that has finished."""
    return jnp.where(norm_S[:, None] > 0, vectors_SP / jnp.where(norm_S > 0, norm_S, 1)[:, None], 0)


class _OnDevice:
    """Basis in blocks of rows on the device."""

    def __init__(self, product: Product, q_SP: jax.Array, num_steps: int):
        del product, num_steps
        self._shape, self._dtype = (len(q_SP), ROWS, q_SP.shape[1]), q_SP.dtype
        self._blocks: list[jax.Array] = []
        self._count = 0

    def append(self, vectors_SP: jax.Array) -> None:
        row = self._count % ROWS
        if row == 0:
            self._blocks.append(jnp.zeros(self._shape, self._dtype))
        self._blocks[-1] = _set_row(self._blocks[-1], vectors_SP, row)
        self._count += 1

    def orthogonalize(self, vectors_SP: jax.Array) -> jax.Array:
        for block in self._blocks:
            vectors_SP = _remove(block, vectors_SP)
        return vectors_SP

    def combine(self, coefficients_SK: np.ndarray, tridiagonal: Tridiagonal) -> jax.Array:
        del tridiagonal
        missing = len(self._blocks) * ROWS - coefficients_SK.shape[1]
        padded = np.pad(coefficients_SK, ((0, 0), (0, max(0, missing)))).astype(self._dtype)
        parts = [_weigh(block, padded[:, i * ROWS : (i + 1) * ROWS]) for i, block in enumerate(self._blocks)]
        return sum(parts[1:], parts[0])


@jax.jit
def _remove(block_SRP: jax.Array, vectors_SP: jax.Array) -> jax.Array:
    coefficients_SR = jnp.einsum("srp,sp->sr", block_SRP, vectors_SP)
    return vectors_SP - _weigh(block_SRP, coefficients_SR)


@jax.jit
def _weigh(block_SRP: jax.Array, coefficients_SR: jax.Array) -> jax.Array:
    return jnp.einsum("srp,sr->sp", block_SRP, coefficients_SR)


def _put_row(block_SRP: jax.Array, vectors_SP: jax.Array, row: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(block_SRP, vectors_SP[:, None], row, axis=1)


_set_row = jax.jit(_put_row, donate_argnums=(0,))


class _OnHost:
    """Basis as one array in host memory."""

    def __init__(self, product: Product, q_SP: jax.Array, num_steps: int):
        del product
        self._rows_SKP = np.empty((len(q_SP), num_steps, q_SP.shape[1]), q_SP.dtype)
        self._count = 0

    def append(self, vectors_SP: jax.Array) -> None:
        self._rows_SKP[:, self._count] = jax.device_get(vectors_SP)
        self._count += 1

    def orthogonalize(self, vectors_SP: jax.Array) -> jax.Array:
        vectors = np.array(jax.device_get(vectors_SP))
        for rows_KP, vector_P in zip(self._rows_SKP[:, : self._count], vectors, strict=True):
            vector_P -= (rows_KP @ vector_P) @ rows_KP
        return jnp.asarray(vectors)

    def combine(self, coefficients_SK: np.ndarray, tridiagonal: Tridiagonal) -> jax.Array:
        del tridiagonal
        count = min(self._count, coefficients_SK.shape[1])
        coefficients = coefficients_SK[:, :count].astype(self._rows_SKP.dtype)
        return jnp.asarray(np.einsum("skp,sk->sp", self._rows_SKP[:, :count], coefficients))


class _Nowhere:
    """Basis that is not stored; `combine` repeats the recurrence to get its vectors again."""

    def __init__(self, product: Product, q_SP: jax.Array, num_steps: int):
        del num_steps
        self._product, self._first_SP = product, q_SP

    def append(self, vectors_SP: jax.Array) -> None:
        pass

    def orthogonalize(self, vectors_SP: jax.Array) -> jax.Array:
        return vectors_SP

    def combine(self, coefficients_SK: np.ndarray, tridiagonal: Tridiagonal) -> jax.Array:
        q_SP, previous_SP = self._first_SP, jnp.zeros_like(self._first_SP)
        coefficients_KS1 = coefficients_SK.T[..., None].astype(q_SP.dtype)
        off_diagonal_KS = tridiagonal.off_diagonal_SK.T.astype(q_SP.dtype)
        total_SP, beta_S = coefficients_KS1[0] * q_SP, np.zeros_like(off_diagonal_KS[0])
        used = np.flatnonzero(coefficients_SK.any(0))
        for k in range(used[-1] if used.size else 0):
            _, w_SP = _recurrence(self._product(q_SP), q_SP, previous_SP, jnp.asarray(beta_S))
            beta_S = off_diagonal_KS[k]
            previous_SP, q_SP = q_SP, _normalize(w_SP, jnp.asarray(beta_S))
            total_SP = total_SP + coefficients_KS1[k + 1] * q_SP
        return total_SP
