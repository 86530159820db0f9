"""Print, for test sets of several sizes, whether the counts of an evaluation are NumPy's: run with devices forced."""

import json
import sys

import jax
import numpy as np
from small_runs import small_config

from saddle_jax.data import sources
from saddle_jax.data.images import make_batch
from saddle_jax.data.order import Slots
from saddle_jax.methods.base import make_plain
from saddle_jax.train.evaluate import Evaluator
from saddle_jax.train.program import make_program

config = small_config(batch_size=24, eval__batch_size=32)
splits = sources.load(config.data)
program = make_program(config, splits)
state = program.init(0)
plain = make_plain(config, splits.stats, splits.test.images.shape[1:], None)
found = []
for size in map(int, sys.argv[1:]):
    test = sources.Images(*(part[:size] for part in splits.test))
    counted = [
        Evaluator(config, program, test, splits.stats, pipeline).evaluate(state.params, state.batch_stats)
        for pipeline in ("resident", "numpy")
    ]
    slots = Slots(np.arange(size), np.ones(size, bool), np.zeros((size, 3), np.int32))
    whole = make_batch(*test, slots=slots, padding=0)
    logits = np.asarray(plain.predict(state.params, state.batch_stats, whole))
    expected = np.zeros((10, 10), np.int64)
    np.add.at(expected, (test.labels, logits.argmax(1)), 1)
    in_top = sum(label in np.argsort(-row)[:5] for row, label in zip(logits, test.labels, strict=True))
    same = all((one.confusion_CC == expected).all() and one.in_top == in_top for one in counted)
    found.append({"size": size, "devices": jax.device_count(), "images": int(expected.sum()), "same": bool(same)})
print(json.dumps(found))
