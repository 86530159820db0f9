"""Fields of the run as a whole."""

from __future__ import annotations

from saddle_jax.experiment.catalogue import ENTRIES
from saddle_jax.experiment.fields import (
    choice,
    entry_name,
    flag,
    length,
    number,
    random_seed,
    text,
)

RUN = {
    "name": text("experiment", "first part of the default workdir's name", may_change=True),
    "seed": random_seed("seed of everything random except the subset: weights, order, augmentation, re-sampling"),
    "start_from": text(
        "",
        "directory of a run, or of several seeds' runs, whose weights this run starts from: the parameters and running "
        "statistics of the newest checkpoint, without the optimizer's state; '' starts from random weights",
    ),
    "num_seeds": number(
        1,
        "number of runs, with seeds counting up from `seed`; each of several gets a directory seed-<n>/ in the workdir",
        at_least=1,
        less_than=2**16,
        may_change=True,
    ),
    "seeds_at_once": number(
        0,
        "runs of several seeds that train together in the same steps",
        at_least=1,
        zero="for all (on CPUs, for 1)",
        may_change=True,
    ),
    "batch_size": number(128, "images in a step, over all devices together", at_least=1),
    "micro_batches": number(
        1, "parts into which a device's images of a step are split, to compute them in turn in less memory", at_least=1
    ),
    "duration": length("200 epochs", "length of training", whole=True),
    "method": entry_name("plain", "how the loss that is minimized is built", ENTRIES["method"]),
    "steps_at_once": number(
        0,
        "steps that a device takes without returning to the host, if images stay on the devices",
        at_least=1,
        zero="for an epoch (on CPUs, for 1)",
        may_change=True,
    ),
    "checkpoint_every": length("10 epochs", "how often the state is saved", may_change=True),
    "keep_every": length(
        "",
        "how often the saved state is kept for good; the newest two and the best are kept anyway",
        never=True,
        may_change=True,
    ),
    "log_every": length("50 steps", "how often metrics are written", may_change=True),
    "watchdog_secs": number(
        900,
        "seconds without progress after which the process ends with code 75; while compiling, four times as many",
        at_least=1,
        zero="for never",
        may_change=True,
    ),
    "precision": choice("default", "precision of float32 products on accelerators", ("default", "high", "highest")),
    "mapping": choice(
        "pmap",
        "how steps are mapped over devices, with equal results",
        {"pmap": "jax.pmap", "shard_map": "jax.jit of jax.shard_map"},
        may_change=True,
    ),
    "compilation_cache": text(
        "", "folder that keeps compiled code for later processes on this machine; '' keeps none", may_change=True
    ),
    "tensorboard": flag(True, "write TensorBoard events, if TensorFlow is installed", may_change=True),
    "tracker": choice(
        "none",
        "service that also shows the run",
        {"none": "", "wandb": "Weights & Biases", "mlflow": "MLflow"},
        may_change=True,
    ),
}
