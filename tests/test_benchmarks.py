"""The benchmarks run. Without PyTorch they show ours alone."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from benchmarks import links_page


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize(
    "script", [["epoch.py"], ["growth.py", "--vary", "classes"], ["pipeline.py"], ["methods.py"]], ids=" ".join
)
def test_ours_alone(script, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    script = [f"benchmarks/{script[0]}", *script[1:]]
    command = [sys.executable, *script, "--quick", "--repeats", "1", "--output", str(tmp_path)]
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    assert output.endswith(f"written {next(tmp_path.iterdir()).name}\n")


@pytest.mark.slow
@pytest.mark.nightly
def test_train_step_measures_both_optimizers(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device
    command = [sys.executable, "benchmarks/train_step.py", "--quick", "--only", "saddle_jax", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (found,) = tmp_path.glob("*.json")
    record = json.loads(found.read_text())
    assert record["sam_over_sgd"]["saddle_jax"] > 0
    assert {row["optimizer"] for row in record["steps"]} == {"SGD", "SAM"}


@pytest.mark.slow
@pytest.mark.nightly
def test_imagenet_step_counts_operations_and_memory(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device
    choice = ["--quick", "--only", "bf16 remat", "--optimizers", "SAM"]
    command = [sys.executable, "benchmarks/imagenet_step.py", *choice, "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (found,) = tmp_path.glob("*.json")
    record = json.loads(found.read_text())
    (row,) = record["steps"]
    flops = 4 * 2 * 3 * 2 * record["forward_multiply_adds"]  # images, passes, forward and backward, multiply and add
    assert row["tflops"] * row["seconds"] == pytest.approx(flops / 1e12)
    assert row["of_peak"] == pytest.approx(row["tflops"] / record["peak_tflops"]["bfloat16"])
    assert row["gib"] > 0.02  # ResNet-10's parameters alone


def test_the_figures_of_the_docs_are_drawn_from_recorded_data(tmp_path):
    subprocess.run([sys.executable, "benchmarks/figures.py", "--out", str(tmp_path)], cwd=ROOT, check=True)
    shown = {path.name for ending in ("png", "gif") for path in (ROOT / "docs").glob(f"*.{ending}")}
    assert {path.name for path in tmp_path.iterdir()} == shown
    with Image.open(tmp_path / "training.gif") as training:
        assert training.format == "GIF" and training.n_frames == 6  # epochs 0, 20, ... 100


@pytest.fixture(scope="module")
def links(tmp_path_factory):
    """Return a folder with the figures of two links and two seeds."""
    folder = tmp_path_factory.mktemp("links")
    run_links(folder, "--rows", "sgd", "imbsam", "--seeds", "1")
    output = run_links(folder, "--rows", "sgd", "imbsam", "--seeds", "2")
    assert "seed 1" in output  # it continues
    assert "seed 0" not in output
    return folder


def run_links(folder, *options):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device
    command = [sys.executable, "benchmarks/links.py", "--losses", "ce_drw", "--epochs", "5", *options]
    command += ["--output", str(folder)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.nightly
def test_links_are_paired_by_seed(links):
    record = json.loads((links / "links-digits.json").read_text())
    sgd, imbsam = (record["runs"]["ce_drw"][name] for name in ("sgd", "imbsam"))
    assert set(sgd) == set(imbsam) == {"0", "1"}
    assert [run["evaluations"] for run in (*sgd.values(), *imbsam.values())] == [25, 25, 75, 75]
    page = "\n".join(links_page.section(links))
    gains = [imbsam[seed]["tail"] - sgd[seed]["tail"] for seed in ("0", "1")]
    assert f"{np.mean(gains):+.1f} ± {np.std(gains, ddof=1):.1f}" in page
    assert "| ImbSAM | 3.00 |" in page


def test_the_noise_is_told_from_what_is_outside_it():
    even = links_page.Change(np.array([1.0, -1.0] * 6), 13)
    steady = links_page.Change(np.array([1.0, 1.5, 2.0] * 4), 13)
    assert not even.is_outside
    assert steady.is_outside
    assert steady.cell() == "**+1.5 ± 0.4** (12)"
    # t = 2.8 with 11 degrees of freedom: 2.2 bounds 5 %, 3.5 a thirteenth of it.
    between = np.array([4.0, -2.0, 2.0, 0.0, 3.0, -1.0, 2.0, 1.0, 4.0, -2.0, 3.0, 1.0]) + 0.5
    assert links_page.Change(between, 1).is_outside
    assert not links_page.Change(between, 13).is_outside
