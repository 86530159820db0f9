"""What of a run is measured, and what fits into memory."""

import numpy as np
import pytest

from configs import digits_lt
from saddle_jax.errors import ConfigError
from saddle_jax.longtail import ClassStats
from saddle_jax.spectra import plan
from saddle_jax.spectra.targets import find_targets

STATS = ClassStats(np.array([500, 90, 30, 5, 0]), ("cat", "dog", "tail", "7", "fox"), (0, 1, 2, 4, 3))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("auto", ["class-0", "class-1", "class-2", "class-4"]),
        ("each", ["class-0", "class-1", "class-2", "class-4"]),
        ("4,dog , 0", ["class-4", "class-1", "class-0"]),
        ("7", ["class-4"]),  # a name
        ("2", ["class-2"]),  # a number
        ("tail,whole,many,tail", ["tail", "whole", "many"]),
    ],
)
def test_what_the_user_names_is_measured(text, names):
    assert [target.name for target in find_targets(text, STATS, (1, 3))] == names


def test_groups_and_many_classes():
    tail, whole = find_targets("tail,whole", STATS, (1, 3))
    assert tail.classes.tolist() == [3, 4]
    assert whole.classes.tolist() == [0, 1, 2, 3]
    many = ClassStats(np.arange(1000, 0, -1), tuple(map(str, range(1000))))
    chosen = [int(target.classes[0]) for target in find_targets("auto", many, ())]
    assert chosen == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]


@pytest.mark.faults("D4")
def test_all_wrong_names_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        find_targets("0,5,dgo,3,-1", STATS, (1, 3))
    assert len(caught.value.problems) == 4
    text = str(caught.value)
    assert "'5' is neither the name of a class or a group nor a class's number (0 to 4)" in text
    assert "Did you mean dog" in text
    assert "class 3 (fox) has no training image" in text


def spectra_config(**changes):
    config = digits_lt.get_config("ce,smoke").spectra
    config.update(changes)
    return config


def make_plan(config, device_gib=8, host_gib=32, num_parameters=25_557_032, on_cpu=False, chunks=10, linear_map=2**31):
    return plan.make_plan(
        config,
        plan.Memory(int(device_gib * 2**30), int(host_gib * 2**30)),
        num_parameters=num_parameters,
        num_chunks=chunks,
        linear_map_bytes=linear_map,
        on_cpu=on_cpu,
    )


def test_a_resnet50_on_a_16_gib_card_has_a_plan():
    """Half of the card is spoken for; 100 steps take 9.5 GiB, so the basis goes to the host, or nowhere."""
    chosen = make_plan(spectra_config())
    assert (chosen.basis, chosen.probes_at_once, chosen.linearize) == ("host", 2, False)  # 2 x 112 rows in 32 GiB
    assert "100 steps x 25,557,032 parameters x 4 bytes = 9.52 GiB per probe; 64 steps fit into 8.00 GiB" in chosen.line
    assert make_plan(spectra_config(), host_gib=4).basis == "none"
    assert make_plan(spectra_config(steps=30)).basis == "device"
    assert make_plan(spectra_config(), device_gib=40).basis == "device"
    with pytest.raises(
        ConfigError, match="at most 8.00 GiB, where 64 steps would fit. Fix: --config.spectra.basis=auto"
    ):
        make_plan(spectra_config(basis="device"))
    with pytest.raises(ConfigError, match="basis='host'.*Fix: --config.spectra.steps=32"):
        make_plan(spectra_config(basis="host"), host_gib=4)
    with pytest.raises(ConfigError, match="linearize='always'"):
        make_plan(spectra_config(linearize="always", steps=10))
    with pytest.raises(ConfigError, match="20 probes at once.*Fix: --config.spectra.probes_at_once=1"):
        make_plan(spectra_config(probes=20, probes_at_once=20), host_gib=4)
    with pytest.raises(ConfigError, match="at most 0.10 MiB.*Fix: more --config.spectra.memory_gib"):
        make_plan(spectra_config(), device_gib=1e-4, host_gib=0)


def test_small_networks_are_linearized_and_probed_together_on_accelerators():
    small = {"num_parameters": 464_154, "chunks": 1, "linear_map": 400 * 2**20, "device_gib": 60}
    chosen = make_plan(spectra_config(), **small)
    assert (chosen.basis, chosen.probes_at_once, chosen.linearize) == ("device", 10, True)
    chosen = make_plan(spectra_config(), on_cpu=True, **small)
    assert (chosen.probes_at_once, chosen.linearize) == (1, True)
    assert make_plan(spectra_config(probes_at_once=4), on_cpu=True, **small).probes_at_once == 4
    assert not make_plan(spectra_config(linearize="never"), **small).linearize
    assert plan.chunk_size(spectra_config(), (32, 32, 3), 2, on_cpu=True) == 16
    assert plan.chunk_size(spectra_config(), (224, 224, 3), 2, on_cpu=False) == 20
    assert plan.chunk_size(spectra_config(chunk_size=5), (32, 32, 3), 4, on_cpu=True) == 8
