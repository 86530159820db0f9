"""Tables and pictures: what they say is what the numbers are."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from saddle_jax.longtail import ClassStats
from saddle_jax.report import plots, tables
from saddle_jax.spectra import results
from saddle_jax.training import evaluate


def report(overall, tail, classes=(90.0, None, 10.0)):
    groups = {"head": {"accuracy": 99.0}, "mid": {"accuracy": None}, "tail": {"accuracy": tail}}
    return {"accuracy": overall, "groups": groups, "class_accuracy": list(classes)}


def test_comparison_gives_mean_deviation_and_number():
    text = tables.comparison({"SGD": [report(90, 70), report(92, 76)], "SAM": [report(93, 80)]})
    lines = text.splitlines()
    assert lines[0].split() == ["overall", "head", "mid", "tail", "n"]
    assert lines[1].split() == ["SGD", "91.0", "±", "1.4", "99.0", "±", "0.0", "n/a", "73.0", "±", "4.2", "2"]
    assert lines[2].split() == ["SAM", "93.0", "99.0", "n/a", "80.0", "1"]
    assert len({len(line) for line in lines}) == 1
    narrow = tables.comparison({"SGD": [report(90, 70), report(92, 76)], "SAM": [report(93, 80)]}, width=40)
    assert [line.split()[0] for line in narrow.splitlines()] == ["SGD", "overall", "head", "mid", "tail", "n"]
    assert narrow.splitlines()[4].split() == ["tail", "73.0", "±", "4.2", "80.0"]
    assert max(map(len, narrow.splitlines())) <= 40


def test_evaluation_by_hand():
    labels = np.repeat([0, 1], [10, 4])
    predictions = np.array([*[0] * 8, 1, 1, 0, 1, 1, 1])
    result = evaluate.Evaluation(labels, predictions, np.ones(14, bool))
    stats = ClassStats(np.array([200, 50, 3]), ("a", "b", "c"))
    summary = evaluate.summary(result, stats, (1, 2))
    assert summary["accuracy"] == pytest.approx(100 * 11 / 14)
    assert summary["class_accuracy"] == [80.0, 75.0, None]
    assert summary["balanced_accuracy"] == 77.5
    assert summary["top5"] is None  # three classes
    accuracies = {name: group["accuracy"] for name, group in summary["groups"].items()}
    assert accuracies == {"head": 80.0, "mid": 75.0, "tail": None, "many": 80.0, "medium": 75.0, "few": None}
    assert evaluate.one_line(summary) == "balanced 77.50  head 80.0  mid 75.0  tail n/a"


@pytest.mark.parametrize("number", [3, 10, 100, 1000])
def test_classes_keep_their_names_apart(number, tmp_path):
    counts_C = np.geomspace(5000, 5, number).astype(int)
    names = [("cat", "a lynx", f"a class with a long name ({c})")[c % 3] for c in range(number)]
    values = np.linspace(99, 20, number).tolist()
    values[1] = None  # a class without test images
    figure = plots.classes_figure({"SGD": [values, values], "SAM": [values]}, names, counts_C, rank_sizes=(1, 0, 2))
    figure.savefig(tmp_path / "a.png")
    shown = [(label.get_text(), label.get_window_extent()) for label in figure.axes[1].get_xticklabels()]
    every = number // len(shown)
    assert every == -(-number // 110)
    for (text, box), (_, after), name in zip(shown, shown[1:], names[::every], strict=False):
        assert text.startswith(name[:23]) and box.x1 < after.x0
    assert shown[0][1].x0 > 0 and shown[-1][1].x1 < figure.bbox.width
    assert min(box.y0 for _, box in shown) > 0 and figure.axes[0].bbox.height > 150
    assert {text.get_text() for text in figure.axes[0].texts} == {"head", "tail"}


@pytest.mark.parametrize("smallest", [(-40.0, 0.0), pytest.param((-1e-9, 1e-3), marks=pytest.mark.nightly)])
def test_pictures_of_any_spectrum_without_jax(smallest, tmp_path):
    """Drawn from files alone: also spectra without a negative eigenvalue, of one probe, of a zero Hessian."""
    script = """
import pathlib, sys
import numpy as np
from saddle_jax.report import spectra
from saddle_jax.spectra import results
for smallest in map(float, sys.argv[2:]):
    workdir = pathlib.Path(sys.argv[1]) / str(smallest)
    settings = {"loss": "ce", "logit_scale": 30.0, "class_weights": "training"}
    settings |= {"batch_norm": "eval", "dtype": "float32"}
    header = results.Header(5, 0.5, settings)
    folder, finished = results.open_folder(workdir, header)
    assert not finished and not folder.exists()
    along = {"rho": 0.1, "batches": 2, "ratio": 7e5, "ratio_predicted": 0.5, "drift": 1e-5, "drift_sam": 0.1}
    slices = {f"escape_{name}": np.linspace(0, 1, 41) for name in ("places", "losses", "quadratic")}
    for number, name in enumerate(("class-0", "tail", "whole")):
        largest = 30.0 * number * (smallest != 0)
        summary = {
            "title": f"class $\\\\x$ {name}", "images": 3, "probes": 1, "steps": 2, "basis": "none", "sigma": 0.01,
            "gradient_norm": 1.0,
            "lambda_min": smallest, "lambda_max": largest, "residual_min": 0.0, "residual_max": 1e-5,
            "ratio": None if not largest else 0.1, "escape": [None, along, {"batches": 0}][number],
        }
        grid = np.linspace(smallest - 0.06, largest + 0.06, 1000)
        density = np.exp(-((grid - largest) ** 2) / 2e-4) + np.exp(-((grid - smallest) ** 2) / 2e-4)
        results.save(folder, header, name, summary, {
            "grid": grid, "density": density, "density_sd": np.zeros(1000), **(slices if number else {}),
        })
    drawn = spectra.draw_folder(folder)
    drawn.append(spectra.draw_comparison({"one": folder, "two": folder}, folder / "both"))
    results.save(workdir / "spectra" / "7", header._replace(step=7, epoch=0.7), name, summary, {})
    drawn.append(spectra.draw_ratio(workdir))
    assert len(drawn) == 8
    assert all(path.with_suffix(end).stat().st_size > 5000 for path in drawn for end in (".png", ".pdf", ".svg"))
assert not any(module in sys.modules for module in ("jax", "tensorflow"))
"""
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path), *map(str, smallest)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_results_of_other_settings_are_kept_aside_and_come_back(tmp_path):
    def header(**settings):
        return results.Header(12, 1.0, settings)

    def measure(settings, *names):
        folder, finished = results.open_folder(tmp_path, header(**settings))
        for name in names:
            results.save(folder, header(**settings), name, {"images": 1, **settings}, {"x": np.arange(3)})
        return folder, sorted(finished)

    folder, finished = measure({"probes": 1}, "class-0", "class-1")
    assert (folder, finished) == (tmp_path / "spectra" / "12", [])
    assert measure({"probes": 2}, "class-0") == (folder, [])
    assert results.stored_summary(folder, "class-0")["probes"] == 2
    assert len(list(folder.parent.iterdir())) == 2
    assert measure({"probes": 1}, "class-2") == (folder, ["class-0", "class-1"])
    assert list(results.read_summary(folder)["targets"]) == ["class-0", "class-1", "class-2"]
    assert results.folders(tmp_path) == {12: folder}
    # A file that is damaged, or that the summary does not list, is seen.
    (folder / "class-1.npz").write_bytes(b"PK")
    results._write_summary(folder, header(probes=1), {})
    assert measure({"probes": 1}) == (folder, ["class-0", "class-2"])
    assert list(results.read_summary(folder)["targets"]) == ["class-0", "class-2"]
    assert measure({"probes": 2}) == (folder, ["class-0"])


ONE_DEVICE = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
SHORT_DEMO = """
from saddle_jax.modes import demo

load = demo.config_file.load
demo.config_file.load = lambda name: load(f"{name},epochs=10")
demo.TAIL = (9,)
demo.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "times"),
    [  # the short one takes every part of the way, with a tenth of the epochs and one class of the tail
        pytest.param(("-c", SHORT_DEMO), 1, id="short"),
        pytest.param(("-m", "saddle_jax.modes.demo"), 2, marks=pytest.mark.nightly, id="whole"),
    ],
)
def test_demo_ends_with_table_and_picture(script, times, tmp_path):
    command = [sys.executable, *script, "--seeds", "1", "--probes", "2", "--out", str(tmp_path)]
    for _ in range(times):  # the second time nothing is left to train
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ONE_DEVICE)
        assert result.returncode == 0, result.stderr
        assert "SGD + SAM" in result.stdout
        assert "class_accuracy.png" in result.stdout
        assert "nearer to 0 with SAM in" in result.stdout
    assert (tmp_path / "class_accuracy.png").is_file()
    assert (tmp_path / "spectra.pdf").is_file()
    assert f"Report: {tmp_path / 'report/report.html'}" in result.stdout
    assert "Report on 2 runs" in (tmp_path / "report/report.html").read_text()
    runs = [json.loads((tmp_path / m / "seed-0/run.json").read_text())["starts"][0] for m in ("ce_drw", "ce_drw_sam")]
    assert runs[0]["split_hash"] == runs[1]["split_hash"]  # paired: the same images


@pytest.mark.slow
@pytest.mark.nightly
def test_the_benchmark_script_continues_where_its_budget_ended(tmp_path):
    cell = ["--cell", "cifar10_lt:ce_drw,ratio=100", "--seeds", "2"]
    command = [sys.executable, "benchmarks/reproduce.py", "--smoke", "--runs", str(tmp_path / "runs")]
    command += ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "results.md")]
    kept = ["--", "--config.keep_every=3 steps"]
    for _ in range(2):
        done = subprocess.run([*command, *cell, "--budget", "14s", *kept], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
    done = subprocess.run([*command, *cell, *kept], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    records = [json.loads((tmp_path / f"results/cifar10_lt-100-ce_drw-seed{n}.json").read_text()) for n in range(2)]
    assert [(record["seed"], record["last"]["step"]) for record in records] == [(0, 60), (1, 60)]
    accuracies = [record["best"]["accuracy"] for record in records]
    page = (tmp_path / "results.md").read_text()
    assert "These are smoke tests" in page
    assert "| CE+DRW | published | 75.5 ± 0.2 | 91.6 ± 0.4 | 74.1 ± 0.4 | 61.4 ± 0.9 |  |" in page
    assert f"|  | ours, best epoch | {tables.spread(accuracies)} |" in page
    assert f"|  | difference | {np.mean(accuracies) - 75.5:+.1f} (0.2) |" in page
    assert str(tmp_path) not in page
    assert page.index("## The paper's tables") < page.index("## Ways out of the saddle") < page.index("## Not run yet")
    one = subprocess.run([*command, "--page"], capture_output=True, text=True, cwd=ROOT)  # trains nothing
    assert (one.returncode, (tmp_path / "results.md").read_text()) == (0, page)

    measure = [sys.executable, "benchmarks/saddle_rows.py", *command[3:7], "--", "--config.spectra.steps=4"]
    done = subprocess.run(measure, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "left out: cifar10_lt-100-ce_drw_sam, whose run has not finished" in done.stdout
    assert subprocess.run([*command, "--page"], cwd=ROOT).returncode == 0
    page = (tmp_path / "results.md").read_text()
    (header,) = (line for line in page.splitlines() if line.startswith("| class | images | λmin | λmax | error |"))
    assert header.count("|") == 1 + 5 + 7  # checkpoints
