"""docs/extending.md is run as it stands: its patch on a copy of the code, its command, its loop."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

TEXT = (ROOT / "docs/extending.md").read_text()


def block(language):
    """Return the text's only block of a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return found


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the code with the patch."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("saddle_jax", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", folder)
    (folder / "link.patch").write_text(block("diff"))
    # Where no repository is above it: git would take paths from that one's root.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    subprocess.run(["git", "apply", "link.patch"], cwd=folder, env=environment, check=True)
    return folder


def run(folder: pathlib.Path, *command: str) -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1", "PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True, timeout=300)


def test_a_link_is_added_in_twenty_lines_and_trains(extended):
    patch = block("diff").splitlines()
    assert sum(line.startswith("+") for line in patch) - sum(line.startswith("+++") for line in patch) <= 20
    run(
        *(extended, "main.py", "--config", "configs/digits_lt.py:smoke,ce_drw_random_sam", "--workdir", "runs/it"),
        *("--config.duration=4 steps", "--config.log_every=1 step"),
    )
    records = [json.loads(line) for line in (extended / "runs/it/metrics.jsonl").read_text().splitlines()]
    assert {r["train/gradient_evaluations"] for r in records if "train/loss" in r} == {2}
    assert any(r["train/perturbed_loss"] != r["train/loss"] for r in records if "train/loss" in r)


def test_the_loop_of_the_text_runs(extended):
    run(extended, "-c", f"{block('python')}\nassert state[0].count == 3 and loss(params) < loss({{'w': jnp.ones(3)}})")
