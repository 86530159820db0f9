"""Figures of merit: by hand, against scikit-learn, and against what is known of made-up predictions."""

import json

import numpy as np
import pytest
from rich.cells import cell_len
from scipy import stats
from sklearn import metrics

from saddle_jax import scores
from saddle_jax.host import console
from saddle_jax.longtail import ClassStats
from saddle_jax.report import score_tables
from saddle_jax.training import evaluate


def report_of(labels, logits, counts):
    return evaluate.full_report(evaluate.from_logits(labels, logits), ClassStats(np.array(counts), ()), ())


def test_calibration_error_and_the_interval_of_it_by_hand():
    labels = np.array([0, 1, 0, 0])
    logits = np.log([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]])  # the last one is wrong
    found = scores.measure(labels, logits.argmax(1), logits)
    its = found["scores"]["ece"]
    assert its["value"] == pytest.approx(100 * (2 / 4 * abs(1 - 0.9) + 2 / 4 * abs(0.5 - 0.6)))
    assert 0 <= its["low"] <= its["value"] <= its["high"] <= 100
    assert found["scores"]["nll"]["value"] == pytest.approx(-np.log([0.9, 0.9, 0.6, 0.4]).mean())
    sure = np.where(np.eye(2)[labels], 0.0, -np.inf)  # a confidence of exactly 1 has a bin, too
    assert scores.measure(labels, labels, sure)["scores"]["ece"]["value"] == 0


def test_scikit_learn_finds_the_same():
    """On classes of 1 to 300 images, one of them never predicted, and one predicted but without images."""
    random = np.random.default_rng(0)
    labels = random.choice(6, 500, p=[0.6, 0.2, 0.1, 0.07, 0.03, 0]).astype(np.int32)
    logits = random.normal(size=(500, 6)).astype(np.float32) + 2 * np.eye(6, dtype=np.float32)[labels]
    logits[:, 4] -= 20
    predictions = logits.argmax(1)
    found = scores.measure(labels, predictions, logits)
    present = list(range(5))
    sets = {"labels": present, "zero_division": 0}
    precision, recall, _, images = metrics.precision_recall_fscore_support(labels, predictions, **sets)
    odds = np.exp(logits.astype(float))
    expected = {
        "accuracy": 100 * metrics.accuracy_score(labels, predictions),
        "balanced_accuracy": 100 * recall.mean(),
        "macro_f1": 100 * metrics.f1_score(labels, predictions, average="macro", **sets),
        "g_mean": 0.0,  # no image of class 4 is found
        "nll": metrics.log_loss(labels, odds / odds.sum(1, keepdims=True), labels=list(range(6))),
    }
    for name, value in expected.items():
        assert found["scores"][name]["value"] == pytest.approx(value, rel=1e-6), name
    classes = found["classes"]
    assert classes["test_images"] == [*images, 0]
    np.testing.assert_allclose(classes["recall"]["value"][:5], 100 * recall)
    np.testing.assert_allclose(classes["precision"]["value"][:4], 100 * precision[:4])
    assert classes["recall"]["value"][5] is classes["precision"]["value"][4] is None
    assert classes["precision"]["value"][5] == 0
    assert classes["recall"]["low"][5] is None
    for c in range(5):  # SciPy's posterior of Jeffreys' prior
        hits, of = round(recall[c] * images[c]), images[c]
        low, high = stats.beta(hits + 0.5, of - hits + 0.5).interval(0.95)
        its = [classes["recall"][end][c] / 100 for end in ("low", "high")]
        assert its == pytest.approx([low if hits else 0, high if hits < of else 1])
    assert "NaN" not in json.dumps(found)
    assert found == scores.measure(labels, predictions, logits)


def test_intervals_hold_the_truth_of_made_up_predictions(monkeypatch):
    """Class c is predicted rightly with probability right[c], and otherwise as any other class equally often."""
    monkeypatch.setattr(scores, "RESAMPLES", 200)
    right, images, trials = np.array([0.95, 0.8, 0.6]), 200, 100
    confusion = np.where(np.eye(3), right, (1 - right)[:, None] / 2) / 3  # joint probabilities
    sure, accuracy = np.exp(2) / (np.exp(2) + 2), right.mean()
    truth = {
        "accuracy": 100 * accuracy,
        "balanced_accuracy": 100 * accuracy,
        "macro_f1": 100 * np.mean(2 * np.diag(confusion) / (confusion.sum(0) + confusion.sum(1))),
        "g_mean": 100 * right.prod() ** (1 / 3),
        "nll": np.log(np.exp(2) + 2) - 2 * accuracy,
        "ece": 100 * abs(accuracy - sure),  # one confidence, so one bin
    }
    random = np.random.default_rng(0)
    held = dict.fromkeys(truth, 0)
    for _ in range(trials):
        cells = random.choice(9, images, p=confusion.reshape(-1))
        labels, predictions = cells // 3, cells % 3
        found = scores.measure(labels, predictions, 2.0 * np.eye(3)[predictions])["scores"]
        for name, value in truth.items():
            held[name] += found[name]["low"] <= value <= found[name]["high"]
    assert all(88 <= number <= 99 for name, number in held.items() if name != "ece"), held
    assert held["ece"] >= 80, held  # a calibration error of 1 %, which 200 images hardly tell from 0


def test_the_interval_of_a_class_with_few_images_is_not_a_point():
    five = scores.measure(np.zeros(5, int), np.zeros(5, int), np.zeros((5, 2)))["classes"]["recall"]
    assert five["value"][0] == five["high"][0] == 100
    assert five["low"][0] == pytest.approx(62.1, abs=0.05)  # the 2.5 % quantile of Beta(5.5, 0.5)


def test_top_five_of_logits_on_the_host_is_that_of_the_device():
    logits = np.array([[3, 3, 3, 3, 3, 3, 0], [1, 2, 3, 4, 5, 6, 7]], np.float32)
    found = [evaluate.from_logits(np.full(2, label), logits).in_top_N.tolist() for label in range(7)]
    assert [first for first, _ in found] == [True] * 5 + [False] * 2  # of equal ones, the first
    assert [second for _, second in found] == [False] * 2 + [True] * 5


@pytest.mark.parametrize("columns", [40, 80])
def test_the_tables_fit_a_terminal_and_name_what_is_bent(columns, monkeypatch, capsys):
    monkeypatch.setattr(console, "columns", lambda: columns)
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 3], [90, 25, 5]).astype(np.int32)
    logits = random.normal(size=(120, 4)) + 2 * np.eye(4)[labels]
    logits[:, 3] -= 50  # never predicted
    names = ("airplane", "a name that is far too long for its column", "没有测试图像的一个非常长的类别名称啊", "cat")
    counts = (1_000_000, 100, 10, 1)
    report = report_of(labels, logits, counts)
    console.table(score_tables.scores(report))
    console.table(score_tables.classes(report, names, counts))
    point = {"accuracy": 50.0, "balanced_accuracy": 33.3, "head": 100.0, "mid": None, "tail": 0.0}
    points = [{"tau": tau, **point} for tau in (0.0, 0.05, 0.1)]
    console.table(score_tables.curve(points, 0.1, "logit at step 7, test images"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= columns
    text = "\n".join(lines)
    assert ("correct predictions" in text) == (columns == 80)
    cat = next(line for line in lines if line.startswith("cat"))
    assert cat.split() == ["cat", "1", "0.0", "(0-38)", *(["n/a", "5"] if columns == 80 else [])]
    cells = ["33.3", "100.0", "n/a", "0.0", *(["50.0"] if columns == 80 else [])]
    assert [line.split() for line in lines[-2:]] == [["0.00", *cells], ["0.10*", *cells]]
    bent, absent = score_tables.notes(report, names)
    assert bent.startswith("test classes have 5 to 90 images: accuracy, NLL, ECE, precision")
    assert absent.startswith("classes without a test image: 1 of 4, e.g. 没有")


def test_one_class_and_an_even_test_set_have_scores():
    even = report_of(np.arange(4, dtype=np.int32), np.eye(4), [4, 3, 2, 1])
    assert list(score_tables.notes(even, "abcd")) == []
    alone = report_of(np.zeros(3, np.int32), np.ones((3, 1)), [9])
    assert alone["scores"]["nll"] == {"value": 0.0, "low": 0.0, "high": 0.0}
