"""Worker processes: they end with whoever started them, and a run says so if one ends before."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

from saddle_jax.data.augment import augmentation
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.feeds import workers
from saddle_jax.data.order import Order, slots_at
from saddle_jax.errors import SaddleError

VIEW = Augmentation("autoaugment", (32, 32, 3), crop_padding=4)
IMAGES = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8)
LABELS = np.arange(100, dtype=np.int32) % 7

# As a user's script may be: nothing keeps its main part from running again in a process that imports it.
SCRIPT = """
import os, sys, time
import numpy as np
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.feeds import workers
from saddle_jax.data.order import Order, slots_at

view = Augmentation("autoaugment", (32, 32, 3))
order = Order(0, np.zeros(640, np.int32), 64, 1, view)
images = np.zeros((640, 32, 32, 3), np.uint8)
next(workers.training_batches(images, order.labels_N, (slots_at(order, step) for step in range(10**6)), view))
print(*(worker.pid for worker in workers._WORKERS._started), flush=True)
if sys.argv[1] == "wait":
    time.sleep(600)
elif sys.argv[1] == "fail":
    raise KeyboardInterrupt
"""


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def pool():
    pool = workers._Workers(2)
    yield pool
    pool.close()


def question(rows=5):
    draws = augmentation.draw(VIEW, np.random.default_rng(1), len(IMAGES))
    return VIEW, IMAGES[:rows], draws[:rows]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks processes up in /proc")
@pytest.mark.parametrize("end", ["wait", "fail", "return"])
def test_workers_end_with_the_process_that_started_them(end, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = subprocess.Popen(
        [sys.executable, path, end], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path,
        env=environment,
    )  # fmt: skip
    pids = [int(word) for word in script.stdout.readline().split()]
    assert pids
    if end == "wait":
        assert all(map(is_alive, pids))
        script.kill()
    script.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))
    assert script.returncode == {"wait": -signal.SIGKILL, "fail": -signal.SIGINT, "return": 0}[end]


def test_a_worker_is_asked_again_and_answers_no_signal_of_the_run(pool):
    expected = augmentation.apply(*question())
    np.testing.assert_array_equal(pool.answer(*question()), expected)
    (worker,) = pool._started
    worker.send_signal(signal.SIGINT)
    worker.send_signal(signal.SIGTERM)
    np.testing.assert_array_equal(pool.answer(*question()), expected)
    assert pool._started == [worker]


def test_a_worker_that_ends_is_told_and_replaced(pool):
    pool.answer(*question())
    pool._started[0].kill()
    pool._started[0].wait()
    with pytest.raises(SaddleError, match=r"augments images ended with code -9.*Fix: .*data.pipeline=numpy"):
        pool.answer(*question())
    np.testing.assert_array_equal(pool.answer(*question()), augmentation.apply(*question()))


def test_a_feed_may_be_left_and_begun_again():
    order = Order(3, LABELS, 16, 4, VIEW)
    slots = [slots_at(order, step) for step in range(30)]
    feed = workers.training_batches(IMAGES, LABELS, iter(slots), VIEW)
    first = [next(feed) for _ in range(3)]
    feed.close()
    again = list(workers.training_batches(IMAGES, LABELS, slots, VIEW))
    assert len(again) == 30
    for one, other in zip(first, again, strict=False):
        for a, b in zip(one, other, strict=True):
            assert a.tobytes() == b.tobytes()
