"""Checkpoints: what is damaged is never used and never lost, and there is another to go on from."""

import json
import pathlib
import re
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from small_runs import program_of, small_config, train

from saddle_jax import longtail
from saddle_jax.data import sources
from saddle_jax.errors import CheckpointError
from saddle_jax.optim.link import LinkState
from saddle_jax.training import checkpoint
from saddle_jax.training.program import make_program

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

FAULTS = {
    "emptied": lambda _: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "a bit flipped": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    ),
    "deleted": None,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train(small_config(), workdir)
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


def like(config):
    return jax.eval_shape(lambda: program_of(config, sources.load(config)).init(0))


def restored(found):
    return checkpoint.restore(found, like(small_config()))


def damage(path, fault):
    """Damage a file; return whether it is another than before."""
    if FAULTS[fault] is None:
        path.unlink()
        return True
    content = path.read_bytes()
    damaged = FAULTS[fault](content) if content else content
    path.write_bytes(damaged)
    return damaged != content


def faults_of(folder):
    """Return every fault of every file of a checkpoint."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [(name, fault) for name in files for fault in FAULTS]


def test_the_newest_two_are_kept_and_the_best_of_each(trained, tmp_path):
    folder = tmp_path / "checkpoints"
    state = restored(checkpoint.find(trained / "checkpoints"))
    for step, best in ((10, 10), (20, 10), (30, 10), (40, 40), (50, 40), (60, 40)):
        chosen = checkpoint.Best(best, 50.0, "test")
        checkpoint.save(folder, state._replace(step=np.asarray(step, np.int32)), chosen, {})
        expected = {10: [10], 20: [10, 20], 30: [10, 20, 30], 40: [10, 30, 40], 50: [40, 50], 60: [40, 50, 60]}
        assert checkpoint.available(folder) == expected[step]
    assert not list(folder.glob(".tmp*"))


def test_what_is_kept_for_good_stays(tmp_path):
    config = small_config(checkpoint_every="4 steps", keep_every="3 steps")
    train(config, tmp_path)
    assert checkpoint.available(tmp_path / "checkpoints") == [3, 6, 9, 12]


@pytest.mark.faults("C1")
def test_every_damage_is_found_set_aside_and_the_one_before_is_used(copy, record_property):
    folder = copy / "checkpoints"
    sound, before = shutil.copytree(folder / "12", copy / "sound"), checkpoint.find(folder, "8")
    moved = 0
    for name, fault in faults_of(sound):
        if not damage(folder / "12" / name, fault):
            continue
        with pytest.raises(CheckpointError, match="12 is damaged: .*goes on from the checkpoint before it, or .*8"):
            checkpoint.find(folder)
        assert (folder / "12").is_dir()  # to look is to change nothing
        found, notes = checkpoint.resume(folder)
        moved += 1
        aside = folder / "quarantine" / f"12-{moved}"
        assert found == before
        assert len(notes) == 1
        for part in ("DAMAGED", str(folder / "12"), str(aside), "going on from step 8"):
            assert part in notes[0], (name, fault)
        if name.name != "MANIFEST.json":  # a flipped digest there accuses the file that it belongs to
            assert str(name) in notes[0], fault
        assert aside.is_dir()
        shutil.copytree(sound, folder / "12")
    assert moved > 3 * len(faults_of(sound)) / 4  # an empty file can only be deleted
    record_property("faults", moved)
    assert checkpoint.resume(folder) == (checkpoint.find(folder, "12"), [])


@pytest.mark.faults("C1")
def test_a_run_goes_on_from_the_checkpoint_before_and_ends_as_it_would_have(copy, trained):
    (copy / "checkpoints/12/state/manifest.ocdbt").write_bytes(b"")
    shutil.rmtree(copy / "eval")
    assert train(small_config(), copy) == json.loads((trained / "results.json").read_text())
    ours, theirs = (restored(checkpoint.find(run / "checkpoints", "12")) for run in (copy, trained))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (copy / "checkpoints/quarantine/12-1").is_dir()


@pytest.mark.faults("C2")
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "deleted"])
def test_if_all_are_damaged_nothing_is_begun_anew(copy, fault):
    for meta in copy.glob("checkpoints/*/meta.json"):
        damage(meta, fault)
    before = sorted(copy.rglob("*"))
    for _ in range(2):  # the second command finds what the first found
        with pytest.raises(CheckpointError, match="every checkpoint of this run is damaged") as error:
            train(small_config(), copy)
        assert error.value.exit_code == 4
        assert all(str(step) in str(error.value) for step in checkpoint.available(copy / "checkpoints"))
    assert sorted(copy.rglob("*")) == before


@pytest.mark.faults("C2")
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(copy):
    shutil.rmtree(copy / "checkpoints")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="found no checkpoint, but this run has saved some"):
            train(small_config(), copy)
        (copy / "results.json").unlink(missing_ok=True)  # an unfinished run's, then
    (copy / "run.json").write_text(json.dumps({"starts": []}))  # it was stopped before its first checkpoint
    assert train(small_config(), copy)["last"]["step"] == 12


@pytest.mark.faults("C1")
def test_training_does_not_need_the_best_checkpoint(copy):
    folder = copy / "checkpoints"
    state, best = restored(checkpoint.find(folder)), checkpoint.Best(8, 99.0, "test")
    checkpoint.save(folder, state._replace(step=np.asarray(14, np.int32)), best, {})
    checkpoint.save(folder, state._replace(step=np.asarray(16, np.int32)), best, {})
    assert checkpoint.available(folder) == [8, 14, 16]
    damage(folder / "8/meta.json", "a bit flipped")
    with pytest.raises(CheckpointError, match="8 is damaged"):
        checkpoint.find(folder, "best")
    for expected in ("DAMAGED: .*meta.json.*quarantine/8-1; it was the best so far", "8, the best .*, is gone"):
        found, (note,) = checkpoint.resume(folder)
        assert found.step == 16
        assert re.search(expected, note)
    with pytest.raises(CheckpointError, match="8: found no checkpoint there: it was damaged and is now .*8-1"):
        checkpoint.find(folder, "best")


def retyped(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float16), tree)


@pytest.mark.faults("C3")
@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"model__width": 0.5}, "params.conv1.kernel: found float32[3, 3, 1, 4], expected float32[3, 3, 1, 8]"),
        ({"model__head": "normed"}, "params.linear.bias: found float32[10], expected nothing"),
        ({"model__name": "resnet20"}, "params.layer1_1.conv1.kernel: found nothing, expected float32[3, 3, 4, 4]"),
        ({"optim__name": "sgd"}, "opt_state"),
        ({"classes": 12}, "params.linear.bias: found float32[10], expected float32[12]"),
        ({"dtype": "float16"}, "params.conv1.kernel: found float32[3, 3, 1, 4], expected float16[3, 3, 1, 4]"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_model_is_refused_leaf_by_leaf(trained, changes, difference):
    found = checkpoint.find(trained / "checkpoints")
    config, splits = small_config(), sources.load(small_config())
    if "classes" in changes:
        more = longtail.ClassStats(np.append(splits.stats.counts_C, [1, 1]), tuple("0123456789ab"))
        expected = jax.eval_shape(lambda: make_program(config, splits._replace(stats=more)).init(0))
    elif "dtype" in changes:
        expected = like(config)._replace(params=retyped(like(config).params))
    else:
        expected = like(small_config(**changes))
    with pytest.raises(CheckpointError, match="belongs to another model") as error:
        checkpoint.restore(found, expected)
    assert difference in str(error.value)
    assert error.value.exit_code == 4


class PassBefore(NamedTuple):
    """What a pass left in version 0.1.0 before methods with views; its third field was empty."""

    loss: Any
    model_state: Any
    method_state: Any
    metrics: Any


def test_a_checkpoint_with_empty_nodes_of_an_earlier_version_is_read(trained, tmp_path):
    state = restored(checkpoint.find(trained / "checkpoints"))

    def older(node):
        before = PassBefore(node.aux.loss, node.aux.model_state, (), node.aux.metrics)
        return node._replace(aux=before)

    def is_sam(node):
        return isinstance(node, LinkState)

    opt_state = jax.tree.map(lambda x: older(x) if is_sam(x) else x, state.opt_state, is_leaf=is_sam)
    checkpoint.save(tmp_path / "checkpoints", state._replace(opt_state=opt_state), None, {})
    found = restored(checkpoint.find(tmp_path / "checkpoints"))
    jax.tree.map(np.testing.assert_array_equal, found, state)


def test_a_checkpoint_that_does_not_exist(trained, tmp_path):
    with pytest.raises(CheckpointError, match="expected latest, best or one of the steps"):
        checkpoint.find(trained / "checkpoints", "7")
    with pytest.raises(CheckpointError, match="found no checkpoint"):
        checkpoint.find(tmp_path / "none")


def test_an_interrupted_save_is_no_checkpoint(copy):
    folder = copy / "checkpoints"
    found = checkpoint.find(folder)
    (folder / ".tmp-16").mkdir()
    assert checkpoint.resume(folder) == (found, [])
    checkpoint.save(folder, restored(found), found.best, found.running_mean)
    assert not (folder / ".tmp-16").exists()


def test_a_save_that_fails_is_an_error_and_leaves_what_was_there(copy, monkeypatch):
    folder = copy / "checkpoints"
    found = checkpoint.find(folder)
    state = restored(found)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    def full(*_, **__):
        raise ValueError("OUT_OF_RANGE: Failed writing")  # what tensorstore says of a full disk

    monkeypatch.setattr("orbax.checkpoint.Checkpointer.save", full)
    with pytest.raises(CheckpointError, match=f"12 can't be written .*Failed writing.*needs {size:,} bytes"):
        checkpoint.save(folder, state, found.best, found.running_mean)
    assert checkpoint.find(folder) == found
