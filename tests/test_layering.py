"""Arrows run downwards only, and each library has its one place."""

import ast
import functools
import graphlib

import pytest
from conftest import ROOT

# A room may import those before it, and a module what is before it in its room; a floor is a room or a part of one.
FLOORS = [
    "errors",
    "host",
    "experiment",
    "configs",
    "longtail",
    "scores",
    "posthoc",
    "losses",
    "schedules",
    "data",
    "models",
    "methods",
    "optim",
    "spectra.results",
    "spectra.targets",
    "training.metrics",
    "report",
    "tracking",
    "spectra",
    "weights",
    "training",
    "inference",
    "modes",
    "api",
    "__main__",
]


def floor_of(name):
    """Return the number of the module's floor: that of the longest name which it starts with."""
    names = [name.rsplit(".", n)[0] for n in range(name.count(".") + 1)]
    return next((FLOORS.index(one) for one in names if one in FLOORS), None)


def modules():
    for path in [*ROOT.glob("saddle_jax/**/*.py"), *ROOT.glob("configs/**/*.py")]:
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("saddle_jax."), path


KNOWN = {name for name, _ in modules()}


@functools.cache
def imports(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def users_of(*libraries):
    return {name for name, path in modules() if any(found.split(".")[0] in libraries for found in imports(path))}


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_imports_point_downwards(name, path):
    assert floor_of(name) is not None, f"{name} has no place yet: add its room to FLOORS"
    for found in imports(path):
        found = found.removeprefix("saddle_jax.")
        if found in KNOWN:
            assert floor_of(found) <= floor_of(name), f"{name} imports {found}"


def test_spectra_know_nothing_of_training():
    for name, path in modules():
        if name.startswith("spectra."):
            assert not any(found.startswith("saddle_jax.training") for found in imports(path)), name


def test_no_module_needs_itself():
    graph = {name: {found.removeprefix("saddle_jax.") for found in imports(path)} & KNOWN for name, path in modules()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises where there is a cycle


def test_each_library_has_its_place():
    encoded = {"data.feeds.decoding", "data.feeds.streaming", "data.feeds.tfdata"}
    assert users_of("tensorflow", "tensorflow_datasets") == {
        *encoded, "data.sources.tfds_arrays", "data.sources.to_array_record", "tracking.to_tensorboard",
    }  # fmt: skip
    assert users_of("orbax") == {"training.stored_arrays"}
    assert users_of("clu") == {"tracking.to_tensorboard", "modes.check"}
    assert users_of("wandb") == {"tracking.to_wandb"}
    assert users_of("mlflow") == {"tracking.to_mlflow"}
    assert not users_of("pickle", "torch")  # files of strangers run no code here
    assert users_of("PIL") == {
        "data.augment.augmentation", "data.augment.autoaugment", "data.augment.randaugment", "data.augment.simclr",
        "report.style", "data.formats", "data.pixels", "inference.inputs",
    }  # fmt: skip
    assert users_of("rich") == {"host.console"}
    assert users_of("safetensors") == {"inference.to_safetensors", "weights.weight_file"}
    assert users_of("jax2onnx", "onnx", "onnxruntime") == {"inference.to_onnx"}
    assert users_of("matplotlib") == {f"report.{name}" for name in ("plots", "slices", "spectra", "style", "views")}
    assert "matplotlib.pyplot" not in {found for _, path in modules() for found in imports(path)}  # it is the user's


def test_what_runs_before_jax_does_not_import_it():
    assert not users_of("jax", "flax", "optax") & {
        "errors", "longtail", "scores", "posthoc", "host.files", "host.faults", "modes.report",
        "spectra.results", "spectra.targets",
        "training.metrics", "weights.pickles", "weights.archive", "weights.class_map",
        *({n for n in KNOWN if n.startswith(("configs.", "data.", "experiment.", "report.", "tracking."))}
          - {"data.feeds.resident"}),
    }  # fmt: skip


def test_collectives_and_pmap_live_in_one_file():
    words = ("pmap(", "psum(", "pmean(", "shard_map(", "all_gather(")
    users = {name for name, path in modules() for word in words if f".{word}" in path.read_text()}
    assert users == {"host.devices"}


def test_training_names_no_method():
    for name, path in modules():
        if name.split(".")[0] in ("training", "spectra", "optim") or name == "methods.choose":
            text = path.read_text().lower()
            assert not any(word in text for word in ("methods.plain", "glmc", "paco")), name


def test_files_stay_readable():
    for name, path in modules():
        assert len(path.read_text().splitlines()) <= 300, name
        assert path.name not in ("utils.py", "common.py", "helpers.py")
    assert len((ROOT / "main.py").read_text().splitlines()) <= 100
