"""Adjust a trained classifier to rare classes without training.

logit: post-hoc logit adjustment subtracts tau · log(prior) from each logit (Menon et al., ICLR 2021, eq. 9).

tau_norm: tau-normalization divides each class's weights w by |w|^tau (Kang et al., ICLR 2020, eq. 3). Differs from the
reference: the bias stays, so that tau = 0 changes nothing. The authors' code drops it.

Logits are those whose softmax is the probabilities (`losses.logit_scale`). Shapes: N images, D features, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from saddle_jax.errors import ConfigError
from saddle_jax.experiment.adjustment import Adjustment
from saddle_jax.longtail import ClassStats

TAUS = tuple(tenth / 10 for tenth in range(21))  # the points of a curve, as in Kang et al.'s code


def require_possible(adjustment: Adjustment, linear: str | None) -> None:
    """Check that the classifier can be adjusted like this.

    Args:
      linear: entry of the linear classifier in the parameters; see `methods.base.Method`.

    Raises:
      ConfigError: tau-normalization of a classifier that is not linear.
    """
    if adjustment.kind == "tau_norm" and linear is None:
        raise ConfigError(
            "--adjust: tau_norm divides the weights of each class of a linear classifier, but this network's "
            "classifier is a cosine head or code of your own. Fix: --adjust logit"
        )


def offsets_C(adjustment: Adjustment, stats: ClassStats) -> np.ndarray:
    """Return what to subtract from the logits; it is 0 unless the kind is logit."""
    if adjustment.kind != "logit":
        return np.zeros(stats.num_classes)
    return _tau(adjustment) * np.log(stats.priors_C())


def adjusted_params(adjustment: Adjustment, params: dict[str, Any], linear: str | None) -> dict[str, Any]:
    """Return the parameters, on the host, with the classifier's kernel changed if the kind is tau_norm.

    Args:
      params: parameters of the method.
      linear: entry of the linear classifier in them; see `methods.base.Method`.

    Raises:
      ConfigError: tau-normalization of a classifier that is not linear.
    """
    require_possible(adjustment, linear)
    if adjustment.kind != "tau_norm" or linear is None:
        return params
    classifier = params[linear]
    kernel_DC = np.asarray(classifier["kernel"])
    factors_C = _factors_C(adjustment, classifier).astype(kernel_DC.dtype)
    return {**params, linear: {**classifier, "kernel": kernel_DC * factors_C}}


def adjusted_logits(
    adjustment: Adjustment, logits_NC: np.ndarray, stats: ClassStats, params: dict[str, Any], linear: str | None
) -> np.ndarray:
    """Return the logits of the adjusted classifier, given `logits_NC`, those of the unadjusted one.

    Up to rounding, they are the logits of `adjusted_params` minus `offsets_C`. The other arguments and the errors are
    those of `adjusted_params`.
    """
    require_possible(adjustment, linear)
    if adjustment.kind != "tau_norm" or linear is None:
        return logits_NC - offsets_C(adjustment, stats).astype(logits_NC.dtype)
    classifier = params[linear]
    factors_C = _factors_C(adjustment, classifier)
    bias_C = np.asarray(classifier.get("bias", np.zeros_like(factors_C)), float)
    adjusted_NC = logits_NC * factors_C.astype(logits_NC.dtype)
    adjusted_NC += (bias_C * (1 - factors_C)).astype(logits_NC.dtype)  # the bias is not scaled
    return adjusted_NC


def _factors_C(adjustment: Adjustment, classifier: dict[str, Any]) -> np.ndarray:
    lengths_C = np.linalg.norm(np.asarray(classifier["kernel"], float), axis=0)
    return np.where(lengths_C > 0, lengths_C, 1) ** -_tau(adjustment)


def _tau(adjustment: Adjustment) -> float:
    if adjustment.tau is None:
        raise ValueError(f"{adjustment.kind} has no tau yet: see experiment.adjustment.resolve")
    return adjustment.tau
