"""Published accuracies in percent at the best test epoch: overall, head, mid, tail; mean and standard deviation.

Sources: Rangwani et al., NeurIPS 2022 (slides, page 21; the number of seeds is not stated), for CIFAR-LT with an
exponential profile, ResNet-32, and 200 epochs. For ratios 10 and 200, a leaderboard, without groups and without spread.
For GLMC and GLMC+SAM, the repository of GLMC+SAM, with ResNet-34 for CIFAR. For PaCo+SAM, a leaderboard, without code.
PaCo is unverified. For PGD and LPF-SGD, the paper's poster. For LARGE and PRETRAINED, the sources are named there.
"""

from __future__ import annotations

from typing import NamedTuple

from saddle_jax.report.tables import COLUMNS


class Cell(NamedTuple):
    """One row of the table: a data set, a ratio, and a method."""

    data: str
    ratio: int
    method: str
    epochs: int = 0  # 0: the recipe's
    weight_decay: float = 0.0  # 0: the recipe's

    @property
    def name(self) -> str:
        epochs = f"-{self.epochs}epochs" if self.epochs else ""
        decay = f"-wd{self.weight_decay:g}" if self.weight_decay else ""
        return f"{self.data}_lt-{self.ratio}-{self.method}{epochs}{decay}"

    @property
    def title(self) -> str:
        """The method as tables name it."""
        link = next((link for link in _LINKS if "_" in link and self.method.endswith(f"_{link}")), "")
        method = f"{self.method.removesuffix(link).replace('_', '+')}{link.replace('_', '-')}"
        return f"{method.upper()}{f', weight decay {self.weight_decay:g}' if self.weight_decay else ''}"

    @property
    def overrides(self) -> list[str]:
        """Flags in addition to --config."""
        return [f"--config.optim.weight_decay={self.weight_decay:g}"] if self.weight_decay else []

    @property
    def recipe(self) -> str:
        """Network and recipe of its figures."""
        if self.method.startswith("glmc"):
            return "GLMC's recipe, CIFAR ResNet-34"
        return "PaCo's recipe, ResNet-32" if self.method.startswith("paco") else "ResNet-32"

    def config(self, *, smoke: bool = False, as_is: bool = False) -> str:
        """Return the config that trains it: shrunken (`smoke`), or on images that are the subset (`as_is`)."""
        is_glmc = self.method.startswith("glmc")
        choices = [self.method, *(["smoke"] if smoke else []), *(["profile=as_is"] if as_is else [])]
        if is_glmc or not as_is:
            choices.append(f"ratio={self.ratio}")  # on which GLMC's settings depend
        if self.epochs:
            choices.append(f"epochs={self.epochs}")
        if is_glmc:
            return f"methods/glmc_cifar:{','.join([*choices, f'data={self.data}'])}"
        file = f"methods/paco_{self.data}" if self.method.startswith("paco") else f"{self.data}_lt"
        return f"{file}:{','.join(choices)}"


_RATIO_100 = {
    "cifar10": {
        "ce": "71.7±0.1 90.8±3.6 71.9±0.4 52.3±3.7",
        "ce_sam": "73.1±0.3 93.3±0.2 74.1±0.6 51.7±1.0",
        "ce_drw": "75.5±0.2 91.6±0.4 74.1±0.4 61.4±0.9",
        "ce_drw_sam": "80.6±0.4 91.4±0.3 78.0±0.4 73.1±0.9",
        "ldam_drw": "77.5±0.5 91.1±0.8 75.7±0.7 66.4±0.2",
        "ldam_drw_sam": "81.9±0.4 91.0±0.2 79.2±0.5 76.4±1.1",
        "vs": "78.6±0.3 90.6±0.4 75.8±0.5 70.3±0.5",
        "vs_sam": "82.4±0.4 90.7±0.0 79.6±0.5 78.0±1.2",
    },
    "cifar100": {
        "ce": "38.5±0.5 64.5±0.7 36.8±1.0 8.2±1.0",
        "ce_sam": "39.6±0.6 66.5±0.7 38.1±1.1 8.0±0.6",
        "ce_drw": "41.0±0.6 61.3±1.3 41.7±0.5 14.7±0.9",
        "ce_drw_sam": "44.6±0.4 61.2±0.8 47.5±0.6 20.7±0.6",
        "ldam_drw": "42.7±0.3 61.8±0.6 42.2±1.5 19.4±0.9",
        "ldam_drw_sam": "45.4±0.1 64.4±0.3 46.2±0.2 20.8±0.3",
        "vs": "41.7±0.5 54.4±0.2 41.1±0.6 26.8±1.0",
        "vs_sam": "46.6±0.4 56.4±0.4 48.8±0.6 31.7±0.1",
    },
}

PUBLISHED: dict[Cell, dict[str, str]] = {
    **{
        Cell(data, 100, method): dict(zip(COLUMNS, values.split(), strict=True))
        for data, rows in _RATIO_100.items()
        for method, values in rows.items()
    },
    Cell("cifar10", 100, "ce_drw_pgd"): {"overall": "77.2", "tail": "65.0"},
    Cell("cifar10", 100, "ce_drw_lpf_sgd"): {"overall": "78.5", "tail": "67.2"},
    Cell("cifar100", 100, "ce_drw_pgd"): {"overall": "42.2", "tail": "17.0"},
    Cell("cifar100", 100, "ce_drw_lpf_sgd"): {"overall": "42.9", "tail": "15.8"},
    Cell("cifar10", 10, "ldam_drw_sam"): {"overall": "89.4"},
    Cell("cifar10", 200, "ldam_drw_sam"): {"overall": "78.1"},
    Cell("cifar10", 100, "glmc_sam"): {"overall": "89.18"},
    Cell("cifar10", 100, "glmc"): {"overall": "87.55"},
    Cell("cifar10", 50, "glmc_sam"): {"overall": "91.56"},
    Cell("cifar10", 50, "glmc"): {"overall": "89.81"},
    Cell("cifar100", 100, "glmc_sam"): {"overall": "59.01"},
    Cell("cifar100", 100, "glmc"): {"overall": "57.63"},
    Cell("cifar100", 50, "glmc_sam"): {"overall": "65.28"},
    Cell("cifar100", 50, "glmc"): {"overall": "62.49"},
    Cell("cifar100", 100, "paco_sam"): {"overall": "53.0"},
    Cell("cifar100", 100, "paco"): {"overall": "52.0"},
    Cell("cifar100", 200, "paco_sam"): {"overall": "48.0"},
}

# By --config: accuracy (overall; head, mid, tail where published), and where it stands.
_SLIDES = "Rangwani et al., slides, page 22"
LARGE = {
    "imagenet_lt:ce": ("42.7; 62.5, 36.6, 12.5", _SLIDES),
    "imagenet_lt:ce_drw": ("44.9; 57.9, 42.2, 21.6", _SLIDES),
    "imagenet_lt:ce_drw_sam": ("47.1; 56.6, 45.8, 28.1", _SLIDES),
    "imagenet_lt:ldam_drw": ("49.9; 61.1, 48.2, 28.3", _SLIDES),
    "imagenet_lt:ldam_drw_sam": ("53.1; 62.0, 52.1, 34.8", _SLIDES),
    "inat18:ce": ("60.3; 72.8, 62.7, 54.8", _SLIDES),
    "inat18:ce_drw": ("63.0; 59.8, 64.4, 62.3", _SLIDES),
    "inat18:ce_drw_sam": ("65.3; 60.5, 66.2, 65.5", _SLIDES),
    "inat18:ldam_drw": ("67.5; 63.0, 68.3, 67.8", _SLIDES),
    "inat18:ldam_drw_sam": ("70.1; 64.1, 70.5, 71.2", _SLIDES),
    "methods/glmc_imagenet_lt:glmc": ("56.3", "its authors"),
    "methods/glmc_inat18:glmc": ("72.21", "its authors"),
    "methods/paco_imagenet_lt:paco": ("57.0", "its authors"),
    "methods/paco_imagenet_lt:paco_sam": ("57.5", "a leaderboard, without code"),
    "methods/paco_inat18:paco": ("73.2", "its authors"),
    "methods/paco_inat18:paco_sam": ("73.4", "a leaderboard, without code"),
}
_LIFT = "LIFT (Shi et al., ICML 2024), from a leaderboard"
PRETRAINED = {
    "pretrained/cifar100_lt:adaptformer": ("81.7", _LIFT),
    "pretrained/cifar100_lt:net=vit_b16,adaptformer": ("89.1", _LIFT),
    "pretrained/imagenet_lt": ("78.3", _LIFT),
    "pretrained/imagenet_lt:net=clip_vit_l14,adaptformer": ("82.9", _LIFT),
    "pretrained/places_lt": ("52.2", _LIFT),
    "pretrained/places_lt:net=clip_vit_l14,adaptformer": ("53.7", _LIFT),
}

# What the paper claims most comes first: SAM's gain with DRW, LDAM and VS, then plain CE; then further ratios.
_METHODS = ("ce_drw_sam", "ce_drw", "ldam_drw_sam", "ldam_drw", "vs_sam", "vs", "ce_sam", "ce")
CIFAR_LT = [
    Cell(data, ratio, method) for ratio in (100, 10, 50, 200) for data in ("cifar10", "cifar100") for method in _METHODS
]
CIFAR_LT += [
    *(Cell("cifar100", 100, method) for method in ("glmc_sam", "paco_sam", "glmc", "paco")),
    *(Cell("cifar100", 200, method) for method in ("paco_sam", "paco")),
    *(Cell("cifar100", 50, method) for method in ("glmc_sam", "glmc")),
    *(Cell("cifar10", ratio, method) for ratio in (100, 50) for method in ("glmc_sam", "glmc")),
]

# A quarter of the recipe's epochs.
QUARTER = [
    Cell("cifar10", 100, method, epochs=50)
    for method in ("ce_drw_sam", "ce_drw", "ldam_drw_sam", "ldam_drw", "vs_sam", "vs")
]

# Every way out of the saddle, and what SGD makes of the passes of SAM, or of another weight decay.
_LINKS = ("sam", "sgd", "pgd", "lpf_sgd", "imbsam", "focal_sam", "sse_sam", "cc_sam", "asam", "le_sam", "cnc_pgd")
WAYS_OUT = [
    cell
    for loss in ("ce_drw", "vs")
    for data in ("cifar10", "cifar100")
    for cell in (
        *(Cell(data, 100, loss if link == "sgd" else f"{loss}_{link}") for link in _LINKS),
        Cell(data, 100, loss, epochs=400),
        *(Cell(data, 100, loss, weight_decay=decay) for decay in (5e-4, 1e-3, 2e-3)),
    )
]

# The paper's central figure has their spectra along training.
WITH_SPECTRA = (Cell("cifar10", 100, "ce_drw"), Cell("cifar10", 100, "ce_drw_sam"))
