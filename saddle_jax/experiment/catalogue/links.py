"""The links that an experiment can name: SAM and its relatives. Their code is in `saddle_jax.optim`.

Defaults are the authors' settings for CIFAR-10-LT if there are any. PGD's and CNC-PGD's settings were never published;
the defaults are ours. ASAM's are for balanced CIFAR-10, LE-SAM's for balanced CIFAR-100. We tuned none of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from saddle_jax.experiment.catalogue.entry import Link, Values
from saddle_jax.experiment.durations import parse_duration
from saddle_jax.experiment.fields import Field, Knots, choice, fraction, interpolation, number, position, schedule


def _size(name: str, default: float | Knots, help: str, shape: str = "constant") -> dict[str, Field]:
    """Return the field of a link's size, and the field of how the size changes between knots."""
    return {name: schedule(default, help, of=name), f"{name}_interpolation": interpolation(shape)}


def _radius(default: float | Knots) -> dict[str, Field]:
    return _size("rho", default, "length of the perturbation of the parameters")


_PERTURBATION = choice(
    "shared",
    "whose gradient the perturbation follows",
    {"shared": "the whole batch's", "per_device": "each device's own part of it (m-sharpness)"},
)
_TAIL = number(
    0,
    "classes with fewer training images than this are the tail",
    at_least=1,
    unit="images",
    zero="for the tail of eval.rank_bounds",
)


def _cc_sam_problems(values: Values) -> Iterator[str]:
    if values["method"] != "plain":
        yield (
            f"optim.name='cc_sam' does not go with method={values['method']!r}: it splits the loss by the class "
            "of each image, but this method has no loss of single images. Fix: another optim.name"
        )


def _sam_problems(values: Values) -> Iterator[str]:
    trains_no_norm = {"model.train": ("head", "lora"), "method": ("retrain",)}
    for field, choices in trains_no_norm.items():
        if values["sam.perturbed"] == "norm" and values[field] in choices:
            yield (
                f"sam.perturbed='norm' perturbs nothing with {field}={values[field]!r}, which trains no normalization "
                "layer. Fix: --config.sam.perturbed=all"
            )


def _sse_sam_problems(values: Values) -> Iterator[str]:
    start, length = values["sse_sam.switch_at"], values["duration"]
    part = fraction(parse_duration(start), parse_duration(length))
    if part is not None and part >= 1:
        yield (
            f"sse_sam.switch_at: {start!r} is not before the end ({length}): the second stage would never begin. "
            "Fix: a smaller position, or a percentage such as '70%'"
        )


_SADDLES = "How to Escape Saddle Points Efficiently"

LINKS = {
    "sgd": Link(
        "plain SGD with momentum: no link, one gradient per step",
        make="",
        reads=("sam.rho", "sam.rho_interpolation"),
        title="SGD",
    ),
    "pgd": Link(
        "perturbed gradient descent: noise on the gradient, drawn from a ball",
        "saddle_jax.optim.pgd:make",
        size="noise",
        fields={
            **_size("noise", 0.1, "radius of the ball that the noise on the gradient is drawn from"),
            "threshold": number(
                0.0,
                "noise is added only where the gradient is at most this long",
                more_than=0,
                zero="for noise at every step",
            ),
        },
        paper=f"Jin et al., {_SADDLES}, ICML 2017",
        title="PGD",
    ),
    "cnc_pgd": Link(
        "gradient descent whose perturbation is itself a step of SGD (correlated negative curvature)",
        "saddle_jax.optim.cnc_pgd:make",
        size="step",
        fields={
            **_size("step", 1.0, "size of the perturbing step, as a multiple of the learning rate"),
            "threshold": number(
                0.0,
                "the perturbing step is taken only where the gradient is at most this long",
                more_than=0,
                zero="to take it always",
            ),
        },
        paper="Daneshmand et al., Escaping Saddles with Stochastic Gradients, ICML 2018",
        title="CNC-PGD",
    ),
    "lpf_sgd": Link(
        "low-pass filtered SGD: the mean of gradients at randomly perturbed parameters",
        "saddle_jax.optim.lpf_sgd:make",
        size="noise",
        fields={
            **_size(
                "noise",
                ((0, 5e-4), ("100%", 2e-3)),
                "standard deviation of the noise on a filter, as a multiple of the filter's length",
                "cosine",
            ),
            "samples": number(1, "gradients that a step averages, each of the whole batch", at_least=1),
        },
        paper="Bisla et al., Low-Pass Filtering SGD for Recovering Flat Optima, AISTATS 2022",
        title="LPF-SGD",
    ),
    "sam": Link(
        "sharpness-aware minimization: the gradient at the worst point within a radius, to first order",
        "saddle_jax.optim.sam:make",
        size="rho",
        ascends=True,
        fields={
            **_radius(0.05),
            "perturbation": _PERTURBATION,
            "perturbed": choice(
                "all",
                "the parameters that are perturbed",
                {
                    "all": "",
                    "norm": "scales and biases of normalization layers alone (SAM-ON; Mueller et al., NeurIPS 2023)",
                    "head": "the classifier alone",
                },
            ),
        },
        paper="Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR 2021",
        problems=(_sam_problems,),
        title="SAM",
    ),
    "asam": Link(
        "adaptive SAM: the perturbation of each weight is scaled by its size",
        "saddle_jax.optim.sam:make_adaptive",
        size="rho",
        ascends=True,
        fields={
            **_size("rho", 0.5, "length of the perturbation, in units of each weight's size"),
            "eta": number(0.01, "added to the size of each weight", at_least=0),
            "perturbation": _PERTURBATION,
        },
        paper="Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization, ICML 2021",
        title="ASAM",
    ),
    "imbsam": Link(
        "imbalanced SAM: SAM on the loss of the tail's classes, plain SGD on that of the others",
        "saddle_jax.optim.imbsam:make",
        size="rho",
        fields={**_radius(0.05), "tail_below": _TAIL},
        paper="Zhou et al., ImbSAM: A Closer Look at Sharpness-Aware Minimization, ICCV 2023",
        title="ImbSAM",
    ),
    "cc_sam": Link(
        "class-conditional SAM: a separate radius for each class, in the classifier's parameters",
        "saddle_jax.optim.cc_sam:make",
        size="rho",
        fields={
            **_size("rho", 1e-6, "factor on the radii of all classes"),
            "flat_ratio": number(
                0.3,
                "share of the step that is taken from the gradient at the perturbed classifiers",
                at_least=0,
                at_most=1,
            ),
        },
        paper="Zhou et al., Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed Recognition, CVPR 2023",
        # All passes see the same backbone, so its statistics should move only once.
        settings={"optim.batch_stats": "first"},
        requires={"micro_batches": (1, "it needs the gradients of all classes of the batch at once")},
        problems=(_cc_sam_problems,),
        title="CC-SAM",
    ),
    "sse_sam": Link(
        "SAM in two stages: first for head and tail, each along its own gradient, then for the tail alone",
        "saddle_jax.optim.sse_sam:make",
        size="rho",
        fields={
            **_radius(0.1),
            "tail_below": _TAIL,
            "head_factor": number(0.5, "radius of the head, as a multiple of rho, the radius of the tail", at_least=0),
            "switch_at": position("70%", "position from which the head is no longer perturbed"),
        },
        paper="SSE-SAM: Balancing Head and Tail Classes Gradually through Stage-Wise SAM, AAAI 2025",
        problems=(_sse_sam_problems,),
        title="SSE-SAM",
    ),
    "focal_sam": Link(
        "SAM that gives the sharpness of a class less weight the more images the class has",
        "saddle_jax.optim.focal_sam:make",
        size="rho",
        fields={
            **_radius(0.2),
            "gamma": number(
                3.0, "exponent of a class's weight (1 - its share of the training images)^gamma", at_least=0
            ),
            "sharpness_weight": number(0.5, "lambda, the weight of the sharpness relative to the loss", at_least=0),
        },
        paper="Li et al., Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed Classification, ICML 2025",
        title="Focal-SAM",
    ),
    "le_sam": Link(
        "loss-equated SAM: each perturbation is long enough to raise the loss by the same amount",
        "saddle_jax.optim.le_sam:make",
        size="rise",
        ascends=True,
        fields={
            # The authors warm up linearly; their cosine is the one at the end.
            **_size(
                "rise",
                ((0, 0.0), ("5%", 0.35), ("80%", 0.35), ("100%", 0.0)),
                "how much the perturbation should raise the loss, to first order",
                "cosine",
            ),
            "rho_max": number(1.0, "the longest perturbation", more_than=0, zero="for any length"),
        },
        paper="Wang et al., Fix the Loss, Not the Radius, ICML 2026, arXiv:2605.10183",
        title="LE-SAM",
    ),
}
