"""The benchmarks run. Without PyTorch they show ours alone."""

import json
import os
import subprocess
import sys

from conftest import ROOT


def test_train_step_measures_both_optimizers(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device
    command = [sys.executable, "benchmarks/train_step.py", "--quick", "--only", "saddle_jax", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (found,) = tmp_path.glob("*.json")
    record = json.loads(found.read_text())
    assert record["sam_over_sgd"]["saddle_jax"] > 0
    assert {row["optimizer"] for row in record["steps"]} == {"SGD", "SAM"}
