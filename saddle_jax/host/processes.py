"""Coordination of several processes that train one run, each with its own devices: start, agreement, and exit.

Only the first process reads and writes the run's directory, so the others do not have to see it. All processes take the
same steps in the same order. Anything that could differ between them is compared or passed on here.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed  # for a barrier that may fail; shutdown's own kills a process that times out
from jax.experimental import multihost_utils

from saddle_jax import errors
from saddle_jax.errors import ConfigError, Preempted, SaddleError
from saddle_jax.host import output

_HEARTBEAT_SECONDS = 30  # the others end this long after a process dies; JAX's default of 100 wastes a pod's time
# By exit code, how many seconds an ending process waits for the others to end the same way.
_PATIENCE = {0: 300, Preempted.exit_code: 300}
_IMPATIENCE = 10  # seconds after an error: either all have it, or the others can't go on without this process


def start(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes. JAX reads missing arguments from SLURM, Open MPI, Cloud TPU, or Kubernetes.

    JAX ends this process if the others do not come within five minutes.

    Raises:
      ConfigError: neither the flags nor the environment say which processes take part.
    """
    who = f"process {process_id} of {num_processes} at {coordinator}" if coordinator else "as the environment says"
    print(f"join   {who}: waiting for the other processes", flush=True)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--distributed: the processes can't be joined ({error}). Fix: give every process --coordinator HOST:PORT "
            "--num_processes N --process_id I. Under SLURM, Open MPI, Cloud TPU, and Kubernetes, JAX finds these itself"
        ) from error


def count() -> int:
    """Return the number of processes that take part."""
    return jax.process_count()


def is_first() -> bool:
    """Return whether this process is the one that reads and writes the run's directory."""
    return jax.process_index() == 0


def end(exit_code: int) -> NoReturn:
    """Exit with this code, once the other processes end, too, or after a limited wait if they go on."""
    sys.stdout.flush()
    sys.stderr.flush()
    if distributed.global_state.client is not None:
        patience = _PATIENCE.get(exit_code, _IMPATIENCE)
        with contextlib.suppress(Exception):  # the others are still running, or gone
            distributed.global_state.client.wait_at_barrier("saddle_jax_end", 1000 * patience)
            jax.distributed.shutdown()
    os._exit(output.exit_code(exit_code))  # a collective that waits for a dead process would keep the interpreter alive


def gather(text: str) -> list[str]:
    """Return every process's text, in the order of the processes. All processes must call this."""
    if count() == 1:
        return [text]
    encoded = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(encoded)))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(encoded)] = encoded
    rows = multihost_utils.process_allgather(padded)
    return [row[:length].tobytes().decode() for row, length in zip(np.asarray(rows), lengths, strict=True)]


def sum_over(tree: Any) -> Any:
    """Return a tree of host arrays summed over the processes. A sum of bools says whether any of them is True."""
    if count() == 1:
        return tree
    return jax.tree.map(lambda x: np.asarray(multihost_utils.process_allgather(x)).sum(0, dtype=x.dtype), tree)


def of_first(tree: Any) -> Any:
    """Return the first process's tree of arrays, on the host. Shapes and dtypes must be equal in all processes."""
    host = jax.device_get(tree)
    if count() == 1:
        return host
    # Send bytes, because the broadcast adds to zeros, and -0.0 + 0.0 is 0.0.
    content = jax.tree.map(lambda x: np.frombuffer(np.ascontiguousarray(x).tobytes(), np.uint8), host)
    received = multihost_utils.broadcast_one_to_all(content)
    return jax.tree.map(lambda b, x: np.frombuffer(b.tobytes(), x.dtype).reshape(x.shape), received, host)


def on_first(act: Callable[[], Any]) -> Any:
    """Run `act` in the first process. In all processes, return its result (sent as JSON) or raise its error."""
    if count() == 1:
        return act()
    outcome: dict[str, Any] = {}
    if is_first():
        try:
            outcome = {"value": act()}
        except SaddleError as error:
            outcome = {"error": type(error).__name__, "message": getattr(error, "problems", str(error))}
        except Exception as error:  # the others must not wait forever
            gather(json.dumps({"error": "SaddleError", "message": f"process 0: {type(error).__name__}: {error}"}))
            raise
    outcome = json.loads(gather(json.dumps(outcome))[0])
    if "error" in outcome:
        raise getattr(errors, outcome["error"])(outcome["message"])
    return outcome["value"]


def require_agreement(facts: dict[str, Any]) -> None:
    """Check that all processes were started with the same facts.

    Args:
      facts: values that must be equal, by name; JSON can hold them.

    Raises:
      ConfigError: in all processes, with every fact that differs from the first process's.
    """
    mine = json.dumps({"host": socket.gethostname(), "facts": facts})
    first, *others = map(json.loads, gather(mine))
    problems = [
        f"process {number} ({other['host']}): {name} is {other['facts'].get(name)!r}, process 0 ({first['host']}) has "
        f"{first['facts'].get(name)!r}. Fix: use the same code, config, and data everywhere"
        for number, other in enumerate(others, start=1)
        for name in first["facts"].keys() | other["facts"].keys()
        if other["facts"].get(name) != first["facts"].get(name)
    ]
    if problems:
        raise ConfigError(sorted(problems))


def stop_agreed(calls: int) -> bool:
    """Return whether all processes should stop here, because one of them got SIGTERM.

    Args:
      calls: how often this has been called. Every process must call it at the same points.
    """
    return multihost_utils.reached_preemption_sync_point(calls)
