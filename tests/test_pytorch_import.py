"""From PyTorch's checkpoints to runs: names, layouts, logits, class order; what the run is good for and what not."""

import json
import pathlib
import shutil

import golden_imagenet
import jax
import jpeg_folder
import numpy as np
import pytest
import torch_files
from conftest import GOLDEN
from golden_resnet import HEADS, batch, config_of, load, method_of
from small_runs import small_config, train
from test_command_line import main as command_main

from saddle_jax import __main__ as main
from saddle_jax.data import sources
from saddle_jax.data.images import Batch
from saddle_jax.errors import CheckpointError, ConfigError
from saddle_jax.experiment import command_line
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats
from saddle_jax.methods.plain import make as make_plain
from saddle_jax.models.networks import make_resnet
from saddle_jax.modes import import_torch as program
from saddle_jax.training import checkpoint
from saddle_jax.training.program import make_program
from saddle_jax.weights import archive, class_map, names

pytestmark = pytest.mark.usefixtures("compile_file_quickly")

NAMES = tuple("abcd")
ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
NETWORK = {
    "model__name": "resnet8", "model__width": 0.125, "duration": "3 epochs", "eval__every": "1 epochs",
    "checkpoint_every": "3 epochs",
}  # fmt: skip


def config_for(head, **changes):
    return small_config("ldam_drw" if head == "normed" else "ce_drw", **{**NETWORK, **changes})


def run(mode, workdir, config, head="linear", **fields):
    """Run a mode in this process; return the exit code."""
    if mode == "import":
        fields = {"torch_file": str(GOLDEN / f"resnet8_{head}.pth.tar"), **fields}
    return main.main([command_line.Command(mode, str(workdir), config, mode == "import", **fields)])


def restored(workdir, config):
    like = jax.eval_shape(lambda: make_program(config, sources.load(config)).init(0))
    return jax.device_get(checkpoint.restore(checkpoint.find(pathlib.Path(workdir, "checkpoints")), like))


def method_for(config):
    return make_plain(config, ClassStats(np.full(10, 5), ()), (8, 8, 1), None)


def logits_of(config, params, model_state):
    """Return the logits for the images whose logits PyTorch left."""
    with np.load(GOLDEN / "resnet8.npz") as store:
        images = store["images"]
    size = len(images)
    everything = Batch(images, np.zeros(size, np.int32), np.ones(size, bool), np.arange(size), np.zeros((size, 3)))
    with devices.exact_arithmetic("float32"):
        return np.asarray(jax.jit(method_for(config).predict)(params, model_state, everything))


def torch_logits(head):
    with np.load(GOLDEN / "resnet8.npz") as store:
        return store[head]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("imported") / "run"
    assert run("import", workdir, config_for("linear")) == 0
    return workdir


def test_an_imported_run_has_the_logits_of_torch(imported):
    config = config_for("linear")
    state = restored(imported, config)
    logits = logits_of(config, state.params, state.model_state)
    np.testing.assert_allclose(logits, torch_logits("linear"), atol=1e-5)
    assert int(state.step) == 2 * make_program(config, sources.load(config)).schedules.steps_per_epoch
    origin = json.loads((imported / "imported.json").read_text())
    assert (origin["arch"], origin["epoch"], len(origin["sha256"])) == ("resnet8", 2, 64)


@pytest.mark.parametrize("head", HEADS)
def test_the_order_of_the_outputs(head):
    """One file is the zip layout under DataParallel, the other the legacy layout; both have an optimizer's state."""
    tensors = archive.read(GOLDEN / f"resnet8_{head}.pth.tar").tensors
    config = config_for(head)
    like = jax.eval_shape(method_for(config).init, jax.random.key(0))
    for order in (None, np.array(ORDER)):
        trees = names.convert(tensors, like.params, like.model_state, order)
        expected = torch_logits(head) if order is None else torch_logits(head)[:, order]
        np.testing.assert_allclose(logits_of(config, *trees), expected, atol=1e-5)


@pytest.mark.nightly  # test_the_order_of_the_outputs has it for a smaller network, with files of PyTorch
@pytest.mark.parametrize("head", HEADS)
def test_the_references_weights_give_its_logits(head, tmp_path, x64):
    store = load(head)
    path = tmp_path / "ckpt.pth.tar"
    tensors = {f"module.{key.removeprefix('init/')}": store[key] for key in store if key.startswith("init/")}
    path.write_bytes(torch_files.of_arrays(tensors))
    method = method_of(config_of(head), store)
    like = jax.eval_shape(method.init, jax.random.key(0))
    params, model_state = names.convert(archive.read(path).tensors, like.params, like.model_state)
    logits = jax.jit(method.predict)(params, model_state, batch(store, 0))
    np.testing.assert_allclose(logits, store["logits_eval"], rtol=1e-8, atol=1e-10)


def test_eval_and_spectra_take_an_imported_run(imported, capsys):
    config = config_for("linear")
    config.spectra.update(steps=4, probes=1, escape_batches=0, classes="9")
    assert run("eval", imported, config) == 0
    step = checkpoint.find(imported / "checkpoints").step
    shown = capsys.readouterr().out
    assert "  latest  classes" in shown and f" {step:,}\n" in shown and "best on" not in shown
    assert json.loads((imported / "eval" / f"{step}-test.json").read_text())["images"] == 600
    assert run("spectra", imported, config) == 0
    assert json.loads((imported / "spectra" / str(step) / "summary.json").read_text())["targets"].keys() == {"class-9"}


def test_training_does_not_continue_an_imported_run(imported):
    before = sorted(imported.rglob("*"))
    with pytest.raises(ConfigError, match="without the optimizer's state"):
        train(config_for("linear"), imported)
    assert run("train", imported, config_for("linear")) == 2
    assert [path for path in sorted(imported.rglob("*")) if path not in before] in ([], [imported / ".lock"])


def test_nothing_that_is_there_is_written_over(imported, tmp_path, capsys):
    stored = {path: path.read_bytes() for path in imported.rglob("*") if path.is_file()}
    assert run("import", imported, config_for("linear")) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert stored == {path: path.read_bytes() for path in imported.rglob("*") if path.is_file()}
    seeds = tmp_path / "seeds"
    shutil.copytree(imported, seeds / "seed-0")
    assert run("import", seeds, config_for("linear")) == 2

    cut_short = tmp_path / "cut_short"  # config.json is what makes a run
    shutil.copytree(imported, cut_short)
    (cut_short / "config.json").unlink()
    assert run("import", cut_short, config_for("linear")) == 0
    (cut_short / "config.json").unlink()
    (cut_short / "imported.json").unlink()  # then these are the checkpoints of something else
    assert run("import", cut_short, config_for("linear")) == 2


def test_the_class_map_puts_outputs_in_the_order_of_the_classes(tmp_path, capsys):
    path, config = tmp_path / "map.txt", config_for("linear")
    path.write_text("\n".join(map(str, ORDER)))
    assert run("import", tmp_path / "run", config, class_map=str(path)) == 0
    shown = capsys.readouterr().out
    assert "'resnet8'" in shown and "tensors of 'state_dict', epoch 2" in shown
    assert "note   removed the prefix 'module.' from 44 names" in shown
    state = restored(tmp_path / "run", config)
    logits = logits_of(config, state.params, state.model_state)
    np.testing.assert_allclose(logits, torch_logits("linear")[:, ORDER], atol=1e-5)
    assert json.loads((tmp_path / "run" / "imported.json").read_text())["outputs"] == ORDER


def test_where_classes_are_renumbered_the_class_map_is_needed(tmp_path, capsys):
    jpeg_folder.write_folder(tmp_path / "photos")
    config = jpeg_folder.list_config(tmp_path / "photos", model__name="resnet10", model__width=0.125)
    network = make_resnet(None, config.model, 5, None)
    leaves = jax.tree_util.tree_leaves_with_path(golden_imagenet.variables(network, "linear"))
    arrays = {
        golden_imagenet.torch_name(path): np.float32(np.ascontiguousarray(golden_imagenet.to_torch(leaf, True)))
        for path, leaf in leaves
    }
    (tmp_path / "net.pth").write_bytes(torch_files.of_arrays(arrays))
    fields = {"head": None, "torch_file": str(tmp_path / "net.pth")}
    assert run("import", tmp_path / "run", config, **fields) == 2
    assert "needs --class_map" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

    outputs = [2, 0, 3, 4, 1]  # of the set's labels 0 to 4
    (tmp_path / "map.json").write_text(json.dumps(outputs))
    assert run("import", tmp_path / "run", config, class_map=str(tmp_path / "map.json"), **fields) == 0
    for label, row in zip(
        jpeg_folder.BY_SIZE, restored(tmp_path / "run", config).params["linear"]["kernel"].T, strict=True
    ):
        np.testing.assert_array_equal(row, arrays["fc.weight"][outputs[label]])
    assert run("eval", tmp_path / "run", config) == 0


@pytest.mark.parametrize(
    "text", ["2\n0\n3\n1\n", "2 0 3 1", "[2, 0, 3, 1]", ' {"b": 0, "a": 2, "d": 1, "c": 3}']
)  # fmt: skip
def test_forms_of_a_class_map(tmp_path, text):
    path = tmp_path / "map"
    path.write_text(text)
    assert class_map.read(path, NAMES, np.arange(4)).tolist() == [2, 0, 3, 1]
    by_name = text.lstrip().startswith("{")
    assert class_map.read(path, NAMES, np.array([1, 3, 0, 2])).tolist() == ([2, 0, 3, 1] if by_name else [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("0\n1\n2\n", ["found 3 outputs, expected 4, one per class of the data set"]),
        ("0\n1\n1\n4\n", ["classes 1 and 2 both have output 1", "class 3: found '4', expected an output from 0 to 3"]),
        ("0\n1\ntwo\n-3\n", ["class 2: found 'two'", "class 3: found '-3'"]),
        ("[0, 1, 2.0, true]", ["class 2: found 2.0", "class 3: found True"]),
        ('{"a": 0, "b": 1, "c": 2, "e": 3}', ["'e' is not a class of the data set", "class 'd' is missing"]),
        ("[0, 1", ["can't be read"]),
    ],
)
def test_what_is_no_class_map(tmp_path, text, problems):
    path = tmp_path / "map"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        class_map.read(path, NAMES, np.arange(4))
    assert len(refused.value.problems) == len(problems)
    for problem, found in zip(problems, refused.value.problems, strict=True):
        assert problem in found


def test_all_that_does_not_fit_is_told_at_once(tmp_path, capsys):
    assert run("import", tmp_path / "run", config_for("normed"), "linear") == 4
    told = capsys.readouterr().err
    assert "resnet8_linear.pth.tar', 'state_dict': the file" in told
    assert "(1 problems)" in told and "here --config.model.head=linear" in told
    assert "'module.linear.bias': the network has no 'params/linear/bias'" in told
    assert (
        run("import", tmp_path / "run", config_for("linear", model__width=0.25, model__name="resnet20"), "normed") == 4
    )
    told = capsys.readouterr().err
    for part in (
        "here --config.model.head=normed",
        "'layer3.0.conv2.weight' as params/layer3_0/conv2/kernel: found (3, 3, 8, 8), expected (3, 3, 16, 16)",
        "params/layer2_2/bn1/scale: the file has no tensor for it",
        "batch_stats/layer2_2/bn1/var: the file has no tensor for it",
        "params/linear/bias: the file has no tensor for it",
    ):
        assert part in told
    assert not (tmp_path / "run").exists()


def test_a_malicious_file_ends_with_code_4_and_leaves_no_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    path.write_bytes(
        torch_files.archive(torch_files.whole(torch_files.call("os.system", torch_files.value("touch x"))))
    )
    assert run("import", tmp_path / "run", config_for("linear"), torch_file=str(path)) == 4
    assert "asks for 'os.system'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_that_are_no_weights():
    params = {"linear": {"kernel": np.zeros((3, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    model_state = {"batch_stats": {"bn1": {"mean": np.zeros(3, np.float32)}}}
    good = {"fc.weight": np.ones((2, 3)), "fc.bias": np.ones(2, np.float16), "bn1.running_mean": np.ones(3)}
    found, _ = names.convert({**good, "bn1.num_batches_tracked": np.array(3)}, params, model_state)
    assert found["linear"]["kernel"].dtype == found["linear"]["bias"].dtype == np.float32
    for bad, problem in (
        ({"fc.weight": np.ones((2, 3), np.int64)}, "found int64, expected floating-point numbers"),
        ({"fc.weight": np.full((2, 3), 1e300)}, "holds a number that is not finite"),
        ({"linear.bias": np.ones(2)}, "'linear.bias' and 'fc.bias' both map to params/linear/bias"),
    ):
        with pytest.raises(CheckpointError, match="1 problems") as refused:
            names.convert(good | bad, params, model_state)
        assert problem in str(refused.value)
    for prefix in ("model.", "module.model.", "net._orig_mod."):
        again, _ = names.convert({prefix + name: value for name, value in good.items()}, params, model_state)
        np.testing.assert_array_equal(again["linear"]["kernel"], found["linear"]["kernel"])
    with pytest.raises(CheckpointError, match=r"all 3 names begin with 'model.encoder.', expected .* Fix: save the"):
        names.convert({f"model.encoder.{name}": value for name, value in good.items()}, params, model_state)


@pytest.mark.parametrize(
    ("name", "dimensions", "path"),
    [
        ("conv1.weight", 4, "params/conv1/kernel"),
        ("module.bn1.weight", 1, "params/bn1/scale"),
        ("module.module.bn1.bias", 1, "params/bn1/bias"),
        ("layer4.2.conv3.weight", 4, "params/layer4_2/conv3/kernel"),
        ("module.layer3.22.bn3.running_var", 1, "batch_stats/layer3_22/bn3/var"),
        ("layer1.0.downsample.0.weight", 4, "params/layer1_0/downsample_conv/kernel"),
        ("layer1.0.downsample.1.weight", 1, "params/layer1_0/downsample_bn/scale"),
        ("layer1.0.downsample.1.running_mean", 1, "batch_stats/layer1_0/downsample_bn/mean"),
        ("module.fc.weight", 2, "params/linear/kernel"),
        ("fc.bias", 1, "params/linear/bias"),
        ("linear.weight", 2, "params/linear/kernel"),
        ("backbone.layer1.0.bn1.weight", 1, "params/layer1_0/bn1/scale"),
    ],
)
def test_names(name, dimensions, path):
    assert "/".join(names.our_path(name, dimensions)) == path


@pytest.mark.parametrize(("epoch", "step"), [(None, 150), (0, 0), (1, 40), (3, 120), (4, 150)])
def test_the_step_of_an_epoch(epoch, step):
    schedules = make_program(config := small_config(), sources.load(config)).schedules
    assert program._step(epoch, schedules._replace(total_steps=150, steps_per_epoch=40)) == step


def test_a_file_of_more_epochs_than_the_run(tmp_path, capsys):
    assert run("import", tmp_path / "run", config_for("linear", duration="1 epochs")) == 2
    assert "Fix: --config.duration='2 epochs'" in capsys.readouterr().err
    assert run("import", tmp_path / "run", config_for("linear", num_seeds=3)) == 2
    assert "found num_seeds=3, expected 1: a file is one run" in capsys.readouterr().err


def test_flags_of_import(tmp_path):
    result = command_main("--mode=import", "--class_map=none", cwd=tmp_path)
    assert result.returncode == 2
    assert "found no file 'none'" in result.stderr
    assert "found no --torch_file, --config, --workdir" in result.stderr
    result = command_main("--mode=eval", "--torch_file=any", cwd=tmp_path)
    assert "--torch_file belongs to --mode import, found --mode eval" in result.stderr
