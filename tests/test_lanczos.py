"""Lanczos and the density against matrices whose spectrum is known, and against matfree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saddle_jax.errors import NonFiniteError
from saddle_jax.spectra import classwise
from saddle_jax.spectra.density import Quadrature, density, quadrature, ritz
from saddle_jax.spectra.lanczos import lanczos

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

SPECTRA = {
    "distinct": np.linspace(-2, 5, 12),
    "repeated": np.repeat([-3.0, 0.5, 7.0], 20),
    "clustered": np.concatenate([1 + 1e-6 * np.arange(30), [-4.0, 40.0]]),
    "negative": -np.geomspace(1e-3, 1e3, 40),
    "rank deficient": np.concatenate([np.zeros(150), np.linspace(-1, 9, 10)]),
    "like a network's": np.concatenate([np.random.default_rng(1).normal(0, 0.05, 190), [-2, -1, 3, 8, 20.0]]),
    "zero": np.zeros(9),
}


def matrix(eigenvalues, dtype=np.float64):
    random, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(len(eigenvalues),) * 2))
    return jnp.asarray((random * eigenvalues) @ random.T, dtype), random


def product_of(matrix_PP):
    return jax.jit(lambda vectors_SP: vectors_SP @ matrix_PP)


def starts(number, size, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(2).choice([-1.0, 1.0], (number, size)), dtype)


def rows(store, steps):
    return np.stack([np.asarray(store.combine(np.eye(steps)[None, k], None))[0] for k in range(steps)])


@pytest.mark.parametrize("basis", ["device", "host"])
@pytest.mark.parametrize("name", SPECTRA)
def test_as_many_steps_as_distinct_eigenvalues_find_them_all(x64, name, basis):
    eigenvalues = SPECTRA[name]
    h_PP, random_PP = matrix(eigenvalues)
    start_SP = starts(2, len(eigenvalues))
    tridiagonal, _ = lanczos(product_of(h_PP), start_SP, len(eigenvalues), basis)
    distinct = np.unique(eigenvalues)
    for probe in range(2):
        values, vectors = ritz(tridiagonal, probe)
        np.testing.assert_allclose([values[0], values[-1]], distinct[[0, -1]], atol=1e-9 * np.abs(distinct).max())
        if name in ("distinct", "repeated", "zero", "rank deficient"):
            assert tridiagonal.lengths_S[probe] == len(distinct)
            np.testing.assert_allclose(values, distinct, atol=1e-9)
            # A node's weight is the part of the start vector in that eigenvalue's space.
            parts = (random_PP.T @ np.asarray(start_SP[probe])) ** 2 / len(eigenvalues)
            expected = [parts[eigenvalues == value].sum() for value in distinct]
            np.testing.assert_allclose(vectors[0] ** 2, expected, atol=1e-9)


def test_the_three_term_relation_and_orthogonality_hold_midway(x64):
    h_PP, _ = matrix(SPECTRA["like a network's"])
    tridiagonal, store = lanczos(product_of(h_PP), starts(1, len(h_PP)), 25)
    q_KP = rows(store, 25)
    np.testing.assert_allclose(q_KP @ q_KP.T, np.eye(25), atol=1e-13)
    diagonal_K, off_K = tridiagonal.diagonal_SK[0], tridiagonal.off_diagonal_SK[0]
    t_KK = np.diag(diagonal_K) + np.diag(off_K[:-1], 1) + np.diag(off_K[:-1], -1)
    remainder = q_KP @ np.asarray(h_PP) - t_KK @ q_KP
    np.testing.assert_allclose(remainder[:-1], 0, atol=1e-12)
    assert np.linalg.norm(remainder[-1]) == pytest.approx(off_K[-1])


@pytest.mark.parametrize("basis", ["device", "host"])
@pytest.mark.parametrize("name", ["like a network's", "clustered", "negative"])
def test_float32_keeps_the_basis_orthogonal(name, basis):
    eigenvalues = SPECTRA[name]
    h_PP, _ = matrix(eigenvalues, np.float32)
    tridiagonal, store = lanczos(product_of(h_PP), starts(1, len(h_PP), np.float32), len(eigenvalues), basis)
    length = tridiagonal.lengths_S[0]
    q_KP = rows(store, length)
    np.testing.assert_allclose(q_KP @ q_KP.T, np.eye(length), atol=1e-5)
    values, _ = ritz(tridiagonal, 0)
    extremes = [eigenvalues.min(), eigenvalues.max()]
    np.testing.assert_allclose(values[[0, -1]], extremes, atol=1e-5 * np.abs(extremes).max())


def test_without_a_basis_the_extremes_and_their_vectors_still_come():
    eigenvalues = SPECTRA["like a network's"]
    h_PP, random_PP = matrix(eigenvalues, np.float32)
    product, start_SP = product_of(h_PP), starts(1, len(h_PP), np.float32)
    kept, _ = lanczos(product, start_SP, 120)
    tridiagonal, store = lanczos(product, start_SP, 120, "none")
    values, vectors = ritz(tridiagonal, 0)
    np.testing.assert_allclose(values[[0, -1]], [-2, 20], atol=1e-4)
    assert np.sum(np.abs(values - 20) < 1e-3) > np.sum(np.abs(ritz(kept, 0)[0] - 20) < 1e-3) == 1  # ghosts
    for place, eigenvalue in ((0, -2), (-1, 20)):
        vector = np.asarray(store.combine(vectors[None, :, place], tridiagonal))[0]
        vector = vector / np.linalg.norm(vector)
        assert abs(vector @ random_PP[:, eigenvalues == eigenvalue][:, 0]) == pytest.approx(1, abs=1e-4)


def test_matfree_finds_the_same(x64):
    from matfree import decomp

    h_PP, _ = matrix(SPECTRA["like a network's"])
    start_SP = starts(3, len(h_PP))
    tridiagonal, _ = lanczos(product_of(h_PP), start_SP, 40)
    for probe in range(3):
        theirs = decomp.tridiag_sym(40, reortho="full")(lambda v: h_PP @ v, start_SP[probe])
        values, _ = ritz(tridiagonal, probe)
        np.testing.assert_allclose(values, np.linalg.eigvalsh(theirs.J_small), atol=1e-10)


def test_moments_of_the_density_and_the_trace(x64):
    """Σ w θ^m over a probe's quadrature is its v·H^m v; the density integrates to 1 and has their mean."""
    eigenvalues = SPECTRA["like a network's"]
    h_PP, _ = matrix(eigenvalues)
    start_SP = starts(4, len(h_PP))
    tridiagonal, _ = lanczos(product_of(h_PP), start_SP, 30)
    nodes = quadrature(tridiagonal)
    unit_SP = np.asarray(start_SP) / len(h_PP) ** 0.5
    power_SP = unit_SP
    for moment in range(6):
        expected = np.sum(unit_SP * power_SP, 1)
        np.testing.assert_allclose(np.sum(nodes.weights_SK * nodes.nodes_SK**moment, 1), expected, rtol=1e-9)
        power_SP = power_SP @ np.asarray(h_PP)
    smooth = density(nodes, 1e-5)
    assert np.trapezoid(smooth.mean_G, smooth.grid_G) == pytest.approx(1, abs=1e-6)
    mean = np.trapezoid(smooth.mean_G * smooth.grid_G, smooth.grid_G)
    assert mean == pytest.approx((nodes.weights_SK * nodes.nodes_SK).sum(1).mean(), abs=1e-6)
    assert smooth.sd_G.max() > 0
    single = density(type(nodes)(nodes.nodes_SK[:1], nodes.weights_SK[:1]), 1e-5)
    assert not single.sd_G.any()


@pytest.mark.parametrize("widest", [1e-3, 200.0, 1e6])
@pytest.mark.parametrize("variance", [1e-3, 1e-5, 1e-9])
def test_the_density_integrates_to_one_however_narrow_its_peaks(widest, variance):
    nodes = Quadrature(
        np.array([[-0.3 * widest, 1e-4, widest], [0.1, 0.2, np.nan]]), np.array([[0.2, 0.5, 0.3], [1, 0, 0]])
    )
    smooth = density(nodes, variance)
    assert smooth.sigma == pytest.approx((variance * max(1, 1.3 * widest)) ** 0.5, rel=0.2)
    assert np.trapezoid(smooth.mean_G, smooth.grid_G) == pytest.approx(1, abs=1e-6)
    assert len(smooth.grid_G) < 300


def test_hutchinson_trace_is_right_within_its_error_and_as_matfree_says(x64):
    from matfree import stochtrace

    eigenvalues = SPECTRA["like a network's"]
    h_PP, _ = matrix(eigenvalues)
    size, number = len(h_PP), 400
    vectors_SP = classwise.signs(0, range(number), size, jnp.float64)
    assert set(np.unique(vectors_SP)) == {-1.0, 1.0}
    tridiagonal, _ = lanczos(product_of(h_PP), vectors_SP, 1)
    samples = size * tridiagonal.diagonal_SK[:, 0]
    error = samples.std(ddof=1) / number**0.5
    assert abs(samples.mean() - eigenvalues.sum()) < 4 * error
    estimate = stochtrace.estimator_monte_carlo_mean_and_sem(stochtrace.monte_carlo_trace(), lambda _: vectors_SP)
    mean, sem = estimate(lambda v: h_PP @ v, jax.random.key(0))
    assert samples.mean() == pytest.approx(float(mean), rel=1e-12)
    assert error == pytest.approx(float(sem), rel=2e-3)  # theirs divides by n, ours by n - 1


def test_probes_together_are_probes_alone(x64):
    h_PP, _ = matrix(SPECTRA["repeated"])
    start_SP = starts(3, len(h_PP))
    start_SP = start_SP.at[1].set(0).at[1, :].add(np.linalg.eigh(h_PP)[1][:, 0])  # done after one step
    together, _ = lanczos(product_of(h_PP), start_SP, 10)
    assert together.lengths_S.tolist() == [3, 1, 3]
    for probe in range(3):
        alone, _ = lanczos(product_of(h_PP), start_SP[probe : probe + 1], 10)
        np.testing.assert_allclose(together.diagonal_SK[probe], alone.diagonal_SK[0], atol=1e-12)
        np.testing.assert_allclose(together.off_diagonal_SK[probe], alone.off_diagonal_SK[0], atol=1e-12)


def test_signs_do_not_depend_on_the_dtype():
    single = classwise.signs(3, (0, 5), 1000, jnp.float32)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(single, classwise.signs(3, (0, 5), 1000, jnp.float64))
    assert abs(float(single.mean())) < 0.1
    assert not np.array_equal(single[0], single[1])


def test_a_product_that_is_not_finite_ends_it():
    with pytest.raises(NonFiniteError, match="not finite"):
        lanczos(lambda v: v * jnp.nan, starts(1, 5, np.float32), 3)
