"""The report: its numbers are those of the runs, and no run, whatever its state or name, can spoil it."""

import base64
import csv
import hashlib
import io
import itertools
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from matplotlib import colors
from matplotlib.text import Text

from configs import digits_lt
from saddle_jax.errors import ConfigError
from saddle_jax.experiment import catalogue
from saddle_jax.longtail import ClassStats
from saddle_jax.modes import report as program
from saddle_jax.report import (
    classes,
    comparisons,
    confusion,
    content,
    cost,
    curves,
    differences,
    exports,
    page,
    plots,
    provenance,
    rows,
    runs,
    spectra,
    style,
)
from saddle_jax.spectra import results as spectra_results
from saddle_jax.training import evaluate

COUNTS = (200, 120, 60, 30, 12, 4)  # head 2, mid 2, tail 2; many 2, medium 2, few 2


def write_run(folder, method="ce_drw", seed=0, right=(10, 9, 8, 7, 6, 5), best=None, **fields):
    """Write a finished run of six classes with ten test images each, `right` of which are found at the last step."""
    config = digits_lt.get_config(method)
    config.update_from_flattened_dict({"seed": seed, "data.subset_seed": seed})
    with config.ignore_type():
        config.update_from_flattened_dict({field.replace("__", "."): value for field, value in fields.items()})
    stats = ClassStats(np.array(COUNTS), tuple("abcdef"))
    folder.mkdir(parents=True)
    for step, found in ((10, best or right), (20, right)):
        predictions = np.repeat([1, 0, 1, 2, 3, 4], 10)  # a mistake: the next larger class; of the largest, the second
        for label, number in enumerate(found):
            predictions[10 * label : 10 * label + number] = label
        measured = evaluate.Evaluation(np.repeat(np.arange(6), 10), predictions, np.arange(60) < 50)
        evaluate.write(folder / "eval", step, "test", evaluate.summary(measured, stats, ()), measured)
    reports = [json.loads((folder / f"eval/{step}-test.json").read_text()) for step in (20, 10)]
    stored = {"last": {**reports[0], "chosen_by": ""}, "best": {**reports[1], "chosen_by": ", best on test"}}
    start = {"command": ["main.py", "--config.name=a b"], "packages": {"jax": "1.2"}, "devices": ["cpu: cpu"]}
    images = {"counts": COUNTS, "names": list("abcdef"), "train_images": sum(COUNTS), "test_images": 60}
    images |= {"split_hash": f"s{seed}", "content_hash": f"c{seed}"}
    records = [{"step": step, "epoch": step / 5, "train/loss": 1 / step} for step in (5, 10, 15, 20)]
    records += [{"step": step, "eval/test/accuracy": step, "eval/test/tail": None} for step in (10, 20)]
    for name, content_ in (("config", config.to_dict()), ("results", stored), ("class_stats", images)):
        (folder / f"{name}.json").write_text(json.dumps(content_))
    (folder / "run.json").write_text(json.dumps({"starts": [start]}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


PDF = style._pdf


@pytest.fixture(autouse=True)
def no_pdf(monkeypatch):
    """Leave out what takes as long as all the rest."""
    monkeypatch.setattr(style, "_pdf", lambda _: b"")


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(style, "render", lambda _: style.Rendered("<svg></svg>", {}))


def written(folders, out):
    program.write(folders, out)
    return {path.name: path.read_text() for path in out.iterdir() if path.is_file()}


def arranged(folders):
    images, lost = rows.arrange(map(runs.read, folders))
    return images, lost


def csv_lines(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def pair(tmp_path):
    """SGD with seeds 0, 1, 2 and SAM with seeds 1, 2, 3."""
    right = {"ce_drw": [(10, 9, 8, 7, 6, 5), (10, 9, 8, 7, 4, 3), (9, 9, 9, 9, 6, 2)]}
    right["ce_drw_sam"] = [(10, 9, 8, 7, 8, 5), (9, 9, 9, 9, 7, 4), (10, 10, 10, 10, 10, 10)]
    return [
        write_run(tmp_path / method / f"seed-{seed}", method, seed, found, best=(10, 10, 10, 10, 9, 9))
        for method, first in (("ce_drw", 0), ("ce_drw_sam", 1))
        for seed, found in enumerate(right[method], start=first)
    ]


def test_the_tables_numbers_by_hand(pair, tmp_path, no_pictures):
    files = written(pair, tmp_path / "out")
    assert set(files) == {
        "report.html",
        "report.md",
        "classes.csv",
        *(f"{name}.{kind}" for name in ("table", "differences") for kind in ("csv", "tex")),
    }
    sgd, sgd_best, sam, _ = csv_lines(files["table.csv"])
    assert [sgd[key] for key in ("method", "epoch", "n")] == ["CE + DRW", "last", "3"]
    assert [sgd_best[key] for key in ("method", "epoch", "n")] == ["CE + DRW", "best on test", "3"]
    # Tail of the three seeds: (6 + 5) / 2, (4 + 3) / 2, (6 + 2) / 2 of ten.
    assert float(sgd["tail_mean"]) == pytest.approx((55 + 35 + 40) / 3, abs=1e-4)
    squares = (35 / 3) ** 2 + (25 / 3) ** 2 + (10 / 3) ** 2
    assert float(sgd["tail_sd"]) == pytest.approx(np.sqrt(squares / 2), abs=1e-4)
    assert float(sgd["overall_mean"]) == pytest.approx(100 * (45 + 41 + 44) / 180, abs=1e-4)
    assert float(sgd["few_mean"]) == float(sgd["tail_mean"])  # 12 and 4 images: the last two classes
    assert float(sgd["medium_mean"]) == pytest.approx(80, abs=5)
    assert (float(sgd_best["tail_mean"]), float(sgd_best["tail_sd"])) == (90, 0)
    assert float(sam["tail_mean"]) == pytest.approx((65 + 55 + 100) / 3, abs=1e-4)
    groups = "93.3 ± 2.9 | 80.0 ± 8.7 | 43.3 ± 10.4"
    assert f"| CE + DRW | last | 72.2 ± 3.5 | {groups} | {groups} | 3 |" in files["report.md"].replace("**", "")
    assert "| head (2) | mid (2) | tail (2) | many (2) | medium (2) | few (2) | n |" in files["report.md"]
    assert ">43.3 ± 10.4</b></td>" in files["report.html"]
    assert r"CE + DRW & \textbf{72.2 $\pm$ 3.5} &" in files["table.tex"]  # SAM's is higher, but n is too small to say
    assert "6 classes of 200 to 4 training images, 60 test images; epoch: last}" in files["table.tex"]
    assert "on the test images themselves, so it is optimistic" in files["report.html"]


def test_every_class_has_its_numbers_and_tail_classes_their_mistakes(pair, tmp_path, no_pictures, monkeypatch):
    files = written(pair, tmp_path / "out")
    assert "| class | training images | CE + DRW | CE + DRW + SAM |" in files["report.md"]
    assert "| e | 12 | 53.3 | 83.3 |" in files["report.md"]  # means of 6, 4, 6 and of 8, 7, 10 of ten images
    assert "| f | 4 | e 66.7 | e 36.7 |" in files["report.md"]  # the next larger class, of 5, 3, 2 and of 5, 4, 10
    lines = csv_lines(files["classes.csv"])
    assert len(lines) == 6 * 2 * 2  # classes, methods, and epochs
    its = {(line["class"], line["method"], line["epoch"]): line for line in lines}
    line = its["e", "CE + DRW", "last"]
    assert [line[key] for key in ("training_images", "rank_group", "count_group", "n")] == ["12", "tail", "few", "3"]
    assert float(line["accuracy_mean"]) == pytest.approx(160 / 3, abs=1e-4)
    assert float(line["accuracy_sd"]) == pytest.approx(np.std([60, 40, 60], ddof=1), abs=1e-4)
    assert its["f", "CE + DRW + SAM", "best on test"]["accuracy_mean"] == "90.0000"
    assert "<details>" not in files["report.html"]
    monkeypatch.setattr(classes, "_MOST_OPEN", 1)
    files = written(pair, tmp_path / "many")
    for summary in (
        "Accuracy of each of the 6 classes",
        "Most frequent wrong predictions for each of the 2 tail classes",
    ):
        assert f"<details><summary>{summary}</summary><div" in files["report.html"]
        assert f"- table, in report.html: {summary}" in files["report.md"]


def test_a_class_that_is_never_wrong_or_has_no_test_image():
    shares = np.array([0.1, 0.2, 0.0, 0.7, 0.0]), np.eye(5)[3], np.full(5, np.nan)
    assert [classes._mistakes(3, one, tuple("abcde")) for one in shares] == ["b 20.0,\na 10.0", "none", "n/a"]


def test_one_seed_is_marked_and_given_no_spread(tmp_path, no_pictures):
    files = written([write_run(tmp_path / "a")], tmp_path / "out")
    line = csv_lines(files["table.csv"])[0]
    assert (line["n"], line["tail_mean"], line["tail_sd"]) == ("1", "55.0000", "")
    assert "| 55.0 | 1 (one seed) |" in files["report.md"]
    assert ">1 (one seed)</td>" in files["report.html"]
    assert r"55.0 & 1\textsuperscript{a} \\" in files["table.tex"]
    assert r"\textsuperscript{a} a single seed: no spread" in files["table.tex"]


def test_which_runs_are_one_row(tmp_path):
    folders = [
        write_run(tmp_path / "a", seed=0),
        write_run(tmp_path / "b", seed=10, name="else", log_every="1 steps", sam__rho=((0, 0.9),)),
        write_run(tmp_path / "c", seed=2, tensorboard=True),
        write_run(tmp_path / "again", seed=2),
        write_run(tmp_path / "often", seed=3, eval__every="1 epochs"),
        write_run(tmp_path / "sam", "ce_drw_sam", seed=0),
        write_run(tmp_path / "wider", "ce_drw_sam", seed=0, sam__rho=((0, 0.25),)),
        write_run(tmp_path / "vs", "vs", seed=0),
    ]
    (images,), lost = arranged(folders)
    found = {row.name: [run.folder.name for run in row.runs] for row in images.rows}
    assert found == {
        "CE + DRW, every=20 epochs": ["a", "c", "b"],  # seeds 0, 2, 10
        "CE + DRW, every=1 epochs": ["often"],
        "CE + DRW + SAM, rho=0.1": ["sam"],
        "CE + DRW + SAM, rho=0.25": ["wider"],
        "VS": ["vs"],
    }
    assert [run.folder.name for row in images.rows for run in row.repeated] == ["again"]
    assert not lost
    names = {(first.name, second.name) for first, second in rows.pairs(images.rows)}
    assert names == {("CE + DRW, every=20 epochs", f"CE + DRW + SAM, rho={rho}") for rho in ("0.1", "0.25")}
    notes = page.as_markdown(list(provenance.notes([images], lost)))
    assert "again: not counted: this method already has a run with these seeds" in notes


def test_names_for_people_come_from_the_catalogue():
    plain = {"method": "plain", "loss.name": "ldam", "loss.class_weights": "none", "optim.name": "sgd"}
    assert catalogue.title_of(plain) == "LDAM"
    weighted = {**plain, "loss.class_weights": "reweight", "optim.name": "sse_sam"}
    assert catalogue.title_of(weighted) == "LDAM + RW + SSE-SAM"
    assert catalogue.title_of({**plain, "method": "paco", "optim.name": "my.links:random_sam"}) == "PaCo + random_sam"
    assert catalogue.title_of({**plain, "loss.name": "of_2030", "loss.class_weights": "new"}) == "of_2030 + new"
    named = [e for choice in rows._WITH_FIELDS for name, e in catalogue.ENTRIES[choice].items() if ":" not in name]
    titles = [entry.title for entry in named if entry is not catalogue.ENTRIES["method"]["plain"]]
    assert all(titles) and len(set(titles)) == len(titles)


def test_links_are_rows_of_one_family(tmp_path):
    folders = [write_run(tmp_path / method, method) for method in ("ce_drw_imbsam", "ce_drw_sam", "ce_drw", "vs_asam")]
    idle = {"imbsam__tail_below": 20, "asam__eta": 0.5, "sam__rho": ((0, 9.0),), "le_sam__rho_max": 2.0}
    folders.append(write_run(tmp_path / "idle fields", seed=1, **idle))
    folders.append(write_run(tmp_path / "own field", "ce_drw_imbsam", seed=1, imbsam__tail_below=20, asam__eta=0.5))
    folders.append(glmc := write_run(tmp_path / "glmc", "ce_drw_le_sam"))
    config = json.loads((glmc / "config.json").read_text()) | {"method": "glmc"}
    (glmc / "config.json").write_text(json.dumps(config))
    (images,), _ = arranged(folders)
    found = {row.name: [run.folder.name for run in row.runs] for row in images.rows}
    assert found == {
        "CE + DRW": ["ce_drw", "idle fields"],
        "CE + DRW + ImbSAM, tail_below=0": ["ce_drw_imbsam"],
        "CE + DRW + ImbSAM, tail_below=20": ["own field"],
        "CE + DRW + SAM": ["ce_drw_sam"],
        "VS + ASAM": ["vs_asam"],
        "GLMC + LE-SAM": ["glmc"],
    }
    assert [[row.link for row in family] for family in rows.families(images.rows)] == [
        ["sgd", "imbsam", "imbsam", "sam"],
        ["asam"],
        ["le_sam"],
    ]
    assert [(first.name, second.link) for first, second in rows.pairs(images.rows)] == [
        ("CE + DRW", "imbsam"),
        ("CE + DRW", "imbsam"),
        ("CE + DRW", "sam"),
    ]


def test_cost(tmp_path, no_pictures):
    folders = [write_run(tmp_path / m, m) for m in ("ce_drw", "ce_drw_cc_sam", "ce_drw_sam")]
    for folder, evaluations in ((folders[0], [1, 1, 1, 1]), (folders[1], [2, 3, 3, 4])):  # the last one did not count
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for record, number in zip(records, evaluations, strict=False):  # of the steps since the one before: 5 each
            record["train/gradient_evaluations"] = number
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    files = written(folders, tmp_path / "out")
    header = next(line for line in files["report.md"].splitlines() if line.startswith("| method | epoch | overall"))
    assert header.endswith("| few (2) | gradients | n |")
    cost = {(line["method"], line["epoch"]): line["gradients_mean"] for line in csv_lines(files["table.csv"])}
    assert cost["CE + DRW", "last"] == "20.0"
    assert cost["CE + DRW + CC-SAM", "last"] == "60.0"
    assert cost["CE + DRW + CC-SAM", "best on test"] == "25.0"  # by step 10
    assert cost["CE + DRW + SAM", "last"] == ""
    lines = [line for line in files["report.md"].splitlines() if line.startswith("| CE + DRW")]
    assert lines[2].endswith("| 60 | 1 (one seed) |")
    assert lines[4].endswith("|  | 1 (one seed) |")
    assert "<td>60</td>" in files["report.html"]
    without = written(folders[2:], tmp_path / "without")
    assert "gradients" not in without["report.md"]
    assert "Cost and accuracy" not in without["report.md"]  # which needs two methods


@pytest.mark.parametrize(("speed", "unit", "size"), [(0.1, "hours", 3600), (10, "minutes", 60), (1000, "seconds", 1)])
def test_cost_is_drawn_over_gradients_and_over_time(tmp_path, speed, unit, size):
    folders = [write_run(tmp_path / m, m) for m in ("ce_drw", "ce_drw_sam")]
    for folder, evaluations in zip(folders, (1, 2), strict=True):
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        told = {"train/gradient_evaluations": evaluations, "images_per_second": speed / evaluations}
        records = [record | told if "train/loss" in record else record for record in records]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page = written(folders, tmp_path / "out")["report.html"]
    section = page[page.index("Cost and accuracy") :]
    batch = runs.read(folders[0]).config["batch_size"]
    time = 20 * batch / speed / size
    for label, costs in (("gradients of a training batch", (20, 40)), (f"{unit} of training", (time, 2 * time))):
        for method, cost_ in zip(("CE + DRW", "CE + DRW + SAM"), costs, strict=True):
            for title in ("overall", "tail"):
                assert re.search(
                    rf"<title>{re.escape(method)}, {title}: .* % for {cost_:,.4g} {label}</title>", section
                )


@pytest.mark.parametrize(
    ("step", "evaluations", "expected"),
    [(20, [1, 2, 3, 4], 50), (13, [1, 2, 3, 4], 24), (20, [None, 2, 3, 4], np.nan), (25, [1, 2, 3, 4], np.nan)],
)
def test_gradient_evaluations_by_a_step(tmp_path, step, evaluations, expected):
    run = runs.read(write_run(tmp_path / "a"))
    logged = [{**r, cost.FIELD: n} for r, n in zip(run.metrics, evaluations, strict=False)]
    found = cost.gradient_evaluations(run._replace(metrics=[*logged, *run.metrics[4:]]), step)
    np.testing.assert_equal(found, expected)


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [([None, 40, 20, 40], 4 / 3 * (1 + 2 + 1) * 5 * 32 / 40), ([40] * 4, 20 * 32 / 40), ([None] * 4, np.nan)],
)
def test_seconds_count_each_step_at_the_speed_of_its_record(tmp_path, speeds, expected):
    run = runs.read(write_run(tmp_path / "a"))
    logged = [{**r, "images_per_second": speed} for r, speed in zip(run.metrics, speeds, strict=False)]
    found = cost.seconds(run._replace(metrics=[*logged, *run.metrics[4:]], config={**run.config, "batch_size": 32}))
    np.testing.assert_allclose(found, expected)


def test_pictures_hold_six_methods_and_sgd_is_in_each(tmp_path):
    links = ("pgd", "cnc_pgd", "lpf_sgd", "sam", "asam", "imbsam", "le_sam")
    alone = ("vs", "ce", "focal", "la_sam", "cdt", "ldam_drw", "vs_drw")
    folders = [write_run(tmp_path / m, m) for m in ("ce_drw", *(f"ce_drw_{link}" for link in links), *alone)]
    (images,), _ = arranged(folders)
    parts = [[row.link for row in part] for part in content._pictured(images.rows)]
    assert [len(part) for part in parts] == [6, 3, 6, 1]  # methods without a partner share figures
    assert all(part[0] == "sgd" for part in parts[:2])
    assert sorted(link for part in parts[:2] for link in part[1:]) == sorted(links)
    # Of the many pairs of methods, the page shows links beside plain SGD.
    compared = comparisons.compare(images, ("tail",), "last")
    (table,) = (b for b in differences.section(images, compared, ("tail",), "last") if isinstance(b, page.Table))
    assert len(compared) == 15 * 14 / 2
    assert [line[0].splitlines()[1] for line in table.lines] == ["vs. CE + DRW"] * len(links)


def test_a_run_of_another_version_has_its_place(tmp_path):
    old, new, own = (write_run(tmp_path / name, seed=seed) for seed, name in enumerate(("old", "new", "own")))
    config = json.loads((old / "config.json").read_text())
    del config["imbsam"], config["spectra"]
    (old / "config.json").write_text(json.dumps(config))
    config = json.loads((new / "config.json").read_text()) | {
        "num_seeds": 3,
        "method": {"name": "glmc", "list": [[], {}]},
    }
    (new / "config.json").write_text(json.dumps(config))
    (images,), _ = arranged([old, new, own])
    found = {row.name: [run.folder.name for run in row.runs] for row in images.rows}
    assert found == {"CE + DRW": ["old", "own"], "CE + DRW, list=((), '{}'), method.name=glmc": ["new"]}


def test_other_images_are_kept_apart(tmp_path, no_pictures):
    folders = [write_run(tmp_path / str(seed), seed=seed) for seed in range(3)]
    stats = json.loads((folders[0] / "class_stats.json").read_text())
    assert len(arranged(folders)[0]) == 1  # every seed has its own subset
    same_seed = write_run(tmp_path / "swapped", "vs", seed=0)
    (same_seed / "class_stats.json").write_text(json.dumps(stats | {"content_hash": "other pixels"}))
    images, _ = arranged([*folders, same_seed])
    assert [[row.name for row in one.rows] for one in images] == [["CE + DRW"], ["VS"]]
    assert images[1].title.endswith("images other pixels")
    fewer = write_run(tmp_path / "fewer", "vs", seed=5)
    (fewer / "class_stats.json").write_text(json.dumps(stats | {"counts": [100, 50, 20, 9, 5, 2]}))
    files = written([*folders, same_seed, fewer], tmp_path / "out")
    assert "on 3 different sets of images" in files["report.html"]
    assert files["table.tex"].count(r"\midrule") == 3
    assert len({line["images"] for line in csv_lines(files["table.csv"])}) == 3
    bounds = write_run(tmp_path / "bounds", "vs", seed=7, eval__rank_bounds=(1, 2))
    assert len(arranged([*folders, bounds])[0]) == 2  # their tails are not the same classes


PARTS = ("config.json", "class_stats.json", "results.json", "run.json", "metrics.jsonl")
BROKEN = (None, "", "{", "[]", "null", '"text"', "{}", '{"last": {}}', '{"starts": [{}]}', '{"step": "x"}', "\x00")


def test_no_damage_stops_the_report(tmp_path, no_pictures):
    """Each file missing, torn and of a wrong shape: the run is named with the file, the good run's numbers stay."""
    good = write_run(tmp_path / "good", right=(1, 2, 3, 4, 5, 6))
    cases = list(itertools.product(PARTS, BROKEN))
    damaged = []
    for number, (part, text) in enumerate(cases):
        folder = write_run(tmp_path / f"bad-{number}", "vs", seed=number)
        (folder / part).unlink()
        if text is not None:
            (folder / part).write_text(text)
        damaged.append(runs.read(folder))
    for (part, text), run in zip(cases, damaged, strict=True):
        assert any(part in problem for problem in run.problems), (part, text)
    files = written([good, *(run.folder for run in damaged)], tmp_path / "out")
    assert csv_lines(files["table.csv"])[0]["tail_mean"] == "55.0000"
    for (part, text), run in zip(cases, damaged, strict=True):
        line = next(line for line in files["report.md"].splitlines() if line.startswith(f"| {run.folder} |"))
        if part in ("run.json", "metrics.jsonl"):
            assert f"finished, but {'no records in ' * (part[0] == 'm')}{part}" in line or "finished, but no " in line
        elif part == "results.json" and text is None:
            assert "unfinished: no results.json; last record at step 20" in line
        else:
            assert "damaged: " in line


@pytest.mark.parametrize("path", ["accuracy", "groups.tail.accuracy", "class_accuracy", "step", "groups.few"])
@pytest.mark.parametrize("value", ["1e3", True, float("nan"), [1, 2], {}])
def test_a_number_that_is_none_is_not_averaged(tmp_path, path, value):
    folder = write_run(tmp_path / "a")
    stored = json.loads((folder / "results.json").read_text())
    *keys, last = path.split(".")
    place = stored["best"]
    for key in keys:
        place = place[key]
    place[last] = value
    (folder / "results.json").write_text(json.dumps(stored))
    run = runs.read(folder)
    assert not run.finished
    assert "results.json can't be read" in run.problems[0]


def test_only_unfinished_runs(tmp_path, no_pictures):
    folder = write_run(tmp_path / "a")
    (folder / "results.json").unlink()
    files = written([folder], tmp_path / "out")
    assert "No run on these images has finished" in files["report.html"]
    assert "Training curves" in files["report.html"]
    assert csv_lines(files["table.csv"]) == []


HOSTILE = '<script>alert("1")</script>|`*[x](y)'


def test_nothing_from_a_run_is_taken_for_markup(tmp_path):
    folder = write_run(tmp_path / HOSTILE.replace("/", "⁄"), data__name=HOSTILE, name=HOSTILE, data__source="tfds")
    (folder / "run.json").write_text(
        json.dumps({"starts": [{"command": ["main.py", HOSTILE + "\n# x"], "git": HOSTILE}]})
    )
    broken = write_run(tmp_path / "<img src=x>", seed=1)
    (broken / "config.json").write_text(HOSTILE)
    files = written([folder, broken], tmp_path / "out")
    html = files["report.html"]
    assert "&lt;script&gt;alert(&quot;1&quot;)" in html
    tags = set(re.findall(r"<(/?[a-zA-Z]+)", html))
    assert not tags & {"iframe", "object"}
    assert re.findall(r"<script[^>]*>", html) == ["<script>"]  # our own, which the page's policy names
    assert "<img src=x" not in html
    assert "default-src 'none'; img-src data:;" in html
    assert not re.findall(r"(?:src|href)=\"(?!data:|#|\./|\.\./)", html)
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    code = [line for line in files["report.md"].splitlines() if line.startswith("    ")]
    assert "    # x'" in code
    assert "<" not in "".join(line for line in files["report.md"].splitlines() if line not in code)
    assert r"\|\`\*\[x\](y)" in files["report.md"]


def test_every_character_that_latex_takes_for_its_own():
    assert exports.latex_text(r"a_b & 50% $ # {x} ~ ^ \ < >") == (
        r"a\_b \& 50\% \$ \# \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{} \textgreater{}"
    )


def test_a_page_for_a_phone(pair, tmp_path):
    """Pictures are in the page and small; tables scroll in their own boxes."""
    html = program.write(pair, tmp_path / "out").read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert html.count("<table>") == html.count('<div class="scroll" tabindex="0"><table>') > 4
    pictures = re.findall(r'<svg role="group" aria-label="[^"]+" viewBox="0 0 [^"]+">.*?</svg>', html)
    assert len(pictures) == html.count("<svg") == 5  # sizes; loss, accuracy; two matrices (no record has a tail)
    assert all(5_000 < len(picture) < 60_000 for picture in pictures)
    # An image would have no parts for a screen reader. So the figure is a group, and each mark with a title an image.
    assert html.count("</title></use>") == len(re.findall(r'<use[^>]* role="img"[^>]*><title>', html)) > 10


def test_figures_follow_the_pages_colors(pair, tmp_path):
    """Everything in a figure has a color of the page, which has one set of them for light and one for dark."""
    html = program.write(pair, tmp_path / "out").read_text()
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    light, dark = ("".join(re.findall(pattern, html)) for pattern in (r":root \{[^}]*\}", r"dark\) \{ :root \{[^}]*\}"))
    assert {"--ink", "--page", "--series-0", "--series-1"} <= used
    assert all(f"{name}:" in light and f"{name}:" in dark for name in used)
    drawn = "".join(re.findall(r"<svg.*?</svg>", html))
    fixed = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawn))
    assert fixed == {style.WHITE}  # numbers on the dark cells of a matrix
    for unlike in ("metadata", "xlink", "xmlns", "<!--", "font-family: 'DejaVu"):
        assert unlike not in drawn


def test_figures_are_files_too(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "_pdf", PDF)
    files = written(pair[:2], tmp_path / "out")
    found = {path.name: path.read_bytes() for path in (tmp_path / "out/figures").iterdir()}
    names = ("accuracy-by-class-size", "training-loss", "test-accuracy", "confusion-CE-DRW")
    assert set(found) == {f"{name}.{kind}" for name in names for kind in ("svg", "pdf")}
    for name, content_ in found.items():
        assert content_.startswith(b"%PDF" if name.endswith("pdf") else b"<?xml") and len(content_) > 5_000
        assert name.endswith("pdf") or b"var(--" not in content_  # colors of its own
        assert (f"- picture [{name[:-4]}](figures/{name})" in files["report.md"]) == name.endswith("svg")
    matrix = [style.render(plots.confusion(np.eye(2), "ab", [9, 1], "x")) for _ in range(2)]
    assert matrix[0] == matrix[1]  # to the bit


def test_names_of_figures_are_names_of_files():
    drawn = style.Rendered("<svg></svg>", {})
    names = ["Loss, a/b", "../loss: A b", "loss A b", "海鸟 " + "x" * 99, "/", "loss, a b"]
    (block,) = page.with_file_names([page.Pictures([page.Picture(name, drawn, "") for name in names])])
    expected = ["Loss-a-b", "loss-A-b-2", "loss-A-b-3", "海鸟-" + "x" * 57, "figure", "loss-a-b-4"]
    assert [picture.name for picture in block.pictures] == expected  # each once, also where case does not count


def contrast(one, other):
    """Return the contrast of two colors, 1 to 21 (WCAG 2.2)."""
    shares = np.array([colors.to_rgb(one), colors.to_rgb(other)])
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    dark, light = sorted(linear @ (0.2126, 0.7152, 0.0722))
    return (light + 0.05) / (dark + 0.05)


def test_words_have_enough_contrast(tmp_path):
    """WCAG 2.2 asks for 4.5, in the light and in the dark."""
    dark_page = re.search(r"dark\) \{ :root \{.*?--page: (#\w+)", page._STYLE, re.DOTALL)[1]
    assert min(contrast(color, dark_page) for color in style._DARK if color) > 4.5
    ends = {f"m{n}": ([{1.0: n, 2.0: n}], []) for n in range(len(style.SERIES))}
    drawn = plots.curves(ends, "loss", log=False)
    (density,) = spectra.densities({"": spectrum(tmp_path, -1.0)}, "class-5").values()
    for words in (words for figure in (drawn, density) for words in figure.findobj(Text) if words.get_text()):
        assert contrast(words.get_color(), style.PAPER) > 4.5, words.get_text()
    assert {style.words(color) for color in style.SERIES} <= {words.get_color() for words in drawn.axes[0].texts}
    percents = np.arange(1, 101).reshape(10, 10)  # of these, none can be better on every blue than halfway
    cells = plots.confusion(percents, "abcdefghij", [1] * 10, "")
    norm = cells.axes[0].images[0].norm
    for number in cells.axes[0].texts:
        blue = np.array(plots._BLUES(norm(int(number.get_text()))))
        assert contrast(number.get_color(), blue[:3] * blue[3] + 1 - blue[3]) > 4, number.get_text()


def test_many_classes_and_methods_in_one_picture():
    counts = [int(500 * 100 ** (-c / 99)) for c in range(100)]
    seeds = [[float(c % 90) for c in range(100)], [None] + [50.0] * 99]
    names = [f"class {c}" for c in range(100)]
    methods = {f"m {n} $x$": seeds for n in range(6)}
    drawn = style.render(plots.by_class_size(methods, names, counts, (30, 40, 30))).inline
    assert "m 5 $x$ (n = 2)" in drawn and len(drawn) < 100_000
    one, empty = {1.0: 0.5, 2.0: 0.0}, {}
    lines = plots.curves({"a": ([one, one], [empty]), "b": ([], [one])}, "loss", log=True)
    assert ">b</text>" in style.render(lines).inline
    assert plots.curves({"a": ([{1.0: 0.5}], [])}, "loss", log=True) is None
    assert style.render(plots.confusion(np.full((100, 100), np.nan), names, counts, "none")).inline


def test_classes_have_their_names_and_intervals_end_at_0_and_100():
    names, counts = ["cat", "a & b", "<lynx>"], [50, 9, 1]
    figure = plots.by_class_size({"SGD": [[100, 50, 0], [90, 52, 9]]}, names, counts, (1, 1, 1))
    drawn = style.render(figure).inline
    assert ">cat</" in drawn
    assert "<title>SGD, cat (50 training images): 95.0 ± 7.1 %</title>" in drawn  # under the pointer
    (bars,) = [c for c in figure.axes[0].collections if hasattr(c, "get_segments")]
    ends = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[95 - 50**0.5, 100], [51 - 2**0.5, 51 + 2**0.5], [0, 4.5 + 40.5**0.5]])
    matrix = style.render(plots.confusion(np.eye(3) * 100, names, counts, "x")).inline
    assert "&lt;lynx&gt; (1)" in matrix and "a &amp; b (9)" in matrix


@pytest.mark.parametrize("draw", ["by_class_size", "curves", "confusion"])
def test_axes_keep_their_size_under_long_names(draw):
    """Names of methods of one recipe hold every field that differs. Matplotlib's warnings are errors here."""

    def inches(figure):
        figure.draw_without_rendering()
        return figure.axes[0].get_window_extent().height / figure.dpi

    drawn = {
        "by_class_size": lambda names: plots.by_class_size(
            {name: [[50.0, 20.0]] for name in names}, "ab", [9, 1], (1, 0, 1)
        ),
        "curves": lambda names: plots.curves(dict.fromkeys(names, ([{1: 1.0, 2: 2.0}], [])), "loss", log=False),
        "confusion": lambda names: plots.confusion(np.eye(2), "ab", [9, 1], names[0]),
    }[draw]
    short = inches(drawn(["ce_drw_with_sam"]))
    for name in ("ce_drw_sam, rho=((0, 0.1), ('50%', 0.2)), " * 5, "x" * 300, "a $x$ " * 30):
        assert 0.9 * short < inches(drawn([f"{name}{k}" for k in range(6)])) < 1.2 * short


def test_confusion_by_class_size():
    parts = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.3, 0.3, 0.4]])
    np.testing.assert_allclose(confusion.by_size(parts, (5, 50, 1)), [[80, 20, 0], [10, 90, 0], [30, 30, 40]])
    np.testing.assert_allclose(confusion.by_size(parts, (5, 50, 1), places=2), [[100, 0], [60, 40]])


def test_confusion_of_groups_by_hand(tmp_path):
    run = runs.read(write_run(tmp_path / "a", right=(10, 9, 8, 7, 6, 5)))
    shares = confusion.by_group(confusion.read(run), {"head": 2, "mid": 2, "tail": 2})
    # Every mistake is the next larger class: of mid's five in twenty, two are class 1 (head) and three class 2 (mid).
    np.testing.assert_allclose(shares, [[95, 5, 0, 0], [75, 10, 15, 0], [55, 0, 20, 25]])
    last = run.results["last"]["groups"]
    np.testing.assert_allclose(shares[:, 0], [last[name]["accuracy"] for name in ("head", "mid", "tail")])
    (run.folder / "eval/20-test-predictions.npz").write_bytes(b"PK")
    assert confusion.read(run) is None
    nothing = np.full((6, 6), np.nan)
    assert np.isnan(confusion.by_group(nothing, {"head": 0, "mid": 0, "tail": 6})).all()


def test_curves_over_epochs(tmp_path):
    run = runs.read(write_run(tmp_path / "a"))
    assert curves.read(run, "train/loss") == {1: 1 / 5, 2: 1 / 10, 3: 1 / 15, 4: 1 / 20}
    assert curves.read(run, "eval/test/accuracy") == {2: 10, 4: 20}  # has a record of its own at the same step
    assert curves.read(run, "eval/test/tail") == {}
    assert content._curves_of(rows.Row("", {}, [run, run._replace(metrics=[])], [], []), "train/loss")[0][1:] == []
    assert curves.mean([{1: 2.0, 2: 4.0}, {2: 6.0, 3: 1.0}]) == {2: 5.0}


def spectrum(folder, smallest, probes=2, step=20):
    settings = {"loss": "ce", "logit_scale": 1.0, "class_weights": "none", "batch_norm": "eval", "dtype": "float32"}
    header = spectra_results.Header(step, step / 5, {**settings, "probes": probes})
    where, _ = spectra_results.open_folder(folder, header)
    grid = np.linspace(-1, 30, 200)
    arrays = {"grid": grid, "density": np.exp(-(grid**2)), "density_sd": np.zeros(200)}
    for name, images in (("class-5", 4), ("class-0", 200)):
        summary = {"title": name.replace("-", " "), "images": images, "probes": probes, "steps": 9, "basis": "device"}
        summary |= {
            "lambda_min": smallest,
            "lambda_max": 20.0,
            "residual_min": 1e-5,
            "residual_max": 2e-5,
            "error_min": 2e-5,
            "error_max": 3e-5,
            "sigma": 0.1,
        }
        spectra_results.save(where, header, name, {**summary, "ratio": -smallest / 20}, arrays)
    return where


def test_spectra_where_they_exist(pair, tmp_path, no_pictures):
    for folder, smallest in zip(pair[1:5], (-1.0, -2.0, -0.5, -0.25), strict=True):  # seeds 1 and 2 of both
        where = spectrum(folder, smallest)
    (where / "all.png").write_bytes(b"PNG")
    files = written(pair, tmp_path / "deep" / "out")
    assert (
        "| CE + DRW | class 5 | 4 | -1.500 ± 0.707 | 20.000 ± 0.000 | 0.075 ± 0.035 | 3e-05 | 2 |" in files["report.md"]
    )
    assert "All measured at step 20; ce loss, logit scale 1" in files["report.md"]
    assert "class 5 (4 images): CE + DRW + SAM, seed 1; step 20" in files["report.md"]
    drawn = files["report.html"].count("<figcaption>Hessian spectrum of class ")
    assert drawn == 4  # rarest and largest class, SGD and SAM
    assert 'href="../../ce_drw_sam/seed-2/spectra/20/all.png"' in files["report.html"]
    (where / "summary.json").write_text("{")
    for path in (pair[1] / "spectra/20").glob("*.npz"):
        path.write_bytes(b"PK")
    text = written(pair, tmp_path / "deep" / "out")["report.md"]
    assert "seed-2: spectra can't be read" in text
    assert "of class-5 can't be drawn" in text


def test_ratios_along_training_share_their_axis(pair, tmp_path):
    for folder, smallest in zip(pair[2:4], (-16.0, -2.0), strict=True):
        spectrum(folder, smallest)
    assert "over epochs. 0 means" not in written(pair, tmp_path / "one")["report.md"]  # a single step
    for folder, smallest in zip(pair[2:4], (-4.0, -1.0), strict=True):
        spectrum(folder, smallest, step=10)
    page = written(pair, tmp_path / "two")["report.html"]
    for label in ("CE + DRW, seed 2: |λmin/λmax| over epochs", "CE + DRW + SAM, seed 1: |λmin/λmax| over epochs"):
        assert label in page
    for title in (
        "class 5, 4 images: 0.2 at epoch 2",
        "class 5, 4 images: 0.8 at epoch 4",
        "200 images: 0.1 at epoch 4",
    ):
        assert f"{title}</title>" in page
    assert page.count(">0.8</text>") == 2  # of the vertical axes
    figure = spectra.ratios({"SGD": pair[2], "SAM": pair[3], "nothing": pair[0]})
    assert [axes.get_title("left") for axes in figure.axes] == ["SGD", "SAM"]
    assert spectra.ratios({"nothing": pair[0]}) is None


def test_where_the_numbers_come_from(pair, tmp_path, no_pictures):
    start = {"command": ["main.py", "--workdir=x y"], "packages": {"jax": "9.9"}, "devices": ["gpu: H"] * 2}
    (pair[0] / "run.json").write_text(json.dumps({"starts": [{"command": []}, start]}))
    text = written(pair, tmp_path / "out")["report.md"]
    assert "    python main.py '--workdir=x y'\n" in text
    assert "    python main.py '--config.name=a b'\n" in text
    assert "2 x gpu: H; saddle_jax ?, commit unknown; Python ?; jax 9.9" in text
    assert "versions or devices differ" in text
    assert f"{tmp_path / 'ce_drw_sam'}: seed-1, seed-2, seed-3" in text
    assert "| CE + DRW + SAM | sam | 0.1 |" in text  # of the fields that differ


def test_which_directories_are_runs(tmp_path, monkeypatch):
    for seed in (0, 2, 10):
        write_run(tmp_path / "several" / f"seed-{seed}", seed=seed)
    (tmp_path / "several" / "seed-11").mkdir()  # killed before its config was written
    write_run(tmp_path / "one[0]")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "file.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    found, others = runs.find(["*", "several/seed-2", "one[0]"])
    assert list(map(str, found)) == ["one[0]", *(f"several/seed-{seed}" for seed in (0, 2, 10, 11))]
    assert list(map(str, others)) == ["pictures"]
    assert list(map(str, runs.find(["one[0]"])[0])) == ["one[0]"]
    for pattern, message in (("nothing/*", "found no directory at"), ("pict*", "found no run at 'pict")):
        with pytest.raises(ConfigError, match=rf"--runs: {message}.*expected run directories.*Fix: e.g. --runs 'runs"):
            runs.find([pattern])


def main(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, ROOT / "main.py", *arguments], capture_output=True, text=True, cwd=cwd)


def test_the_command_without_jax(pair, tmp_path):
    flags = ["--mode", "report", "--columns", "overall", "tail", "--epoch", "best", "--runs"]
    absent = ("jax", "jaxlib", "flax", "optax", "orbax", "tensorflow", "tensorflow_datasets", "clu", "sklearn")
    script = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({absent!r}))
sys.argv = ["main.py", *{flags!r}, *{[str(folder) for folder in pair]!r}]
sys.path.insert(0, {str(ROOT)!r})
runpy.run_path({str(ROOT / "main.py")!r}, run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("done   report/report.html")
    assert re.search(r"at the best epoch\n +overall +tail +n\nCE \+ DRW +96.7 ± 0.0 +90.0 ± 0.0 +3\n", result.stdout)
    assert "No difference can be told from chance yet: n too small to say." in result.stdout
    text = (tmp_path / "report/report.md").read_text()
    assert "Report on 6 runs" in text and "| method | epoch | overall | tail (2) | n |" in text


def test_errors_of_the_command(tmp_path):
    nothing = main("--mode=report", "--runs=nothing/*", cwd=tmp_path)
    assert "config error (1 problem)" in nothing.stderr
    assert "found no directory at 'nothing/*'" in nothing.stderr
    wrong = main("--mode=report", "--config.seed=3", "--columns", "tail", "tial", "--epoch=lats", cwd=tmp_path)
    assert "--runs: found nothing, expected the run directories" in wrong.stderr
    assert "--config.seed=3 has no effect" in wrong.stderr
    assert "--columns: found 'tial', expected some of overall,balanced,head" in wrong.stderr
    assert "Did you mean tail?" in wrong.stderr
    assert "value should be one of <last|best>" in wrong.stderr
    other = main("--mode=check", "--runs", "a", "b", "--columns=tail", "--epoch=best", cwd=tmp_path)
    for flag in ("columns", "epoch"):
        assert f"--{flag} belongs to --mode report, found --mode check" in other.stderr
    assert "--runs belongs to --mode report, found --mode check" in other.stderr
    write_run(tmp_path / "a")
    file = main("--mode=report", "--runs=a", "--workdir=a/run.json", cwd=tmp_path)
    assert "--workdir: a/run.json can't be written" in file.stderr
    assert {nothing.returncode, wrong.returncode, other.returncode, file.returncode} == {2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_report_beside_a_run_leaves_its_config_alone(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "config.json").write_text("{")
    result = main("--mode=report", f"--runs={folder}", f"--workdir={folder}")
    assert result.returncode == 0, result.stderr
    assert "config.json can&#x27;t be read" in (folder / "report.html").read_text()


@pytest.mark.parametrize("heights", [[0, 0, 0.02, 0.05], [0.5, 0.5, 0.51], [0.2, 0.97, 0.98, 1.0], [0.1, 0.9]])
def test_names_beside_the_ends_of_lines_do_not_overlap(heights):
    spread = style._spread(np.array(heights), 0.06)
    assert (np.diff(spread) > 0.06 - 1e-3).all()
    assert spread[0] >= 0.03 and spread[-1] <= 1
    assert np.abs(spread - heights).max() < 0.06 * len(heights)


BETTER = [(10, 9, 8, 7, 9, 8), (10, 9, 8, 7, 9, 7), (10, 9, 8, 7, 8, 8), (10, 9, 8, 7, 9, 9), (10, 9, 8, 7, 7, 8)]
BETTER += [(10, 9, 8, 7, 8, 7)]


@pytest.mark.usefixtures("no_pictures")
def test_the_page_opens_with_what_was_found(tmp_path):
    alone = write_run(tmp_path / "alone")
    first = written([alone], tmp_path / "out")["report.md"].splitlines()[2]
    assert first == "**CE + DRW classifies 75.0 % of the test images correctly, and 55.0 % in the tail (one seed)**"
    folders = [write_run(tmp_path / f"sgd-{seed}", "ce_drw", seed) for seed in range(6)]
    folders += [write_run(tmp_path / f"sam-{seed}", "ce_drw_sam", seed, right) for seed, right in enumerate(BETTER)]
    first = written(folders, tmp_path / "out")["report.md"].splitlines()[2]
    assert re.match(r"\*\*In the tail, CE \+ DRW \+ SAM is 25\.\d points higher than CE \+ DRW \(95 % interval", first)
    few = written([*folders[:2], *folders[6:8]], tmp_path / "out")["report.md"].splitlines()[2]
    assert few.startswith("**No difference can be told from chance yet")


@pytest.mark.usefixtures("no_pictures")
def test_calibration_where_it_was_measured(tmp_path):
    folders = [write_run(tmp_path / f"run-{seed}", seed=seed) for seed in range(3)]
    assert "Calibration" not in written(folders, tmp_path / "out")["report.md"]
    for folder, nll in zip(folders[:2], (0.5, 0.7), strict=True):
        path = folder / "eval/20-test.json"
        values = {"nll": nll, "ece": 10.0, "macro_f1": 70.0, "g_mean": 60.0}
        scores = {name: {"value": value, "low": 0, "high": 0} for name, value in values.items()}
        path.write_text(json.dumps({**json.loads(path.read_text()), "scores": scores}))
    text = written(folders, tmp_path / "out")["report.md"]
    assert "| CE + DRW | 0.60 ± 0.14 | 10.0 ± 0.0 | 70.0 ± 0.0 | 60.0 ± 0.0 | 2 |" in text
    assert "Runs left out: 1. Measure them with --mode eval" in text
    path.write_text('{"scores": 3}')
    assert "| CE + DRW | 0.50 | 10.0 | 70.0 | 60.0 | 1 (one seed) |" in written(folders, tmp_path / "out")["report.md"]


@pytest.mark.usefixtures("no_pictures")
def test_the_page_runs_its_own_script_and_no_other(pair, tmp_path):
    html = program.write(pair, tmp_path / "out").read_text()
    (own,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\">" in html


@pytest.mark.usefixtures("no_pictures")
def test_a_browser_sorts_tables_and_hides_rows(pair, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    files = written(pair, tmp_path / "out")
    clicks = """<script>
      const first = document.querySelector("table"), head = [...first.tHead.rows[0].cells];
      const tail = head.findIndex((cell) => cell.innerText.startsWith("tail"));
      head[tail].querySelector("button").click();
      first.tBodies[0].rows[0].querySelector(".hide").click();
    </script></body>"""
    page = re.sub(r"<meta http-equiv[^>]*>", "", files["report.html"]).replace("</body>", clicks)
    (tmp_path / "clicked.html").write_text(page)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--disable-background-networking", "--disable-sync", "--dump-dom", f"file://{tmp_path}/clicked.html"]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=100).stdout
    table = re.search(r"<table>.*?</table>", seen, re.DOTALL)[0]
    rows = re.findall(r"<tr( hidden=\"\")?>(.*?)</tr>", table, re.DOTALL)[1:]
    cells = [re.sub(r"<br>|<[^>]+>", "", row) for _, row in rows]
    means = [round(float(line["tail_mean"]), 1) for line in csv_lines(files["table.csv"])]
    found = [next(mean for mean in means if f"{mean:.1f} ±" in cell) for cell in cells]
    assert found == sorted(means, reverse=True) != means
    assert [bool(hidden) for hidden, _ in rows] == [True, False, False, False]
    assert "Show 1 hidden row</button>" in seen
    assert 'aria-sort="descending"' in table
