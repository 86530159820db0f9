"""Measure SAM's effect along the direction of most negative curvature, and the loss along that direction.

The paper's theorem: let v be the eigenvector of the smallest eigenvalue λ. SAM multiplies the second moment of the
stochastic gradient along v, E⟨g,v⟩², by (1 + ρλ)². The theorem leaves three questions open, so this module measures
them:

- For λ < 0, the factor exceeds 1 only if ρ|λ| > 2.
- SAM's radius is ρ/|g|, which differs between minibatches.
- SAM also multiplies the mean gradient along v by 1 + ρλ. This is negative if ρ|λ| > 1, and then the saddle attracts
  (Kim et al., 2023, arXiv:2301.06308).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from saddle_jax.optim.sam import perturbation
from saddle_jax.spectra.hvp import DifferentiableLoss

_SLICE_POINTS = 41


class Escape(NamedTuple):
    """Gradients and losses along v.

    Shapes: M minibatches, T places along v. If SAM's radius or the number of minibatches is 0, only the slice is
    measured: M is 0 and `sam_drift` is NaN.
    """

    rho: float
    norms_M: np.ndarray  # |g|
    along_M: np.ndarray  # ⟨g, v⟩
    sam_along_M: np.ndarray  # ⟨g at w + ρ g/|g|, v⟩
    drift: float  # ⟨G, v⟩, where G is the gradient of the loss of all images
    sam_drift: float  # ⟨G at w + ρ G/|G|, v⟩
    places_T: np.ndarray  # t
    losses_T: np.ndarray  # loss at w + t v
    quadratic_T: np.ndarray  # loss + t ⟨gradient, v⟩ + t²λ/2

    def summary(self, curvature: float) -> dict[str, float]:
        """Return the second moments, their measured ratio, and the ratio that the theorem predicts.

        Args:
          curvature: the eigenvalue λ of v.
        """
        if not len(self.norms_M):
            return {"rho": self.rho, "batches": 0}
        # A minibatch whose gradient is 0 is not perturbed.
        radii_M = np.divide(self.rho, self.norms_M, out=np.zeros_like(self.norms_M), where=self.norms_M > 0)
        factors_M = 1 + radii_M * curvature
        moment, sam_moment = float(np.mean(self.along_M**2)), float(np.mean(self.sam_along_M**2))
        predicted = float(np.mean((factors_M * self.along_M) ** 2))
        return {
            "rho": self.rho,
            "rho_effective": float(radii_M.mean()),
            "rho_effective_times_curvature": float(radii_M.mean() * abs(curvature)),
            "batches": len(self.norms_M),
            "second_moment": moment,
            "second_moment_sam": sam_moment,
            "ratio": sam_moment / moment if moment else float("nan"),
            "ratio_predicted": predicted / moment if moment else float("nan"),
            "batches_predicted_to_grow": float(np.mean(np.abs(factors_M) > 1)),
            "drift": self.drift,
            "drift_sam": self.sam_drift,
        }


def measure_escape(
    whole: DifferentiableLoss,
    minibatch: Callable[[int], DifferentiableLoss],
    vector_P: jax.Array,
    curvature: float,
    *,
    rho: float,
    batches: int,
    radius: float,
    on_step: Callable[[], Any] = lambda: None,
) -> Escape:
    """Measure gradients with and without SAM along an eigenvector, and the loss along it.

    Args:
      whole: loss of all images.
      minibatch: maps a number to the loss of a random minibatch of the images.
      vector_P: the eigenvector, of length 1.
      curvature: its eigenvalue.
      rho: SAM's radius. With 0, only the slice is measured.
      batches: number of minibatches. With 0, only the slice is measured.
      radius: the slice goes from -radius to radius.
      on_step: called before each loss evaluation and each pair of gradients.
    """

    def loss_at(place: float) -> float:
        on_step()
        return whole.loss(whole.params_P + place * vector_P)

    def along(mean_loss: DifferentiableLoss) -> tuple[float, float, float]:
        on_step()
        gradient_P = mean_loss.gradient()
        shift_P, norm = perturbation(gradient_P, mean_loss.params_P, rho)
        perturbed_P = mean_loss.gradient(mean_loss.params_P + shift_P)
        return float(norm), float(jnp.vdot(gradient_P, vector_P)), float(jnp.vdot(perturbed_P, vector_P))

    measured = np.zeros((0, 3))
    slope, sam_drift = float(jnp.vdot(whole.gradient(), vector_P)), float("nan")
    if rho and batches:
        measured = np.array([along(minibatch(number)) for number in range(batches)])
        sam_drift = along(whole)[2]
    places_T = np.linspace(-radius, radius, _SLICE_POINTS)
    losses_T = np.array([loss_at(place) for place in places_T])
    quadratic_T = losses_T[_SLICE_POINTS // 2] + places_T * slope + 0.5 * curvature * places_T**2
    norms_M, along_M, sam_along_M = measured.T
    return Escape(rho, norms_M, along_M, sam_along_M, slope, sam_drift, places_T, losses_T, quadratic_T)
