"""Arrows run downwards only, and each library has its one place."""

import ast

import pytest
from conftest import ROOT

# A module may import those before it. Later rooms (more methods) join here.
ORDER = [
    *("errors", "faults", "files", "config", "field_values", "validation", "longtail", "schedules", "losses"),
    *("host.xla", "devices", "processes"),
    *(
        "configs.links",
        "configs.recipes",
        "configs.default",
        "configs.cifar10_lt",
        "configs.cifar100_lt",
        "configs.digits_lt",
    ),
    *("configs.imagenet_lt", "configs.inat18"),
    *("configs.methods.glmc_cifar", "configs.methods.glmc_imagenet_lt", "configs.methods.glmc_inat18"),
    *("configs.methods.paco_cifar100", "configs.methods.paco_imagenet_lt", "configs.methods.paco_inat18"),
    "configs.methods.retrain_cifar",
    *("flag_checks", "command_line"),
    *("data.backends", "data.photometry", "data.geometry", "data.operations", "data.policies", "data.augmentation"),
    *("data.order", "data.encoded", "data.images", "data.tensors"),
    *("data.decoding", "data.streaming", "data.pipeline"),
    *("data.feeder", "data.resident", "data.class_map", "data.image_list", "data.tfds_source", "data.tfds_records"),
    "data.to_array_record",
    *("data.sources", "data.inspection"),
    *("models.activation", "models.kernels", "models.normalise", "models.batchnorm", "models.heads", "models.pooling"),
    *("models.resnet_cifar", "models.resnet", "models.networks"),
    *("methods.base", "methods.plain", "methods.glmc", "methods.paco", "methods.retrain", "methods.choose"),
    *("optim.link", "optim.sam", "optim.escape", "optim.longtail_sam", "optim.cc_sam", "optim.chain"),
    *("train.runtime", "train.watchdog", "train.state", "train.gradient", "train.steps", "train.program"),
    *("train.evaluate", "train.manifest", "train.migration", "train.checkpoint"),
    *("train.metrics", "train.lock", "train.directory"),
    *("train.origin", "train.feed", "train.run", "train.loop"),
    *("spectra.lanczos", "spectra.density", "spectra.checks", "spectra.hvp", "spectra.plan", "spectra.chunks"),
    *(
        "spectra.targets",
        "spectra.results",
        "spectra.classwise",
        "spectra.escape",
        "spectra.record",
        "spectra.spectrometer",
    ),
    *(
        "report.runs",
        "report.rows",
        "report.tables",
        "report.cost",
        "report.curves",
        "report.confusion",
        "report.plots",
        "report.views",
    ),
    *("report.spectra", "report.page", "report.provenance", "report.content", "report.curvature", "report.program"),
    *("pytorch.pickles", "pytorch.archive", "pytorch.class_map", "pytorch.names", "pytorch.program"),
    *("observer", "seeds", "sheet", "programs", "demo"),
]
RANK = {name: rank for rank, name in enumerate(ORDER)}


def modules():
    for path in [*ROOT.glob("saddle_jax/**/*.py"), *ROOT.glob("configs/**/*.py")]:
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("saddle_jax."), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def users_of(*libraries):
    return {name for name, path in modules() if any(found.split(".")[0] in libraries for found in imports(path))}


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_imports_point_downwards(name, path):
    assert name in RANK, f"{name} has no place yet: add it to ORDER"
    for found in imports(path):
        found = found.removeprefix("saddle_jax.")
        if found in RANK:
            assert RANK[found] < RANK[name], f"{name} imports {found}"


def test_each_library_has_its_place():
    encoded = {"data.tensors", "data.decoding", "data.streaming", "data.pipeline"}
    assert users_of("tensorflow", "tensorflow_datasets") == {
        *encoded, "data.tfds_source", "data.to_array_record", "train.metrics",
    }  # fmt: skip
    assert users_of("orbax") == {"train.checkpoint"}
    assert users_of("clu") == {"train.metrics", "programs"}
    assert not users_of("pickle", "torch")  # files of strangers run no code here
    assert users_of("matplotlib") == {"report.plots", "report.spectra", "report.views"}


def test_what_runs_before_jax_does_not_import_it():
    assert not users_of("jax", "flax", "optax") & {
        "errors", "config", "field_values", "validation", "longtail", "flag_checks", "command_line",
        "spectra.results", "spectra.targets",
        "train.metrics", "pytorch.pickles", "pytorch.archive", "pytorch.class_map",
        *({n for n in RANK if n.startswith(("configs.", "data.", "report."))} - {"data.resident"}),
    }  # fmt: skip


def test_collectives_and_pmap_live_in_one_file():
    words = ("pmap(", "psum(", "pmean(", "shard_map(", "all_gather(")
    users = {name for name, path in modules() for word in words if f".{word}" in path.read_text()}
    assert users == {"devices"}


def test_training_names_no_method():
    for name, path in modules():
        if name.split(".")[0] in ("train", "spectra", "optim") or name in ("programs", "seeds", "methods.choose"):
            text = path.read_text().lower()
            assert not any(word in text for word in ("methods.plain", "glmc", "paco")), name


def test_files_stay_readable():
    for name, path in modules():
        assert len(path.read_text().splitlines()) <= 300, name
        assert path.name not in ("utils.py", "common.py", "helpers.py")
    assert len((ROOT / "main.py").read_text().splitlines()) <= 100
