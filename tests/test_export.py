"""Exports: files that others read, each equal to the network in the run; and nothing is lost that was there before."""

import errno
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys

import flax.linen as nn
import golden_imagenet
import jax
import jax.export
import jpeg_folder
import numpy as np
import pytest
import safetensors.numpy
from conftest import AS_SHIPPED
from golden_resnet import HEADS, load, variables
from PIL import Image, ImageOps
from small_runs import small_config

from configs import default
from saddle_jax import __main__
from saddle_jax.data import sources
from saddle_jax.errors import ConfigError
from saddle_jax.experiment import catalogue, command_line, flag_checks
from saddle_jax.host import devices
from saddle_jax.inference import export, inputs, to_safetensors, to_stablehlo
from saddle_jax.inference.classifier import Classifier
from saddle_jax.inference.function import function_of
from saddle_jax.models.base import from_flax
from saddle_jax.models.networks import make_resnet
from saddle_jax.training import checkpoint
from saddle_jax.training.directory import open_run
from saddle_jax.training.program import make_program
from saddle_jax.weights import names

CLASSES, SIZE, MEAN, STD = ("wren", "owl", "kiwi", "emu"), 12, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
# What a machine does that has the export, jax, NumPy, and Pillow.
ELSEWHERE = """
import sys; sys.modules["saddle_jax"] = None  # no import finds it
import pathlib, runpy, jax.export, numpy as np
folder, pixels, found, *images = sys.argv[1:]
model = jax.export.deserialize(bytearray(pathlib.Path(folder, "model.stablehlo").read_bytes()))
pixels_NHWK = np.load(pixels)
one, all_N = model.call(pixels_NHWK[:1]), model.call(pixels_NHWK)
np.savez(found, one=one["logits"], **all_N)
sys.argv[1:] = images
runpy.run_path(str(pathlib.Path(folder, "predict.py")), run_name="__main__")
"""


class Flat(nn.Module):
    """A network of the user's own: pixels as features. Its code asks for the number of images."""

    @nn.compact
    def __call__(self, images_BHWK, train):
        return nn.Dropout(0.5, deterministic=not train)(images_BHWK.reshape(len(images_BHWK), -1))


flat = catalogue.Network("pixels as they are", lambda *_: from_flax(Flat(), nn.Dense(len(CLASSES))))


def make_run(workdir, config):
    """Make a run of random weights and statistics, which nobody trained."""
    draw = np.random.default_rng(0)
    splits = sources.load(config)

    def drawn(path, leaf):
        if path[-1].key in ("scale", "var"):
            return draw.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        return draw.normal(0, 1 if leaf.ndim == 1 else 0.1, leaf.shape).astype(leaf.dtype)

    like = jax.eval_shape(lambda: make_program(config, splits).init(0))
    of_network = jax.tree_util.tree_map_with_path(drawn, (like.params, like.model_state))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    state = state._replace(params=of_network[0], model_state=of_network[1])
    checkpoint.save(workdir / "checkpoints", state, None, {})
    open_run(workdir, config, splits, ["test"])


def make_birds(workdir, recipe, **changes):
    """Make a run on small images, and return them."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 50, (30, SIZE, SIZE, 3), np.uint8) + draw.integers(0, 206, (30, 1, 1, 3), np.uint8)
    labels = np.repeat(np.arange(4), (14, 8, 6, 2))
    arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.savez(workdir.parent / "birds.npz", **arrays, class_names=CLASSES)
    fields = {"source": "arrays", "path": str(workdir.parent / "birds.npz"), "profile": "as_is"}
    fields = {f"data__{name}": value for name, value in {**fields, "mean": MEAN, "std": STD}.items()}
    changes = {"model__name": "resnet8", "model__width": 1.0, "eval__rank_bounds": (), **fields, **changes}
    make_run(workdir, small_config(recipe, **changes))
    return images


def run(workdir, out, *formats):
    given = {"out": str(out), "formats": formats, "import_code": True}
    return __main__.main([command_line.Command("export", str(workdir), default.get_config(), **given)])


def computed(classifier, images):
    with devices.exact_arithmetic("float32"):
        return jax.device_get(jax.jit(function_of(classifier))(images))


def torch_logits(twin, tensors, images):
    """Return the logits of a PyTorch network with these weights, each of which it must ask for."""
    torch = pytest.importorskip("torch")
    twin.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()}, strict=True)
    images = torch.tensor(((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():
        return twin.eval()(images).numpy()


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """A run with a cosine head, and its images."""
    workdir = tmp_path_factory.mktemp("export") / "birds"
    return workdir, make_birds(workdir, "ldam_drw")


@pytest.fixture(scope="module")
def classifier(birds):
    return Classifier(birds[0])


@pytest.fixture(scope="module")
def expected(birds, classifier):
    return computed(classifier, birds[1])


@pytest.fixture(scope="module")
def exported(birds):
    out = birds[0].parent / "model"
    assert run(birds[0], out) == 0
    return out


def test_the_function_is_what_evaluation_computes(birds, classifier, expected):
    """On one device and with XLA's kernels, as with the run's own program."""
    np.testing.assert_allclose(expected["logits"], classifier.logits(birds[1]), atol=1e-4)
    assert np.ptp(expected["logits"], axis=0).min() > 0.1  # images differ
    np.testing.assert_allclose(expected["probabilities"].sum(1), 1, rtol=1e-6)


def test_stablehlo_needs_only_jax(birds, classifier, expected, exported, tmp_path):
    photo = tmp_path / "a photo.png"
    jpeg_folder.photograph(3, 40, 30).save(photo)
    # Its second IDAT has another name, for which Pillow raises a SyntaxError.
    bad = tmp_path / os.fsdecode(b"b\xe9.png")
    Image.effect_noise((400, 400), 100).save(bad)
    bad.write_bytes(b"ID\0T".join(bad.read_bytes().rsplit(b"IDAT", 1)))
    np.save(tmp_path / "pixels.npy", birds[1])
    arguments = [exported, tmp_path / "pixels.npy", tmp_path / "found.npz", photo, bad, photo]
    command = [sys.executable, "-I", "-c", ELSEWHERE, *map(str, arguments)]
    environment = {**os.environ, **AS_SHIPPED}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert result.returncode == 3, result.stderr
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-5)
        np.testing.assert_allclose(found["probabilities"], expected["probabilities"], atol=1e-6)
        np.testing.assert_allclose(found["one"], expected["logits"][:1], atol=1e-5)

    predicted = classifier.predict(inputs.find([str(photo)]))
    line = f"{photo}: {predicted.classes[0]} {predicted.probabilities_NC.max():.3f}"
    lines = result.stdout.splitlines()
    assert lines == [line, lines[1], line]
    assert lines[1].startswith(rf"{tmp_path}/b\udce9.png: not read: broken PNG file")


def test_stablehlo_is_for_every_platform(exported):
    model = jax.export.deserialize(bytearray((exported / "model.stablehlo").read_bytes()))
    assert model.platforms == ("cpu", "cuda", "tpu")
    assert model.in_avals[0].dtype == np.uint8 and str(model.in_avals[0].shape) == f"(batch, {SIZE}, {SIZE}, 3)"
    targets = set(re.findall(r"custom_call @(\w+)", model.mlir_module()))
    assert targets <= {"shape_assertion"}  # of jax.export itself, for the free number of images


def test_pytorch_loads_the_weights(birds, exported, expected):
    """The reference's network takes every name, and asks for no other."""
    pytest.importorskip("torch")
    from benchmarks import torch_imagenet, torch_resnet

    twin = torch_resnet.ResNet(blocks=1, classes=4)
    twin.linear = torch_imagenet.Normed(64, 4)
    tensors = safetensors.numpy.load((exported / "model.safetensors").read_bytes())
    cosines = torch_logits(twin, tensors, birds[1])
    factor = json.loads((exported / "model.json").read_text())["probabilities"]["factor"]
    assert factor == 30
    np.testing.assert_allclose(factor * cosines, expected["logits"], atol=1e-4)


def test_the_adjustment_of_logits_is_in_the_bias(birds, tmp_path):
    make_birds(tmp_path / "run", "ce_drw")
    adjusted = Classifier(tmp_path / "run", adjust="logit:1.5")
    tensors = safetensors.numpy.load(to_safetensors.serialize(adjusted))
    shares_C = np.array([14, 8, 6, 2]) / 30
    bias_C = adjusted.params["linear"]["bias"] - 1.5 * np.log(shares_C)
    np.testing.assert_allclose(tensors["linear.bias"], bias_C, atol=1e-6)
    with pytest.raises(ConfigError, match="a cosine head has no bias"):
        to_safetensors.serialize(Classifier(birds[0], adjust="logit:1.5"))
    pytest.importorskip("torch")
    from benchmarks.torch_resnet import ResNet

    logits = torch_logits(ResNet(blocks=1, classes=4), tensors, birds[1])
    np.testing.assert_allclose(logits, computed(adjusted, birds[1])["logits"], atol=1e-4)


def test_a_network_of_the_users_own_has_no_names_in_pytorch(tmp_path, monkeypatch, capsys):
    networks = catalogue.ENTRIES["model.name"]
    monkeypatch.setitem(catalogue.ENTRIES, "model.name", dict(networks))  # it joins only these
    images = make_birds(tmp_path / "run", "ce_drw", model__name="test_export:flat")
    assert run(tmp_path / "run", tmp_path / "model") == 0
    told = "left out model.safetensors: there is no PyTorch network like that of model.name=test_export:flat"
    assert told in capsys.readouterr().out
    assert (tmp_path / "model/model.onnx").is_file() == bool(importlib.util.find_spec("jax2onnx"))
    assert run(tmp_path / "run", tmp_path / "other", "safetensors") == 2
    assert not (tmp_path / "other").exists()
    model = jax.export.deserialize(bytearray((tmp_path / "model/model.stablehlo").read_bytes()))
    expected = computed(Classifier(tmp_path / "run", trusted=True), images)
    np.testing.assert_allclose(model.call(images)["logits"], expected["logits"], rtol=1e-5, atol=1e-5)


def test_onnxruntime_computes_the_same(birds, exported, expected):
    pytest.importorskip("jax2onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    for some in (slice(1), slice(None)):
        logits, probabilities = session.run(["logits", "probabilities"], {"images": birds[1][some]})
        np.testing.assert_allclose(logits, expected["logits"][some], atol=1e-4)
        np.testing.assert_allclose(probabilities, expected["probabilities"][some], atol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == list(CLASSES)


def test_the_export_says_what_it_is(exported):
    about = json.loads((exported / "model.json").read_text())
    assert about["class_names"] == list(CLASSES) and about["labels"] == [0, 1, 2, 3]
    assert about["run"]["name"] == "birds" and about["run"]["step"] == 0
    assert about["preparation"] == {
        "exif_orientation": True,
        "cover_and_center_crop": [SIZE] * 2,
        "resampling": "bilinear",
    }
    files = {path.name: path.read_bytes() for path in exported.iterdir() if path.name != "model.json"}
    assert about["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert sorted(exported.parent.iterdir()) == sorted(
        exported.parent / name for name in ("birds", "birds.npz", "model")
    )


@pytest.mark.parametrize("head", HEADS)
def test_names_are_those_of_the_references_checkpoint(head, x64):
    store = load(head)
    theirs = {name.removeprefix("init/"): store[name] for name in store if name.startswith("init/")}
    params, model_state, _ = variables(store, head)
    ours = names.to_torch(params, model_state, head="linear", steps=0)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, np.asarray(theirs[name], value.dtype), name)


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_torchvisions_networks_load_the_weights(name):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_imagenet import ResNet

    config = default.get_config()
    config.model.name = name
    drawn = golden_imagenet.variables(make_resnet(None, config.model, golden_imagenet.CLASSES, None), "linear")
    tensors = names.to_torch(*drawn, head="fc", steps=7)
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    with torch.device("meta"):  # without initial weights, which take time
        twin = ResNet(**golden_imagenet.FORWARD[name], classes=golden_imagenet.CLASSES).eval()
    twin.load_state_dict(state, strict=True, assign=True)
    images = golden_imagenet.images_and_labels()[0][:1]
    with torch.no_grad(), np.load(golden_imagenet.FILE) as store:  # whose logits ours are, in test_resnet.py
        logits = twin(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
        np.testing.assert_allclose(logits, store[f"{name}/logits"][:1], rtol=1e-9, atol=1e-9)


def test_scripts_prepare_images_as_evaluation_does(tmp_path):
    """Photographs up to one level of 255, as resampling rounds differently; small images exactly."""
    lists = jpeg_folder.write_folder(tmp_path / "photos")
    config = jpeg_folder.list_config(tmp_path / "photos", model__name="resnet10", model__width=0.125)
    make_run(tmp_path / "run", config)
    classifier = Classifier(tmp_path / "run")
    path = str(tmp_path / "photos" / lists["test"][0].rpartition(" ")[0])
    script = to_stablehlo.preparation(config.data, classifier.image_shape, encoded=classifier.is_encoded)
    there = {"path": path, "Image": Image, "ImageOps": ImageOps, "np": np}
    exec("\n".join(script), there)
    np.testing.assert_array_equal(
        there["pixels"][0], jpeg_folder.centered(Image.open(path), 32, config.data.eval_resize)
    )
    logits = computed(classifier, there["pixels"])["logits"]
    np.testing.assert_allclose(logits, classifier.predict(inputs.find([path])).logits_NC, rtol=0.02, atol=0.02)

    script = to_stablehlo.preparation(config.data, (20, 24, 1), encoded=False)
    exec("\n".join(script), there)
    gray, _ = inputs.prepare(inputs.find([path]), (20, 24, 1), turn=True)
    np.testing.assert_array_equal(there["pixels"], gray)


def test_nothing_that_is_there_is_lost(birds, tmp_path, monkeypatch, capsys):
    """Without jax2onnx, as where it is not installed: the rest is written, unless ONNX was asked for by name."""
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    out = tmp_path / "model"
    out.mkdir()
    assert run(birds[0], out, "safetensors") == 0
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "model.json"}
    assert run(birds[0], out) == 0
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "model.stablehlo", "predict.py", "model.json"}
    told = capsys.readouterr().out
    assert 'note   left out model.onnx: jax2onnx is not installed. Fix: pip install "saddle_jax[onnx]"' in told
    assert "note   replaced the export of step 0 that was there" in told
    assert run(birds[0], tmp_path / "missing" / "model", "safetensors", "onnx") == 2
    told = capsys.readouterr().err
    assert "2 problems" in told and "jax2onnx is not installed" in told and "found no folder" in told

    def refused(expected, code=2):
        stored = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert run(birds[0], out, "safetensors") == code
        assert expected in capsys.readouterr().err
        assert stored == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full_disk(path, content):
        if path.name == "model.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(export, "write_atomically", full_disk)
        refused("can't be written", code=4)
        patch.chdir(out)
        refused("is the current folder or a mount point")
    (out / "notes.txt").touch()
    refused("holds an export and notes.txt, which would be lost. Fix: another --out")
    (out / "notes.txt").unlink()
    about = json.loads((out / "model.json").read_text())
    about["run"]["seed"] = 1
    (out / "model.json").write_text(json.dumps(about))
    refused("holds an export of another run, 'birds'. Fix: another --out, or delete it")
    (out / "model.json").unlink()
    refused("which is not an export. Fix: another --out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert tuple(export.FORMATS) == flag_checks.EXPORT_FORMATS
