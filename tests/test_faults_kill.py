"""Killed at any moment, by SIGKILL, SIGTERM or SIGINT, the same command ends bit for bit as the unbroken run.

K1 to K5 of docs/reliability.md. `make test` runs a few of these trials, `make test-faults` all.
"""

import functools
import signal

import numpy as np
import pytest
from fault_harness import STEPS, make_bench, saved_step, trials
from small_runs import METHODS

POINTS = {  # (where it is killed, how often an unbroken run passes there)
    "before the temporary folder": ("save:begin", 20),
    "while arrays are written": ("save:arrays", 20),
    "before the manifest": ("save:manifest", 20),
    "after the manifest, before the commit": ("save:commit", 20),
    "after the commit": ("save:committed", 20),
    "while an old one is deleted": ("save:deleting", 17),
    "while metrics are written": ("metrics", 208),
    "in an evaluation": ("eval", 24),
    "while a batch is made": ("feed", 200),
    "between a step and its save": ("step", 200),
}


@trials("K1", 30, small=1)
def test_killed_at_random_moments(bench, tmp_path, trial, record_property):
    check_kills(bench, tmp_path, [1, trial], record_property)


def check_kills(bench, folder, seed, record_property):
    """Kill a job one to three times, each time at any moment of what is left."""
    random, job = np.random.default_rng(seed), bench.job(folder)
    kills, newest = 0, 0
    for _ in range(random.integers(1, 4)):
        left = bench.seconds * (1 - newest / STEPS)
        code = job.interrupt(job.start(), (signal.SIGKILL, random.uniform(0, left)))
        kills += code == -signal.SIGKILL
        newest = job.require_sound()
    record_property("faults", kills)
    job.require_as(bench.unbroken)


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    """The jobs of methods with a state of their own, each compiled and once run unbroken when it is asked for."""
    return functools.cache(lambda method: make_bench(tmp_path_factory.mktemp(method), method))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "plain"])
@trials("K5", 5)
def test_methods_killed_at_random_moments(benches, method, tmp_path, trial, record_property):
    """As K1: queue, momentum encoder, mixtures, the second sampler and the weights of another run."""
    check_kills(benches(method), tmp_path, [5, list(METHODS).index(method), trial], record_property)


@pytest.mark.parametrize("point", POINTS)
@trials("K2", 3)
def test_killed_at_every_point(bench, tmp_path, point, trial, record_property):
    check_point(bench, tmp_path, point, trial, record_property)


@pytest.mark.parametrize(
    "point",
    [
        "while arrays are written",
        pytest.param("after the manifest, before the commit", marks=pytest.mark.nightly),
    ],
)
@trials("K2", 1, small=1)
def test_killed_at_a_few_points(bench, tmp_path, point, trial, record_property):
    check_point(bench, tmp_path, point, 3, record_property)


def check_point(bench, folder, point, trial, record_property):
    name, passings = POINTS[point]
    random, job = np.random.default_rng([2, list(POINTS).index(point), trial]), bench.job(folder)
    first, later = 1, int(random.integers(2, passings))
    passing = [first, later, passings - 1, later][trial]
    delay = f"+{random.uniform(0.001, 0.08):.3f}" if name == "save:arrays" else ""
    code = job.start(faults=f"{name}=SIGKILL@{passing}{delay}").wait(300)
    job.history.append(f"ended with {code}")
    assert code == -signal.SIGKILL, job.told()
    newest = job.require_sound()
    assert newest > 0 or passing == 1 or not name.startswith("save"), job.told()
    record_property("faults", 1)
    job.require_as(bench.unbroken)


def require_saved(job, code):
    """Require that a run which was asked to stop has saved its last step, and says so; or had finished."""
    output = job.log.read_text()
    if "done   " in output:  # a signal that comes while Python shuts down ends it in the ordinary way
        assert code in (0, -signal.SIGTERM, -signal.SIGINT), job.told()
        return
    assert code == 75, job.told()
    if "before a step was taken" not in output:
        newest = job.require_sound()
        assert newest == saved_step(output) == job.steps_recorded() > 0, job.told()


@trials("K3", 15)  # in make test, test_spectra_runs.py and test_encoded_runs.py send such signals
def test_asked_to_stop_at_random_moments(bench, tmp_path, trial, record_property):
    """SIGTERM ten times, SIGINT five times."""
    random, job = np.random.default_rng([3, trial]), bench.job(tmp_path)
    kind = signal.SIGTERM if trial < 10 else signal.SIGINT
    code = job.interrupt(job.start(), (kind, random.uniform(0, 0.9 * bench.seconds)))
    require_saved(job, code)
    record_property("faults", int(code == 75))
    job.require_as(bench.unbroken)


@trials("K3", 5)
def test_asked_to_stop_during_a_save(bench, tmp_path, trial, record_property):
    random, job = np.random.default_rng([4, trial]), bench.job(tmp_path)
    point = ("save:begin", "save:arrays", "save:manifest", "save:commit", "save:committed")[trial]
    code = job.start(faults=f"{point}=SIGTERM@{random.integers(1, 18)}").wait(300)
    assert code == 75, job.told()
    require_saved(job, code)
    record_property("faults", 1)
    job.require_as(bench.unbroken)


@trials("K3", 5)
def test_asked_twice(bench, tmp_path, trial, record_property):
    """The second signal ends the process at once; what is on disk is sound."""
    random, job = np.random.default_rng([5, trial]), bench.job(tmp_path)
    second = (signal.SIGTERM, random.uniform(0, 0.1))
    code = job.interrupt(job.start(), (signal.SIGTERM, random.uniform(0.1, 0.9) * bench.seconds), second)
    assert code in (0, 75, -signal.SIGTERM), job.told()
    job.require_sound()
    record_property("faults", int(code != 0))
    job.require_as(bench.unbroken)


@trials("K4", 10)
def test_killed_in_the_grace_period(bench, tmp_path, trial, record_property):
    random, job = np.random.default_rng([6, trial]), bench.job(tmp_path)
    grace = (signal.SIGKILL, random.uniform(0.5, 2))
    code = job.interrupt(job.start(), (signal.SIGTERM, random.uniform(0, 0.9) * bench.seconds), grace)
    assert code in (0, 75, -signal.SIGKILL), job.told()
    if code == 75:
        require_saved(job, code)
    job.require_sound()
    record_property("faults", int(code != 0))
    job.require_as(bench.unbroken)
