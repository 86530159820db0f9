"""Runs of the code before optim.name, as it left them: continued, evaluated, measured, reported."""

import json
import shutil

import jax
import numpy as np
import pytest
from small_runs import train, unpack_old_runs

from configs import default
from saddle_jax import config as config_lib
from saddle_jax import programs
from saddle_jax.command_line import Command
from saddle_jax.data import sources
from saddle_jax.errors import CheckpointError
from saddle_jax.optim.link import find_link_state
from saddle_jax.report import program as report_program
from saddle_jax.spectra import results
from saddle_jax.train import checkpoint, manifest, metrics, migration
from saddle_jax.train.program import make_program

LINKS = {"sgd": "sgd", "sam": "sam", "asam_per_device": "asam"}


@pytest.fixture
def old(tmp_path):
    return unpack_old_runs(tmp_path / "old")


def config_of(run):
    return config_lib.from_json((run / "config.json").read_bytes(), default.get_config())


def like(config):
    program = make_program(config, sources.load(config.data))
    return jax.eval_shape(lambda: program.init(0))


def end(run):
    return checkpoint.restore(checkpoint.find(run / "checkpoints", "12"), like(config_of(run)))


@pytest.mark.parametrize("name", LINKS)
def test_a_state_of_format_1_fills_that_of_this_one(old, name):
    config = config_of(old[name])
    assert config.optim.name == LINKS[name]
    found = checkpoint.find(old[name] / "checkpoints", "8")
    assert (found.format_version, found.step) == (1, 8)
    state = checkpoint.restore(found, like(config))
    assert state.step == 8
    link = find_link_state(state.opt_state)
    assert (link is None) == (name == "sgd")
    if link is not None:
        assert (link.count, link.evaluations) == (8, 2)
        assert link.ascent_norm > 0
        # What SAM keeps of its last pass is what the step took over: not another leaf of the same shape.
        jax.tree.map(np.testing.assert_array_equal, link.aux.batch_stats, state.batch_stats)
    momentum, schedule = state.opt_state[-2:]
    assert schedule.count == 8
    assert jax.tree.structure(momentum.trace) == jax.tree.structure(state.params)
    # The mean since step 6, two steps before.
    assert found.running_mean["count"] == 2
    assert found.running_mean["sums"]["gradient_evaluations"] == (2 if name == "sgd" else 4)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "sam" else pytest.mark.nightly) for n in LINKS])
def test_an_old_run_goes_on_and_ends_as_it_would_have(old, name, tmp_path):
    """To the bit, where the processor is that of the old run; another one may round otherwise."""
    run = shutil.copytree(old[name], tmp_path / "run")
    shutil.rmtree(run / "checkpoints/12")
    for path in ("results.json", "eval/12-test.json", "eval/12-test-predictions.npz"):
        (run / path).unlink()
    train(config_of(run), run)
    assert checkpoint.find(run / "checkpoints").format_version == 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), end(run), end(old[name]))
    ours, theirs = ([r for r in metrics.read(path) if "train/loss" in r] for path in (run, old[name]))
    assert [r["step"] for r in ours] == [3, 6, 9, 12]
    for one, other in zip(ours, theirs, strict=True):
        for field in ("train/loss", "train/perturbed_loss", "train/ascent_norm", "train/accuracy", "lr", "rho"):
            assert one[field] == pytest.approx(other[field], rel=1e-4)
    evaluations = [record.get("train/gradient_evaluations") for record in ours]
    assert evaluations == [None, None, *[1 if name == "sgd" else 2] * 2]


def test_an_old_run_is_evaluated_and_reported(old, tmp_path, capsys):
    before = json.loads((old["sam"] / "results.json").read_text())["last"]["accuracy"]
    assert programs.evaluate_run(Command("eval", str(old["sam"]), config_of(old["sam"]))) == 0
    assert f"latest (step 12): accuracy {before:.2f}" in capsys.readouterr().out
    page = report_program.write(list(old.values()), tmp_path / "out")
    assert all(f"ce_drw{name} " in page.with_name("report.md").read_text() for name in ("", "_sam", "_asam"))


@pytest.mark.nightly
@pytest.mark.parametrize("name", LINKS)
def test_spectra_of_an_old_run(old, name):
    config = config_of(old[name])
    config.spectra.update(classes="0,9", steps=4, probes=1, escape_batches=2)
    assert programs.spectra(Command("spectra", str(old[name]), config)) == 0
    found = results.read_summary(old[name] / "spectra/12")["targets"]
    assert set(found) == {"class-0", "class-9"}


def test_another_optimizers_state_of_format_1_is_refused_by_the_names_of_now(old):
    config = config_of(old["sgd"])
    with pytest.raises(CheckpointError, match="belongs to another model, optimizer") as error:
        checkpoint.restore(checkpoint.find(old["sam"] / "checkpoints"), like(config))
    assert "ascent_norm: found float32[], expected nothing" in str(error.value)
    assert "trace" not in str(error.value)


def test_the_format_of_a_later_version_is_refused(old):
    path = old["sgd"] / "checkpoints/12"
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, "format_version": 3}))
    manifest.write(path)
    with pytest.raises(CheckpointError, match="12 has format 3; this version reads 1 to 2"):
        checkpoint.find(old["sgd"] / "checkpoints")


@pytest.mark.parametrize("none", [{"count": 0, "sums": {}}, {}])  # just logged; imported
def test_sums_of_no_step_stay_none(none):
    assert migration.running_mean_of_format_1(none) == none
