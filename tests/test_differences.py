"""Which methods differ: pairs, tests, and corrections as the report shows them, with values by hand."""

import csv
import io

import numpy as np
import pytest
from test_report_page import no_pictures, write_run  # noqa: F401  the first is a fixture

from saddle_jax.experiment.flag_checks import REPORT_COLUMNS
from saddle_jax.modes import report as program
from saddle_jax.report import comparisons, rows, runs, tables
from saddle_jax.report.comparisons import TOO_SMALL

pytestmark = pytest.mark.usefixtures("no_pictures")

SGD, SAM = "CE + DRW", "CE + DRW + SAM"
BETTER = [(10, 9, 8, 8, 6, 4 + seed) for seed in range(6)]  # than SGD's in mid and tail, by a different amount each


def write(tmp_path, **seeds):
    """Write runs of methods, {method: {seed: images found of each class}}, and return their folders."""
    return [
        write_run(tmp_path / method / f"seed-{seed}", method, seed, found, best=(10, 10, 10, 10, 9, 9))
        for method, its in seeds.items()
        for seed, found in its.items()
    ]


def compared(folders, columns=tables.BOTH_GROUPINGS, which="last"):
    (images,), _ = rows.arrange(map(runs.read, folders))
    return images, comparisons.compare(images, columns, which)


def csv_lines(path):
    return {line["column"]: line for line in csv.DictReader(io.StringIO(path.read_text()))}


@pytest.fixture
def six(tmp_path):
    """SGD and SAM with six seeds each."""
    right = dict.fromkeys(range(6), (10, 9, 8, 7, 4, 3))
    return write(tmp_path, ce_drw=right, ce_drw_sam=dict(enumerate(BETTER)))


def test_only_runs_with_the_same_seeds_are_pairs(tmp_path):
    sgd = dict(enumerate([(10, 9, 8, 7, 6, 5), (10, 9, 8, 7, 4, 3), (9, 9, 9, 9, 6, 2)]))
    sam = {1: (10, 9, 8, 7, 8, 5), 2: (9, 9, 9, 9, 7, 4), 3: (10, 10, 10, 10, 10, 10)}
    _, (one,) = compared(write(tmp_path, ce_drw=sgd, ce_drw_sam=sam))
    assert (one.first.name, one.second.name, one.n) == (SGD, SAM, (2, 2))
    tail = one.differences["tail"]  # 35 -> 65 and 40 -> 55
    assert (tail.mean, tail.up, tail.down) == (22.5, 2, 0)
    half = 12.7062 * np.std([30, 15], ddof=1) / np.sqrt(2)  # the tabled quantile of t for one degree of freedom
    assert tail.t == pytest.approx((22.5 - half, 22.5 + half), abs=1e-3)
    assert (tail.p, tail.bootstrap, tail.verdict) == (None, None, TOO_SMALL)
    assert (one.differences["head"].mean, one.differences["head"].t) == (0, None)  # no pair differs: no spread


def test_six_pairs_are_enough(six, tmp_path):
    program.write(six, out := tmp_path / "out")
    text, line = (out / "report.md").read_text(), csv_lines(out / "differences.csv")["tail"]
    changes = [15 + 5 * seed for seed in range(1, 6)] + [15]
    assert float(line["difference"]) == np.mean(changes)
    assert [line[key] for key in ("n_first", "n_second", "paired", "up", "down")] == ["6", "6", "yes", "6", "0"]
    assert [line[key] for key in ("wilcoxon_p", "sign_p", "p_holm")] == ["0.03125"] * 3
    assert [line[key] for key in ("welch_p", "mcnemar_p", "verdict")] == ["", "", "differs"]
    t, bootstrap = ([float(line[f"{name}_{end}"]) for end in ("low", "high")] for name in ("t", "bootstrap"))
    assert bootstrap[0] < t[0] < np.mean(changes) < t[1] < bootstrap[1]  # other images vary, too
    assert f"- tail: {SAM} is 27.5 points higher than {SGD} (95 % interval 17.7 to 37.3, p = 0.031, n = 6)" in text
    assert f"| {SAM} vs. {SGD} | **+" in text
    assert csv_lines(out / "differences.csv")["head"]["verdict"] == "not distinguishable"
    table, differences = ((out / f"{name}.tex").read_text() for name in ("table", "differences"))
    row = next(line for line in table.splitlines() if line.startswith(f"{SGD} &"))
    assert r"\textbf{95.0 $\pm$ 0.0} & 75.0 $\pm$ 0.0 & 35.0 $\pm$ 0.0 &" in row  # head is equal, mid and tail differ
    assert r"\boldmath$+27.5\;[17.7, 37.3]$" in differences
    assert r"\footnotesize $p = 0.031$" in differences
    assert differences.count("&") == 3 * 8


def test_columns_and_epoch_are_the_users(six, tmp_path):
    program.write(six, out := tmp_path / "out", ("tail", "balanced", "tail"), "best")
    assert list(csv_lines(out / "differences.csv")) == ["tail", "balanced"]
    assert "at the best epoch" in (out / "report.md").read_text()
    assert "method & tail & balanced & $n$" in (out / "table.tex").read_text()
    row = next(line for line in (out / "table.tex").read_text().splitlines() if line.startswith(f"{SGD} &"))
    assert r"\textbf{90.0 $\pm$ 0.0} & \textbf{96.7 $\pm$ 0.0} & 6 \\" in row
    assert "epoch: best on test" in (out / "table.tex").read_text()
    assert len((out / "table.csv").read_text().splitlines()) == 5  # everything, whatever is shown


def test_one_seed_is_about_two_networks(tmp_path):
    folders = write(tmp_path, ce_drw={0: (10, 9, 8, 7, 6, 5)}, ce_drw_sam={0: (10, 9, 8, 7, 10, 10)})
    program.write(folders, out := tmp_path / "out")
    text, line = (out / "report.md").read_text(), csv_lines(out / "differences.csv")["tail"]
    assert float(line["mcnemar_p"]) == pytest.approx(2 / 2**9, rel=1e-4)  # nine images, all for SAM
    assert (line["t_low"], line["wilcoxon_p"], line["verdict"]) == ("", "", "differs")
    # Nine of twenty images go up, some more in a resample and some less, in classes of ten.
    assert 20 < float(line["bootstrap_low"]) < 45 < float(line["bootstrap_high"]) < 70
    assert "one seed: these two networks differ, not yet the methods" in text
    assert r"\textsuperscript{a} a single seed: about two networks" in (out / "differences.tex").read_text()


@pytest.mark.parametrize("damage", ["torn", "other images", "another evaluation"])
def test_images_count_only_if_they_are_the_same(tmp_path, damage):
    first, second = write(tmp_path, ce_drw={0: (10, 9, 8, 7, 6, 5)}, ce_drw_sam={0: (10, 9, 8, 7, 10, 10)})
    path = second / "eval/20-test-predictions.npz"
    with np.load(path) as stored:
        labels, predictions = stored["labels"], stored["predictions"]
    if damage == "torn":
        path.write_bytes(b"PK")
    elif damage == "other images":
        np.savez(path, labels=labels[::-1], predictions=predictions[::-1])
    else:
        np.savez(path, labels=labels, predictions=np.zeros_like(labels))
    _, (one,) = compared([first, second])
    assert {its.verdict for its in one.differences.values()} == {TOO_SMALL}
    assert one.differences["tail"].mean == 45


def test_rows_without_a_common_seed(tmp_path):
    right = [(10, 9, 8, 7, 4, found) for found in (3, 4, 3, 2)]
    other = [(10, 9, 8, 7, 8, found) for found in (7, 8, 7, 8)]
    folders = write(tmp_path, ce_drw=dict(enumerate(right)), ce_drw_sam=dict(enumerate(other, start=4)))
    _, (one,) = compared(folders)
    tail = one.differences["tail"]
    assert (one.pairs, one.n, list(tail.tests)) == ([], (4, 4), ["Welch"])
    assert tail.differs
    # Equal numbers of runs: t = difference / sqrt((s1² + s2²) / 4).
    first, second = ([10 * (row[4] + row[5]) / 2 for row in side] for side in (right, other))
    assert np.mean(tail.t) == pytest.approx(tail.mean) == pytest.approx(np.mean(second) - np.mean(first))
    _, (fewer,) = compared(folders[:3] + folders[4:7])
    assert fewer.differences["tail"].verdict == TOO_SMALL


def test_every_pair_counts_in_the_correction(six, tmp_path):
    third = write(tmp_path, vs=dict(enumerate(BETTER)))
    images, found = compared([*six, *third])
    assert [(one.first.name, one.second.name) for one in found] == [(SGD, SAM), (SGD, "VS"), (SAM, "VS")]
    tails = [one.differences["tail"] for one in found]
    assert [its.p for its in tails] == [0.03125, 0.03125, 1]
    assert [its.adjusted for its in tails] == [3 * 0.03125, 3 * 0.03125, 1]  # Holm keeps the order
    assert comparisons.leading(images, found, "tail", "last") == {SGD, SAM, "VS"}
    assert comparisons.leading(images, compared(six)[1], "tail", "last") >= {SAM}
    program.write([*six, *third], tmp_path / "out")
    text = (tmp_path / "out/report.md").read_text()
    assert "corrected for the 3 pairs of methods" in text
    assert "With 3 pairs of methods, the corrected p can reach 0.05 from 7 seeds on." in text


def test_shares_of_images_give_the_tables_accuracies(tmp_path):
    """Also where test classes differ in size, and one has no test image."""
    folder = write_run(tmp_path / "a")
    (images,), _ = rows.arrange([runs.read(folder)])
    run = images.rows[0].runs[0]
    known = comparisons._Predictions(images, REPORT_COLUMNS, "last", [run])
    labels, right = known._right[run.folder]
    for column in REPORT_COLUMNS:
        expected = tables.accuracy(run.results["last"], column)
        assert 100 * known._shares(labels, column) @ right == pytest.approx(expected)
    some = np.array([0, 0, 0, 1, 5])  # tail: class 5 alone has an image
    assert known._shares(some, "tail").tolist() == [0, 0, 0, 0, 1]
    assert known._shares(some, "head") == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2, 0])
    assert known._shares(some, "mid").tolist() == [0] * 5
