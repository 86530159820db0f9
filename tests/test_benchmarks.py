"""The benchmarks run. Without PyTorch they show ours alone."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


@pytest.mark.parametrize(
    "script", [["epoch.py"], ["growth.py", "--vary", "classes"], ["pipeline.py"], ["methods.py"]], ids=" ".join
)
def test_ours_alone(script, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    script = [f"benchmarks/{script[0]}", *script[1:]]
    command = [sys.executable, *script, "--quick", "--repeats", "1", "--output", str(tmp_path)]
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    assert output.endswith(f"written {next(tmp_path.iterdir()).name}\n")


def test_train_step_measures_both_optimizers(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device
    command = [sys.executable, "benchmarks/train_step.py", "--quick", "--only", "saddle_jax", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (found,) = tmp_path.glob("*.json")
    record = json.loads(found.read_text())
    assert record["sam_over_sgd"]["saddle_jax"] > 0
    assert {row["optimizer"] for row in record["steps"]} == {"SGD", "SAM"}


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
