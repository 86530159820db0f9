#!/usr/bin/env bash
# All benchmarks of this machine's device, the shortest first; then the table, for as long as BUDGET says.
#   BUDGET=9m benchmarks/all.sh --data FOLDER     # further arguments are reproduce.py's
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=PASSIVE
python benchmarks/train_step.py --seeds 2 4 8
python benchmarks/spectra.py
python benchmarks/imagenet_step.py
python benchmarks/epoch.py
python benchmarks/pipeline.py
python benchmarks/growth.py
python benchmarks/methods.py
python benchmarks/reproduce.py --table cifar_lt --budget "${BUDGET:-9m}" "$@"
python benchmarks/reproduce.py --table ways_out --budget "${WAYS_OUT_BUDGET:-9m}" "$@"
