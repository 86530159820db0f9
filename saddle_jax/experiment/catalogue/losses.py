"""The losses and class weights that an experiment can name. The formulas are in `saddle_jax.losses`."""

from __future__ import annotations

from typing import NamedTuple

from saddle_jax.experiment.catalogue.entry import Loss
from saddle_jax.experiment.fields import number

_GAMMA = number(0.3, "exponent of (n_max / n)^gamma, which divides the logits of a class of n images", at_least=0)
_TAU = number(1.0, "factor on log(prior), which is added to the logits")
_KINI = "Kini et al., Label-Imbalanced and Group-Sensitive Classification under Overparameterization, NeurIPS 2021"

LOSSES = {
    "ce": Loss("cross-entropy", "saddle_jax.losses:make_cross_entropy", title="CE"),
    "focal": Loss(
        "cross-entropy that gives examples less weight the better they are classified",
        "saddle_jax.losses:make_focal",
        fields={"gamma": number(1.0, "exponent of (1 - p), where p is the probability of the label", at_least=0)},
        paper="Lin et al., Focal Loss for Dense Object Detection, ICCV 2017",
        title="Focal",
    ),
    "ldam": Loss(
        "cross-entropy of cosines with a margin for each class, larger for rarer classes",
        "saddle_jax.losses:make_ldam",
        fields={"max_margin": number(0.5, "margin of the rarest class, in units of the cosine", at_least=0)},
        paper="Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019",
        requires={"model.head": ("normed", "its margins are in units of the cosine")},
        title="LDAM",
    ),
    "la": Loss(
        "logit adjustment: cross-entropy of logits + tau · log(prior)",
        "saddle_jax.losses:make_logit_adjustment",
        fields={"tau": _TAU},
        paper="Menon et al., Long-Tail Learning via Logit Adjustment, ICLR 2021",
        adjusts_logits=True,
        title="LA",
    ),
    "cdt": Loss(
        "class-dependent temperatures: cross-entropy of logits / (n_max / n)^gamma",
        "saddle_jax.losses:make_class_dependent_temperatures",
        fields={"gamma": _GAMMA},
        paper="Ye et al., Identifying and Compensating for Feature Deviation in Imbalanced Deep Learning, 2020",
        title="CDT",
    ),
    "vs": Loss(
        "vector scaling: cross-entropy of logits / (n_max / n)^gamma + tau · log(prior)",
        "saddle_jax.losses:make_vector_scaling",
        fields={"gamma": _GAMMA, "tau": _TAU},
        paper=_KINI,
        adjusts_logits=True,
        title="VS",
    ),
}


class Weighting(NamedTuple):
    """Weights of the classes in the mean loss."""

    summary: str
    title: str  # what tables and figures call it


WEIGHTINGS = {
    "none": Weighting("", ""),
    "reweight": Weighting("by effective number, from the start", "RW"),
    "drw": Weighting("by effective number, from drw_start", "DRW"),
    "custom": Weighting("custom_weights, from the start", "own weights"),
    "custom_drw": Weighting("custom_weights, from drw_start", "own DRW"),
}
