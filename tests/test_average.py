"""The exponential moving average of the weights: what it is, and that it is what is evaluated and used."""

import jax
import numpy as np
import pytest
from small_runs import small_config, train

from saddle_jax.data import sources
from saddle_jax.inference.classifier import Classifier
from saddle_jax.modes.stored_run import restore_from_a_running_run
from saddle_jax.training import evaluate


@pytest.mark.usefixtures("compile_quickly")
def test_the_average_is_evaluated_used_and_started_from(small_network, tmp_path, monkeypatch):
    config = small_config(optim__ema_decay=0.4, eval__every="1 steps")
    states, report = [], evaluate.Evaluator.report

    def note(self, state, workdir, split):
        states.append(jax.device_get(state))
        return report(self, state, workdir, split)

    monkeypatch.setattr(evaluate.Evaluator, "report", note)
    train(config, tmp_path / "run")
    assert [int(state.step) for state in states] == list(range(1, 13))
    for before, now in zip(states[:-1], states[1:], strict=True):
        step = int(before.step)
        decay = min(0.4, (1 + step) / (10 + step))
        assert (decay < 0.4) == (step < 5)
        jax.tree.map(
            lambda old, new, average, decay=decay: np.testing.assert_allclose(
                average, decay * old + (1 - decay) * new, rtol=1e-5, atol=1e-6
            ),
            before.average,
            type(now.average)(now.params, now.model_state),
            now.average,
        )

    last = states[-1]
    classifier = Classifier(tmp_path / "run", "latest")
    _, restored = restore_from_a_running_run(tmp_path / "run/checkpoints", "latest", last)
    for used in (classifier, restored):
        jax.tree.map(np.testing.assert_array_equal, (used.params, used.model_state), tuple(last.average))
    predictions_N = classifier.logits(sources.load(config).test.images).argmax(1)
    with np.load(tmp_path / "run/eval/12-test-predictions.npz") as stored:
        np.testing.assert_array_equal(stored["predictions"], predictions_N)

    states.clear()
    train(
        small_config(start_from=str(tmp_path / "run"), optim__lr=((0, 0.0),), optim__ema_decay=0.5), tmp_path / "next"
    )
    jax.tree.map(np.testing.assert_array_equal, states[-1].params, last.average.params)
    jax.tree.map(np.testing.assert_array_equal, states[-1].average.params, last.average.params)
