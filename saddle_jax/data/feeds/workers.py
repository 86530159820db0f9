"""Batches of images in memory, augmented in worker processes, because Pillow's policies need more than one core.

A worker is this module, run as a program. It knows nothing of JAX, of the run, or of earlier requests. Requests come
through its standard input, and answers leave through its standard output. So a worker ends when its input does, however
its parent process ends, and a script that trains needs no `__main__` guard.
"""

from __future__ import annotations

import atexit
import collections
import io
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

import saddle_jax
from saddle_jax.data.augment import augmentation
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.images import Batch, batch_of
from saddle_jax.data.order import Slots
from saddle_jax.errors import SaddleError

_MOST = 16  # workers; about as many as this process can keep busy with images of 32 pixels
_PART = 32  # images per request
_AHEAD = 2  # requests per worker that are made before they are needed


def training_batches(
    images_NHWK: np.ndarray, labels_N: np.ndarray, slots: Iterable[Slots], view: Augmentation
) -> Iterator[Batch]:
    """Yield the batches that `slots` describe, while the next ones are being made.

    Raises:
      SaddleError: a worker has ended.
    """
    waiting: collections.deque[tuple[Slots, list[Future]]] = collections.deque()
    slots = iter(slots)
    try:
        while True:
            while sum(len(parts) for _, parts in waiting) < _AHEAD * _WORKERS.number or len(waiting) < 2:
                if (one := next(slots, None)) is None:
                    break
                rows = [slice(start, start + _PART) for start in range(0, len(one.ids_B), _PART)]
                waiting.append((one, [_WORKERS.ask(view, images_NHWK[one.ids_B[r]], one.draws_BR[r]) for r in rows]))
            if not waiting:
                return
            one, parts = waiting.popleft()
            yield batch_of(np.concatenate([part.result() for part in parts]), labels_N, one)
    finally:
        for _, parts in waiting:
            for part in parts:
                part.cancel()


def apply(view: Augmentation, images_BHWK: np.ndarray, draws_BR: np.ndarray) -> np.ndarray:
    """Do the same as `augmentation.apply`, in a worker.

    Raises:
      SaddleError: a worker has ended.
    """
    return _WORKERS.answer(view, images_BHWK, draws_BR)


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS lacks it


class _Workers:
    """Worker processes, started on demand and shared by all callers."""

    def __init__(self, number: int):
        self.number = number
        self._threads = ThreadPoolExecutor(number, "augmentation")
        self._idle: queue.LifoQueue[subprocess.Popen | None] = (
            queue.LifoQueue()
        )  # None is a worker that is not started yet
        for _ in range(number):
            self._idle.put(None)
        self._started: list[subprocess.Popen] = []

    def ask(self, *question: Any) -> Future:
        """Return a future for the answer."""
        return self._threads.submit(self.answer, *question)

    def answer(self, view: Augmentation, images_BHWK: np.ndarray, draws_BR: np.ndarray) -> np.ndarray:
        """Return the answer of the next idle worker. A worker that ends is replaced."""
        worker, idle = self._idle.get(), None
        try:
            worker = worker or self._start()
            assert worker.stdin and worker.stdout
            _send(worker.stdin, view, images_BHWK, draws_BR)
            answer = np.empty(images_BHWK.shape, np.uint8)
            if worker.stdout.readinto(answer.data) == answer.nbytes:
                idle = worker
                return answer
        except BrokenPipeError:
            pass
        finally:
            self._idle.put(idle)
        raise SaddleError(
            f"a process that augments images ended with code {worker.wait()}. Its message is above; if there is "
            "none, it was killed, for example for lack of memory. Fix: more memory, or, for images in memory, "
            "--config.data.pipeline=numpy; the same command continues"
        )

    def _start(self) -> subprocess.Popen:
        root = str(pathlib.Path(saddle_jax.__file__).parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._started.append(worker)
        return worker

    def close(self) -> None:
        """End the workers."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._started:
            worker.kill()
            worker.communicate()


_WORKERS = _Workers(min(_cores(), _MOST))
atexit.register(_WORKERS.close)


def _send(pipe: io.BufferedIOBase, view: Augmentation, images_BHWK: np.ndarray, draws_BR: np.ndarray) -> None:
    draws_BR = np.ascontiguousarray(draws_BR, np.int32)
    pipe.write(json.dumps([view, images_BHWK.shape, draws_BR.shape]).encode() + b"\n")
    pipe.write(np.ascontiguousarray(images_BHWK).data)
    pipe.write(draws_BR.data)
    pipe.flush()


def _receive(pipe: io.BufferedIOBase, shape: list[int], dtype: type) -> np.ndarray:
    array = np.empty(shape, dtype)
    if pipe.readinto(array.data) != array.nbytes:
        raise EOFError
    return array


def _serve(questions: io.BufferedIOBase, answers: io.BufferedIOBase) -> None:
    """Answer requests until the input ends."""
    while line := questions.readline():
        fields, images_shape, draws_shape = json.loads(line)
        view = Augmentation(*(tuple(field) if isinstance(field, list) else field for field in fields))
        try:
            images_BHWK = _receive(questions, images_shape, np.uint8)
            draws_BR = _receive(questions, draws_shape, np.int32)
        except EOFError:
            return
        answers.write(np.ascontiguousarray(augmentation.apply(view, images_BHWK, draws_BR)).data)
        answers.flush()


if __name__ == "__main__":
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, signal.SIG_IGN)  # the run handles them, and may need its workers to do so
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # when nobody waits for the answer anymore, end silently
    _answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep what a library prints out of the answers
    _serve(sys.stdin.buffer, _answers)
