"""What we ship lowers for GPUs and TPUs, and `--mode check --target` says what a machine needs."""

import importlib
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT

from saddle_jax.data import sources
from saddle_jax.errors import ConfigError
from saddle_jax.experiment.catalogue import ENTRIES
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import compiled, devices, machines
from saddle_jax.host.compiled import Collective, Needs
from saddle_jax.modes import check_target

pytestmark = pytest.mark.usefixtures("compile_file_quickly")  # memory and collectives are those of the program

FOUR = tuple(jax.devices()[:4])
MACHINE = machines.named("h100:4")


def small(path, argument="", **fields):
    """Return a shipped config with a small network and small images."""
    config = importlib.import_module(f"configs.{path}").get_config(argument)
    pixels = {"data.image_size": 16, "data.eval_resize": 20} if config.data.source == "image_list" else {}
    network = {"model.name": "resnet8", "model.width": 0.25, "batch_size": 32}
    config.update_from_flattened_dict({**network, **pixels, **fields})
    return config


def lowered(config):
    """Return the training program of four accelerators, lowered for GPUs and for TPUs, as text."""
    with devices.build_for(devices.Target("tpu", FOUR, memory=2**34)):
        _, function, arguments = check_target.training(config, sources.outline(config))
        return jax.export.export(function, platforms=("cuda", "tpu"))(*arguments).mlir_module()


WAYS = {
    **{link: ("cifar10_lt", f"ldam_drw_{link}", {}) for link in ENTRIES["optim.name"] if link != "sgd"},
    "sgd on streamed images": ("imagenet_lt", "vs_drw", {"model.dtype": "bfloat16"}),
    "what saves memory": (
        *("imagenet_lt", "ce_drw_sam"),
        {"model.remat": True, "micro_batches": 2, "model.batch_norm": "synchronized"},
    ),
    "four seeds, one step at a time": ("cifar10_lt", "ce", {"num_seeds": 4, "steps_at_once": 1}),
    "each device's own perturbation": ("cifar10_lt", "ce_sam", {"sam.perturbation": "per_device"}),
    "glmc": ("methods.glmc_cifar", "", {}),
    "paco": ("methods.paco_imagenet_lt", "", {}),
    "retrain": ("methods.retrain_cifar", "", {}),
    "adapters": (
        *("pretrained.imagenet_lt", ""),
        {"model.name": "vit_s16", "model.width": 1.0, "model.dtype": "bfloat16", "data.image_size": 32},
    ),
}


OF_A_KIND = ("pgd", "cnc_pgd", "asam", "focal_sam", "le_sam")  # with other links


@pytest.mark.parametrize("way", [pytest.param(w, marks=pytest.mark.nightly if w in OF_A_KIND else ()) for w in WAYS])
def test_every_way_to_train_lowers_for_gpus_and_tpus(way, request):
    if way in ENTRIES["optim.name"] and way != "sam":  # the other ways have the network
        request.getfixturevalue("small_network")
    path, argument, fields = WAYS[way]
    text = lowered(small(path, argument, **fields))
    assert "f64>" not in text, "accelerators compute in float32"
    assert "callback" not in text
    assert "stablehlo.all_reduce" in text
    assert ("stablehlo.all_gather" in text) == (way == "paco"), "its loss alone compares the images of all devices"
    assert ("stablehlo.while" in text) or way not in ("sam", "glmc"), "an epoch is one loop where images are resident"


def test_needs_are_those_of_the_program():
    """XLA compiles for four described CPUs as for accelerators."""
    config = small("cifar10_lt", "ldam_drw_sam")
    with devices.build_for(devices.Target("tpu", FOUR, memory=2**34)):
        feed, function, arguments = check_target.training(config, sources.outline(config))
        needs = compiled.needs_of(function.lower(*arguments).compile())
    assert feed.pipeline == "resident" and feed.longest == 388  # ceil(12,406 / 32)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(arguments[0].params))
    images = 12_406 * 32 * 32 * 3
    assert images < needs.memory < 20 * images
    assert set(needs.collectives) == {"all-reduce"}
    assert 2 * 4 * parameters < needs.collectives["all-reduce"].bytes < 1.2 * 2 * 4 * parameters  # SAM has two passes
    assert not needs.float64 and not needs.callbacks


def test_roofline():
    needs = Needs(0, 989e12, 3352e9 / 2, {"all-reduce": Collective(3, 450_000_000)}, (), False, False)
    found = compiled.estimate(needs, MACHINE, "bfloat16")
    assert (found.products, found.traffic) == (1.0, 0.5)
    assert np.isclose(found.reduce, 1.5e-3)  # twice three quarters of it
    assert np.isclose(found.seconds, 1.0015)


def test_collectives_of_a_program_add_up():
    text = """
      %a = f32[10,3]{1,0} all-reduce(%x), channel_id=1
      %b = (bf16[8]{0}, s32[]) all-reduce-start(%y, %z)
      %c = (f32[2]{0}, f32[8]{0}) all-gather-start(%w)
      %d = f32[8]{0} all-gather-done(%c)
    """

    class Program:
        def as_text(self):
            return text

        def cost_analysis(self):
            return None

        def memory_analysis(self):
            return np.zeros(1, [(f"{part}_size_in_bytes", int) for part in PARTS]).view(np.recarray)[0]

    PARTS = ("argument", "temp", "output", "alias")
    assert compiled.needs_of(Program()).collectives == {
        "all-reduce": Collective(2, 120 + 16 + 4),
        "all-gather": Collective(1, 32),
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5:4x4", "Did you mean v5p or v5e"),
        ("v5e-16", "expected one of"),
        ("v5e:16", "expected a grid such as v5e:4x4"),
        ("h100:2x4", "expected a number of GPUs such as h100:8"),
        ("h100:0", "expected a number"),
    ],
)
def test_unknown_machines_are_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        machines.named(name)


def test_machines_have_their_number_of_devices():
    assert machines.named("v4:2x2x4").count == 16
    assert machines.named("h200:8").count == 8
    for kind, chip in machines.CHIPS.items():
        assert machines.named(chip.example).chip is chip and chip.example.startswith(kind)


def test_a_missing_compiler_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(machines.importlib.util, "find_spec", lambda _: None)
    for name, command in (("v5e:4x4", "libtpu=="), ("h100:8", "jax-cuda13-plugin==")):
        with pytest.raises(ConfigError, match="Fix: pip install") as error:
            machines.devices_of(machines.named(name))
        assert command in str(error.value)


def test_a_step_that_does_not_fit_is_tried_with_what_saves_memory(monkeypatch, capsys):
    """The machine is four of this process's CPUs with little memory. The compiler is the CPU's."""
    monkeypatch.setattr(machines, "named", lambda _: machine)
    monkeypatch.setattr(machines, "devices_of", lambda _: FOUR)
    sizes = {"data.image_size": 32, "data.eval_resize": 40, "data.drop_last": True}
    config = small("imagenet_lt", "ce", batch_size=512, **sizes)
    command = Command("check", "", config, target="h100:4")
    machine = MACHINE._replace(chip=MACHINE.chip._replace(memory=16 * 2**20))
    assert check_target.run(command) == 0
    said = capsys.readouterr().out
    assert "the sizes of imagenet_lt as published" in said
    assert "the step fits with --config.model.dtype=bfloat16" in said
    assert said.count("226 an epoch") == 1 and "an epoch of 226 steps" in said  # 115,846 / 512, rounded down
    assert "a step takes" in said and "roofline" in said and "decode" in said
    machine = MACHINE._replace(chip=MACHINE.chip._replace(memory=2**16))
    config.update_from_flattened_dict(
        {"model.dtype": "bfloat16", "model.remat": True, "batch_size": 4}
    )  # nothing is left to try
    with pytest.raises(ConfigError, match="does not fit on h100:4"):
        check_target.run(command)


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({}, "--config.micro_batches=4"),
        ({"method": "paco"}, "--config.model.remat=True"),
        ({"optim.name": "cc_sam"}, "--config.model.remat=True"),
    ],
)
def test_only_what_the_config_may_have_is_tried(changes, last):
    config = small("imagenet_lt", "ce_sam", batch_size=16, **changes)
    tried = [change for change, _ in check_target._candidates(config, 4)]
    assert tried[:2] == ["", "--config.model.dtype=bfloat16"] and tried[-1].split()[-1] == last


def test_training_on_features_is_what_is_compiled(monkeypatch, capsys):
    monkeypatch.setattr(machines, "named", lambda _: MACHINE)
    monkeypatch.setattr(machines, "devices_of", lambda _: FOUR)
    config = small("pretrained.imagenet_lt", "linear_probe", **{"model.input_size": 0})
    assert check_target.run(Command("check", "", config, target="h100:4")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "training first computes the features of 4 views" in said
    assert "steps in one call" in said and "images stay on the devices" in said


@pytest.mark.nightly
def test_sixty_four_devices_train_and_evaluate_as_one(tmp_path):
    """A device gets one image of a batch, and some get none of the last one."""
    logged, results = [], []
    for count in (1, 64):
        workdir = tmp_path / str(count)
        flags = (
            f"--xla_force_host_platform_device_count={count} --xla_cpu_collective_call_terminate_timeout_seconds=180"
        )
        fields = {"batch_size": 64, "model.batch_norm": "synchronized", "log_every": "1 step", "tensorboard": False}
        fields |= {"duration": "7 steps", "eval.every": "7 steps", "checkpoint_every": "7 steps"}  # one is incomplete
        command = ["main.py", "--config=digits_lt:ldam_drw_sam,smoke", f"--workdir={workdir}"]
        command += [f"--config.{name}={value}" for name, value in fields.items()]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, env={**os.environ, "XLA_FLAGS": flags})
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        names = ("train/loss", "train/perturbed_loss", "train/ascent_norm", "train/update_norm")
        logged.append([[row[name] for name in names] for row in rows if "train/loss" in row])
        results.append(json.loads((workdir / "results.json").read_text())["last"])
    assert len(logged[0]) == len(logged[1]) == 7
    np.testing.assert_allclose(logged[1], logged[0], rtol=1e-4)
    assert results[0]["images"] == results[1]["images"] == 600
    np.testing.assert_allclose(
        results[1]["class_accuracy"], results[0]["class_accuracy"], atol=2
    )  # rounding: one image
