"""Fields of curvature: `config.spectra`. Training depends on none of them."""

from __future__ import annotations

from saddle_jax.experiment.catalogue import ENTRIES
from saddle_jax.experiment.fields import (
    choice,
    flag,
    length,
    number,
    positions,
    random_seed,
    text,
)

SPECTRA = {
    "every": length("", "measure spectra this often during training", never=True),
    "at": positions("also measure spectra at these positions, e.g. (10, 50, '80%'); a bare number counts epochs"),
    "classes": text(
        "auto",
        "comma-separated: class indices or names, groups (head mid tail many medium few), whole (the training set), or "
        "each (every class); auto is every class, or of more than ten classes, ten evenly spaced in size",
        expected="auto, each, whole, or classes and groups such as 0,7,tail",
        required=True,
    ),
    "loss": choice(
        "ce",
        "the loss whose Hessian is measured; training is the one that loss.name chooses",
        ("training", *ENTRIES["loss.name"]),
    ),
    "parameters": choice(
        "all",
        "the parameters whose Hessian is measured",
        {"all": "", "trained": "those that model.train selects; the others stay as they are"},
    ),
    "class_weights": choice(
        "none", "weights of the classes in the loss", {"none": "", "training": "those of training at this step"}
    ),
    "logit_scale": number(
        0.0,
        "factor on a normed head's cosines; 1 is the reference's analysis",
        more_than=0,
        zero="for that of training",
    ),
    "batch_norm": choice(
        "eval",
        "statistics that BatchNorm uses",
        {"eval": "the running ones", "train": "those of each chunk (see chunk_size), on each device"},
    ),
    "dtype": choice(
        "float32", "type of the numbers; products are computed at the highest precision", ("float32", "float64")
    ),
    "steps": number(100, "Lanczos steps per probe; a single step would find one eigenvalue", at_least=2),
    "probes": number(10, "random start vectors of Lanczos; with 2 or more, the density has a spread", at_least=1),
    "seed": random_seed("seed of the probes"),
    "basis": choice(
        "auto", "where Lanczos keeps its vectors (steps x parameters numbers)", ("auto", "device", "host", "none")
    ),
    "linearize": choice(
        "auto",
        "keep each chunk's linearization between products, which takes memory",
        ("auto", "always", "never"),
    ),
    "memory_gib": number(
        0.0, "memory of a device for the basis and linearizations, in GiB", more_than=0, zero="for half of what is free"
    ),
    "chunk_size": number(
        0,
        "images that a product takes at once (a chunk), over all devices",
        at_least=1,
        unit="images",
        zero="for 8 per device on CPUs",
    ),
    "probes_at_once": number(
        0, "vectors that a product takes at once", at_least=1, zero="for 1 on CPUs, and as many as fit on other devices"
    ),
    "density_variance": number(
        1e-5,
        "this times max(1, largest - smallest) is the variance of the Gaussian at each Ritz value, an eigenvalue as "
        "Lanczos estimates it",
        more_than=0,
    ),
    "eigenvectors": flag(False, "keep the eigenvectors of the largest and the smallest eigenvalue"),
    "escape_batches": number(
        32, "minibatches for measuring what SAM does along the most negative direction; 0 skips that", at_least=0
    ),
    "escape_batch_size": number(
        16, "images in each of those minibatches, drawn from the class", at_least=1, unit="images"
    ),
    "rho": number(
        0.0,
        "SAM's radius in the measurement of what SAM does along the most negative direction",
        more_than=0,
        zero="for sam.rho at this step with sgd and sam, and none with another link",
    ),
    "slice_radius": number(
        0.0,
        "how far the loss is measured along a direction",
        more_than=0,
        zero="for twice rho, or 1 without a rho",
    ),
    "landscape": text(
        "",
        "in --mode spectra, also compute each class's loss on the plane of its most negative and most positive "
        "direction (625 losses of all its images), with the run's kept checkpoints and, if this names another run's "
        "directory, that run's",
        expected="nothing, alone, or the directory of another run",
    ),
}
