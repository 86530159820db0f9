"""Print, for test sets of several sizes, whether the counts of an evaluation are NumPy's: run with devices forced."""

import json
import sys

import jax
import numpy as np
from small_runs import small_config

from saddle_jax.data import sources
from saddle_jax.data.images import make_batch
from saddle_jax.data.order import Slots
from saddle_jax.methods.plain import make as make_plain
from saddle_jax.training.evaluate import Evaluator
from saddle_jax.training.program import make_program

config = small_config(batch_size=24, eval__batch_size=32)
splits = sources.load(config)
program = make_program(config, splits)
state = program.init(0)
plain = make_plain(config, splits.stats, splits.test.images.shape[1:], None)
found = []
for size in map(int, sys.argv[1:]):
    test = sources.Images(*(part[:size] for part in splits.test))
    counted = [
        Evaluator(config, program, test, splits.stats, pipeline).evaluate(
            state.params, state.model_state, with_logits=pipeline == "numpy"
        )
        for pipeline in ("resident", "numpy")
    ]
    slots = Slots(np.arange(size), np.ones(size, bool), np.zeros((size, 3), np.int32))
    whole = make_batch(*test, slots=slots, augmented=None)
    logits = np.asarray(plain.predict(state.params, state.model_state, whole))
    in_top = [label in np.argsort(-row)[:5] for row, label in zip(logits, test.labels, strict=True)]
    expected = (test.labels, logits.argmax(1), np.array(in_top))
    same = all(np.array_equal(a, b) for one in counted for a, b in zip(one[:3], expected, strict=True))
    same &= counted[0].logits_NC is None and np.allclose(counted[1].logits_NC, logits, rtol=1e-4, atol=1e-5)
    found.append({"size": size, "devices": jax.device_count(), "images": len(counted[0].labels_N), "same": same})
print(json.dumps(found))
