"""Settings of the links, by optim.name: their authors' where there are any, else ours; SAM's radius is an experiment's.

Those of a CIFAR-10-LT recipe; an experiment states its differences. None is tuned by us. PGD's and CNC-PGD's are ours,
never published; ASAM's are its authors' for balanced CIFAR-10, LE-SAM's for balanced CIFAR-100 (rho_max is ours).
"""

from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "pgd": {"sam.rho_knots": ((0, 0.1),)},
    "cnc_pgd": {"sam.rho_knots": ((0, 1.0),)},
    "lpf_sgd": {"sam.rho_knots": ((0, 5e-4), ("100%", 2e-3)), "sam.rho_interpolation": "cosine"},
    "asam": {"sam.rho_knots": ((0, 0.5),)},
    "imbsam": {"sam.rho_knots": ((0, 0.05),)},
    # The backbone is where it was in all passes: its statistics are to move once.
    "cc_sam": {"sam.rho_knots": ((0, 1e-6),), "cc_sam.flat_ratio": 0.3, "sam.batch_stats": "first"},
    "sse_sam": {"sam.rho_knots": ((0, 0.1),)},
    "focal_sam": {"sam.rho_knots": ((0, 0.2),)},
    "le_sam": {
        # The authors warm up linearly; the cosine is that of the end.
        "sam.rho_knots": ((0, 0.0), ("5%", 0.35), ("80%", 0.35), ("100%", 0.0)),
        "sam.rho_interpolation": "cosine",
        "le_sam.rho_max": 1.0,
    },
}
