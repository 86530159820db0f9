"""Writes runs_format_1.tar.xz: runs whose checkpoints have format 1, as they were before optim.name.

Made by the code of commit 0e5c7fd, the last one that wrote them, checked out into some folder OLD:

    PYTHONPATH=OLD:OLD/tests python write_format_1.py

Each is a run of twelve steps on eight forced devices that nothing interrupted, with checkpoints at 8, between two log
records, and at the end.
"""

import os
import pathlib
import tarfile
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

from small_runs import small_config, train  # OLD's

RUNS = {
    "sgd": ("ce_drw", {}),
    "sam": ("ce_drw_sam", {}),
    "asam_per_device": (
        "ce_drw_sam",
        {"sam__adaptive": True, "sam__adaptive_eta": 0.02, "sam__perturbation": "per_device"},
    ),
}


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return None if member.name.endswith(".lock") else member


with tempfile.TemporaryDirectory() as folder:
    for name, (method, changes) in RUNS.items():
        config = small_config(method, model__width=0.125, eval__every="12 steps", **changes)
        train(config, pathlib.Path(folder, name))
    with tarfile.open(pathlib.Path(__file__).with_name("runs_format_1.tar.xz"), "w:xz") as archive:
        for name in RUNS:
            archive.add(pathlib.Path(folder, name), name, filter=anonymous)
