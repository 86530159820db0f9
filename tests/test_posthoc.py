"""Adjusting a trained classifier: by hand, and where the best rule is known."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from scipy.stats import norm
from small_runs import small_config

from saddle_jax import posthoc
from saddle_jax.data import sources
from saddle_jax.errors import ConfigError, DataError
from saddle_jax.experiment import adjustment
from saddle_jax.experiment.adjustment import Adjustment, parse, resolve
from saddle_jax.longtail import ClassStats
from saddle_jax.models import heads
from saddle_jax.models.base import from_flax
from saddle_jax.modes import adjust
from saddle_jax.modes import evaluate as evaluate_mode
from saddle_jax.modes.adjust import Classifier, curve
from saddle_jax.training import evaluate
from saddle_jax.training.evaluate import Evaluation, Evaluator
from saddle_jax.training.program import make_program

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

STATS = ClassStats(np.array([9, 1]), ("many", "few"))


def test_logit_adjustment_by_hand():
    logits = np.array([[1.0, 0.0], [3.0, 0.0]])
    adjusted = posthoc.adjusted_logits(Adjustment("logit", 1.0), logits, STATS, {}, None)
    np.testing.assert_allclose(adjusted, [[1 - np.log(0.9), -np.log(0.1)], [3 - np.log(0.9), -np.log(0.1)]])
    assert adjusted.argmax(1).tolist() == [1, 0]  # odds of e and e^3 to 1, against the prior's 9 to 1
    np.testing.assert_allclose(posthoc.offsets_C(Adjustment("logit", 0.5), STATS), np.log([0.9, 0.1]) / 2)


def test_logit_adjustment_finds_the_best_rule_of_two_gaussians():
    """x is normal around -1 or 1. What was trained on 9 to 1 is Bayes' rule; on 1 to 1 it is the sign of x."""
    quantiles = norm.ppf((np.arange(2000) + 0.5) / 2000)
    x, labels = np.concatenate([quantiles - 1, quantiles + 1]), np.repeat([0, 1], 2000).astype(np.int32)
    logits = np.log([0.9, 0.1]) + np.stack([norm.logpdf(x, -1), norm.logpdf(x, 1)], axis=1)
    adjusted = posthoc.adjusted_logits(Adjustment("logit", 1.0), logits, STATS, {}, None)
    np.testing.assert_array_equal(adjusted.argmax(1), x > 0)
    points = curve("logit", Classifier({}, STATS, (1, 1), None), Evaluation(labels, x > 0, x > 0, logits))
    assert [point["tau"] for point in points] == list(posthoc.TAUS)
    best = max(points, key=lambda point: point["balanced_accuracy"])
    assert best["tau"] == 1.0
    assert best["balanced_accuracy"] == pytest.approx(100 * norm.cdf(1), abs=0.05)
    assert points[0]["head"] == pytest.approx(100 * norm.cdf(1 + np.log(9) / 2), abs=0.05)  # where Bayes' rule changes
    assert all(a["head"] >= b["head"] and a["tail"] <= b["tail"] for a, b in zip(points, points[1:], strict=False))


@pytest.mark.parametrize("kind", ["logit", "tau_norm"])
def test_a_tau_of_zero_changes_nothing(kind):
    random = np.random.default_rng(0)
    params = {"linear": {name: random.normal(size=shape) for name, shape in (("kernel", (3, 2)), ("bias", 2))}}
    logits = random.normal(size=(9, 2)).astype(np.float32)
    for nothing in (Adjustment(kind, 0.0), Adjustment()):
        np.testing.assert_array_equal(posthoc.adjusted_logits(nothing, logits, STATS, params, "linear"), logits)
        np.testing.assert_array_equal(posthoc.offsets_C(nothing, STATS), 0)
        same = posthoc.adjusted_params(nothing, params, "linear")
        np.testing.assert_array_equal(same["linear"]["kernel"], params["linear"]["kernel"])


def test_tau_normalization_by_hand():
    kernel = np.array([[3.0, 0.0, 0.0], [4.0, 2.0, 0.0]])  # of lengths 5, 2, and 0
    params = {"other": 1, "top": {"kernel": kernel, "bias": np.array([0.5, -0.5, 0.0])}}
    half = posthoc.adjusted_params(Adjustment("tau_norm", 0.5), params, "top")
    np.testing.assert_allclose(half["top"]["kernel"], kernel / np.sqrt([5, 2, 1]))
    assert half["other"] == 1 and half["top"]["bias"] is params["top"]["bias"]
    unit = posthoc.adjusted_params(Adjustment("tau_norm", 1.0), params, "top")
    np.testing.assert_allclose(unit["top"]["kernel"], [[0.6, 0, 0], [0.8, 1, 0]])
    assert params["top"]["kernel"] is kernel


def test_only_a_plain_linear_classifier_is_tau_normalized():
    class Own(heads.Linear):
        pass

    for head, linear in ((heads.Linear(2), "linear"), (nn.Dense(2), "linear"), (heads.Normed(2), None), (Own(2), None)):
        network = from_flax(nn.Dense(3), head)
        assert network.linear == linear
        posthoc.require_possible(Adjustment("logit"), network.linear)
        if linear is None:
            with pytest.raises(ConfigError, match="cosine head or code of your own. Fix: --adjust logit"):
                posthoc.adjusted_params(Adjustment("tau_norm", 1.0), {}, network.linear)


def test_logits_of_a_cosine_head_are_those_whose_softmax_is_the_probabilities():
    config = small_config("ldam_drw")
    splits = sources.load(config)
    program = make_program(config, splits)
    like, random = jax.eval_shape(lambda: program.init(0)), np.random.default_rng(0)
    params = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), like.params)
    model_state = jax.tree.map(lambda x: np.ones(x.shape, np.float32), like.model_state)
    few = sources.Images(*(part[:16] for part in splits.test))
    evaluator = Evaluator(config, program, few, splits.stats, "numpy")
    evaluation = evaluator.evaluate(params, model_state, with_logits=True)
    assert 1 < np.abs(evaluation.logits_NC).max() <= config.loss.logit_scale
    np.testing.assert_array_equal(evaluation.logits_NC.argmax(1), evaluation.predictions_N)
    assert program.linear is None


def test_a_tau_is_never_chosen_on_test_images(tmp_path, capsys):
    random = np.random.default_rng(0)
    labels = random.choice(2, 200, p=[0.5, 0.5]).astype(np.int32)
    logits = np.log([0.9, 0.1]) + 2 * random.normal(size=(200, 2)) + 2 * np.eye(2)[labels]
    images = evaluate.from_logits(labels, logits)
    params = {"linear": {"kernel": random.normal(size=(3, 2)), "bias": np.zeros(2)}}
    classifier = Classifier(params, STATS, (1, 1), "linear")

    def choose(text, validation=None):
        return adjust.choose(parse(text), classifier, 7, validation, images, tmp_path)

    (tmp_path / "eval").mkdir()
    assert choose("tau_norm") is None and resolve("none", tmp_path) == Adjustment()
    assert not (tmp_path / "eval/adjustment.json").exists()
    assert (tmp_path / "plots/adjustment-tau_norm-7.png").stat().st_size > 5_000  # the curve on test images
    assert "no tau is chosen here" in capsys.readouterr().out
    assert choose("tau_norm:0.35") == choose("tau_norm") == resolve("tau_norm", tmp_path) == ("tau_norm", 0.35)
    assert "\n0.35* " in capsys.readouterr().out  # a point of the curve, too
    chosen = choose("tau_norm", images)  # as if they were validation images
    assert chosen == resolve("tau_norm", tmp_path, 7) != ("tau_norm", 0.35)
    assert f"\n{chosen.tau:.2f}* " in capsys.readouterr().out
    same = evaluate.from_logits(labels, np.eye(2)[labels] * 50)
    assert choose("logit", same).tau == 1  # of equally good ones
    assert "21 of 21 taus are equally good there" in capsys.readouterr().out


def test_training_that_adjusts_logits_is_known():
    config = small_config("ce")
    assert evaluate_mode._adjusting(config) == []
    config.method = "paco"
    assert evaluate_mode._adjusting(config) == ["paco"]
    for loss in ("la", "vs"):
        assert evaluate_mode._adjusting(small_config(loss)) == [loss]


def test_what_a_user_asks_for_is_read_and_resolved(tmp_path):
    assert parse("none") == Adjustment() and parse("tau_norm") == Adjustment("tau_norm")
    assert parse("logit:1.5") == Adjustment("logit", 1.5) and str(parse("logit:1.50")) == "logit:1.5"
    for text, words in {
        "logits": "Did you mean logit?",
        "": "expected none, logit,",
        "none:1": "a number of 0 or more",
        "logit:": "a number of 0 or more",
        "logit:-1": "a number of 0 or more",
        "tau_norm:nan": "a number of 0 or more",
    }.items():
        with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
            parse(text)
    assert resolve("none", tmp_path) == Adjustment() and resolve("logit:2", tmp_path) == Adjustment("logit", 2)
    with pytest.raises(ConfigError, match="has no tau recorded. Fix: --mode eval --workdir .* --adjust logit,"):
        resolve("logit", tmp_path)
    (tmp_path / "eval").mkdir()
    for step, tau in ((5, 0.5), (12, 1.5), (12, 1.25)):
        adjustment.record(tmp_path, step, Adjustment("logit", tau), {"chosen_on": "validation"})
    adjustment.record(tmp_path, 5, Adjustment("tau_norm", 0.1), {})
    assert resolve("logit", tmp_path) == Adjustment("logit", 1.25)
    assert resolve("logit", tmp_path, 5) == Adjustment("logit", 0.5)
    with pytest.raises(ConfigError, match="no tau recorded for step 7, only for 5, 12. Fix: .* --checkpoint 7"):
        resolve("logit", tmp_path, 7)
    for broken in ("{", '{"logit": {"5": {}}}', '{"logit": [1]}', "[1]"):
        (tmp_path / "eval/adjustment.json").write_text(broken)
        with pytest.raises(DataError, match=r"adjustment.json can't be read"):
            resolve("logit", tmp_path)
