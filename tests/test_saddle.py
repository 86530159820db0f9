"""Who leaves a strict saddle sooner than SGD, and whom it attracts (Kim et al., 2023: SAM with a large radius)."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.saddle import COUNTS, TAIL, losses, times
from saddle_jax.optim.cnc_pgd import cnc_pgd
from saddle_jax.optim.focal_sam import focal_sam
from saddle_jax.optim.imbsam import imbsam
from saddle_jax.optim.le_sam import le_sam
from saddle_jax.optim.lpf_sgd import lpf_sgd
from saddle_jax.optim.pgd import pgd
from saddle_jax.optim.sam import sam
from saddle_jax.optim.sse_sam import sse_sam

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

SEEDS, STEPS = 32, 600
ASCENDING = {
    "sam": sam,
    "imbsam": lambda rho: imbsam(rho, TAIL),
    "sse_sam": lambda rho: sse_sam(rho, rho, STEPS, TAIL),
    "focal_sam": lambda rho: focal_sam(rho, 2.0, 1.0, COUNTS / COUNTS.sum()),
    "le_sam": lambda rho: le_sam(0.1, rho),
}


def steps_of(make, radius):
    return times(make, np.array([radius]), SEEDS, STEPS)[0][0]


@pytest.fixture(scope="module")
def sgd():
    return steps_of(lambda radius: sam(0.0 * radius), 0.0)


def test_sgd_leaves_at_the_saddles_own_rate(sgd):
    # y grows by 1.05 a step from about noise · sqrt(lr / 2): there is no other way out than the noise.
    expected = np.log(0.54 / (0.01 * np.sqrt(0.05 / 2))) / np.log(1.05)
    assert np.median(sgd) == pytest.approx(expected, rel=0.2)
    assert losses(jnp.array([1.0, 1.54])).sum() == pytest.approx(-1 / 8, abs=2e-3)


@pytest.mark.parametrize(
    ("make", "radius"),
    [(pgd, 0.2), (lpf_sgd, 0.05), (lambda ratio: cnc_pgd(ratio, 0.05), 0.3)],
    ids=["pgd", "lpf", "cnc"],
)
def test_what_is_made_to_leave_saddles_leaves_sooner(make, radius, sgd):
    found = steps_of(make, radius)
    assert np.median(found) < 0.85 * np.median(sgd)
    assert (found < sgd).mean() > 0.8


def test_cnc_pgd_leaves_as_fast_as_its_two_steps_together(sgd):
    found = steps_of(lambda ratio: cnc_pgd(ratio, 0.05), 0.3)
    assert np.median(found / sgd) == pytest.approx(np.log(1.05) / (np.log(1.05) + np.log(1.015)), rel=0.05)


@pytest.mark.parametrize("name", ASCENDING)
def test_a_large_radius_makes_the_saddle_attract(name, sgd):
    assert np.isfinite(sgd).all()
    assert not np.isfinite(steps_of(ASCENDING[name], 0.1)).any()
    slightly = steps_of(ASCENDING[name], 1e-3)  # well below the gradient's noise
    assert 1 < np.median(slightly / sgd) < 1.15


@pytest.mark.parametrize(("distance", "leaves"), [(0.19, False), (0.21, True)])
def test_without_noise_sam_is_drawn_back_from_within_its_radius(distance, leaves):
    # Along the eigenvector of λ = -1 the gradient is multiplied by 1 + λ rho / |gradient|: negative for |y| < rho.
    def grad_fn(y, class_weights_C=None):
        return -y, ()

    tx = optax.chain(sam(0.2), optax.sgd(0.01))
    y = jnp.array([distance])
    state = tx.init(y)
    for _ in range(20):
        updates, state = tx.update(grad_fn(y)[0], state, y, grad_fn=grad_fn)
        y = optax.apply_updates(y, updates)
    assert (abs(y[0]) > distance) == leaves
