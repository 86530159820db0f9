"""The runs that benchmarks/links.py trains: the rows of the table, and the sizes that were tried for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import digits_lt
from saddle_jax.experiment.config import flatten, rescale_to_percent

LOSSES = ("ce_drw", "ldam_drw", "vs")
TAIL = (7, 8, 9)
WEIGHT_DECAY = 1e-3  # instead of 2e-4; chosen as the links' sizes were (configs/digits_lt.py)


class Row(NamedTuple):
    """The differences of a row's runs from SGD's."""

    title: str
    link: str = "sgd"
    times_epochs: int = 1
    fields: Mapping[str, Any] = {}


ROWS = {
    "sgd": Row("SGD"),
    "sgd_wd": Row(f"SGD, weight decay {WEIGHT_DECAY:g}", fields={"optim.weight_decay": WEIGHT_DECAY}),
    "sgd_x2": Row("SGD, twice the epochs", times_epochs=2),
    "sgd_x3": Row("SGD, three times the epochs", times_epochs=3),
    "pgd": Row("PGD", "pgd"),
    "cnc_pgd": Row("CNC-PGD", "cnc_pgd"),
    "lpf_sgd": Row("LPF-SGD", "lpf_sgd"),
    "sam": Row("SAM", "sam"),
    "asam": Row("ASAM", "asam"),
    "le_sam": Row("LE-SAM", "le_sam"),
    "imbsam": Row("ImbSAM", "imbsam"),
    "cc_sam": Row("CC-SAM", "cc_sam"),
    "sse_sam": Row("SSE-SAM", "sse_sam"),
    "focal_sam": Row("Focal-SAM", "focal_sam"),
}


def _constant(field: str, size: float) -> dict[str, Any]:
    return {field: (size,)}


def _rising(size: float) -> dict[str, Any]:
    return {"lpf_sgd.noise": ((0, size), ("100%", 4 * size))}


def _equated(rise: float, longest: float) -> dict[str, Any]:
    knots = ((0, 0.0), ("5%", rise), ("80%", rise), ("100%", 0.0))
    return {"le_sam.rise": knots, "le_sam.rho_max": longest}


_TRIED = {
    "pgd": {str(size): _constant("pgd.noise", size) for size in (0.1, 0.3, 1.0)},
    "cnc_pgd": {str(size): _constant("cnc_pgd.step", size) for size in (0.25, 0.5, 1.0)},
    "lpf_sgd": {f"{size} to {4 * size}": _rising(size) for size in (0.0005, 0.002, 0.005)},
    "asam": {str(size): _constant("asam.rho", size) for size in (0.25, 0.5, 1.0)},
    "le_sam": {f"{rise}, at most {top}": _equated(rise, top) for rise, top in ((0.03, 0.2), (0.1, 0.2), (0.1, 1.0))},
    "imbsam": {str(size): _constant("imbsam.rho", size) for size in (0.05, 0.1, 0.2)},
    "cc_sam": {str(size): _constant("cc_sam.rho", size) for size in (0.001, 0.003, 0.01, 0.03, 0.1)},
    "sse_sam": {str(size): _constant("sse_sam.rho", size) for size in (0.05, 0.1, 0.2)},
    "focal_sam": {str(size): _constant("focal_sam.rho", size) for size in (0.05, 0.1, 0.2)},
    "sgd": {f"weight decay {decay}": {"optim.weight_decay": decay} for decay in (0.0005, 0.001, 0.002)},
}
CANDIDATES = {
    "sgd": Row("SGD"),
    "sam 0.1": Row("SAM", "sam"),
    **{
        f"{link} {size}": Row(f"{link} {size}", link, fields=fields)
        for link, sizes in _TRIED.items()
        for size, fields in sizes.items()
    },
}


def config_of(loss: str, row: Row, seed: int, epochs: int = 100) -> ConfigDict:
    """Return the config of one run, with its schedules stretched to its epochs.

    Curvature is that of the trained loss. On models trained with LDAM or VS, plain cross-entropy has nothing left but
    rounding.
    """
    config = digits_lt.get_config(f"{loss}_{row.link}")
    rescale_to_percent(config)
    config.duration = f"{epochs * row.times_epochs} epochs"
    config.seed = config.data.subset_seed = seed
    config.eval.every = config.checkpoint_every = config.log_every = config.duration
    config.spectra.update(loss="training", classes=",".join(map(str, TAIL)), steps=40, probes=2, escape_batches=0)
    config.update_from_flattened_dict(dict(row.fields))
    return config


def settings_of(config: ConfigDict) -> dict[str, Any]:
    """Return the fields in which rows and their sizes differ, in JSON form."""
    link = config.optim.name
    groups = () if link == "sgd" else ("sam.", f"{link}.")
    chosen = {k: v for k, v in flatten(config).items() if k.startswith(groups)} if groups else {}
    fields = {"duration": config.duration, "optim.weight_decay": config.optim.weight_decay, **chosen}
    return json.loads(json.dumps(fields))
