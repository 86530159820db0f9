"""Keep XLA from computing wrong sums on CPUs, and refuse to run where it does.

jaxlib 0.10.2 to 0.12 can join reductions into a "YNN" fusion. In 0.10.2 such a sum over many rows is silently wrong
(jax-ml/jax#39103); in all of them our training step is slower with it. `prepare` switches these fusions off.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re

from saddle_jax.errors import ConfigError

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_OFF = f"{_FLAG}="
# jaxlib ends the process on a flag that it does not know: only versions in which the flag was tried are given it.
_FIRST, _END = (0, 10, 2), (0, 13)


def prepare() -> None:
    """Switch the faulty fusions off, in the environment of this process and its children.

    It has an effect until JAX computes for the first time. A setting of the user's own stays.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _FLAG not in flags and _FIRST <= _version() < _END:
        os.environ["XLA_FLAGS"] = f"{flags} {_OFF}".strip()


def _version() -> tuple[int, ...]:
    """Return jaxlib's version; (0,) if it is not installed."""
    try:
        return tuple(int(number) for number in re.findall(r"\d+", importlib.metadata.version("jaxlib"))[:3])
    except importlib.metadata.PackageNotFoundError:
        return (0,)


@functools.cache
def require_right_sums() -> None:
    """Compute the known case on the default device, in some milliseconds.

    Raises:
      ConfigError: the sums are wrong.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    if jax.default_backend() != "cpu":
        return
    matrix = np.array([[1, 2, 3], [0, 1, 4], [2, 0, 1]], np.float32)
    rows = (np.arange(3 * 32_769) % 5).astype(np.float32).reshape(-1, 3)  # one row fewer, and all versions are right
    expected = np.square(rows @ matrix.T).sum(1)  # whole numbers: float32 holds them exactly
    found = jax.jit(jax.vmap(lambda row: jnp.sum(jnp.square(jnp.asarray(matrix) @ row))))(jax.device_put(rows))
    if np.array_equal(jax.device_get(found), expected):
        return
    own = _FLAG in os.environ.get("XLA_FLAGS", "") and _OFF not in os.environ["XLA_FLAGS"].split()
    fix = f"take {_FLAG} out of XLA_FLAGS" if own else f"set XLA_FLAGS={_OFF} in the environment before Python starts"
    raise ConfigError(
        f"jaxlib {importlib.metadata.version('jaxlib')} computes wrong sums on this CPU, in a case that is known "
        "(jax-ml/jax#39103). saddle_jax switches off what causes it, but not after JAX has begun to compute, and not "
        f"against XLA_FLAGS. Fix: {fix}" + ("" if own else ", or import saddle_jax before the first use of JAX")
    )
