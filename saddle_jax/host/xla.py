"""Protection against wrong sums that XLA computes on CPUs.

jaxlib 0.10.2 to 0.12 can join reductions into a "YNN" fusion. In 0.10.2, such a sum over many rows is silently wrong
(jax-ml/jax#39103). In all of these versions, the fusion slows our training step down. `prepare` switches these fusions
off, and `require_right_sums` refuses to run where sums are wrong.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re

from saddle_jax.errors import ConfigError

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_OFF = f"{_FLAG}="
# jaxlib aborts on an unknown flag, so we pass it only to versions in which we have tried it.
_FIRST, _END = (0, 10, 2), (0, 13)


def prepare() -> None:
    """Switch the faulty fusions off, in the environment of this process and its children.

    This works only before JAX first computes. It keeps a setting that the user made.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _FLAG not in flags and _FIRST <= _version() < _END:
        os.environ["XLA_FLAGS"] = f"{flags} {_OFF}".strip()


def _version() -> tuple[int, ...]:
    """Return jaxlib's version, or (0,) if it is not installed."""
    try:
        return tuple(int(number) for number in re.findall(r"\d+", importlib.metadata.version("jaxlib"))[:3])
    except importlib.metadata.PackageNotFoundError:
        return (0,)


@functools.cache
def require_right_sums() -> None:
    """Compute a case that is known to go wrong, on the default device. It takes a few milliseconds.

    Raises:
      ConfigError: the sums are wrong.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    if jax.default_backend() != "cpu":
        return
    matrix = np.array([[1, 2, 3], [0, 1, 4], [2, 0, 1]], np.float32)
    rows = (np.arange(3 * 32_769) % 5).astype(np.float32).reshape(-1, 3)  # with one row fewer, all versions are right
    expected = np.square(rows @ matrix.T).sum(1)  # integers, which float32 holds exactly
    found = jax.jit(jax.vmap(lambda row: jnp.sum(jnp.square(jnp.asarray(matrix) @ row))))(jax.device_put(rows))
    if np.array_equal(jax.device_get(found), expected):
        return
    own = _FLAG in os.environ.get("XLA_FLAGS", "") and _OFF not in os.environ["XLA_FLAGS"].split()
    fix = f"remove {_FLAG} from XLA_FLAGS" if own else f"set XLA_FLAGS={_OFF} in the environment before Python starts"
    raise ConfigError(
        f"jaxlib {importlib.metadata.version('jaxlib')} computes wrong sums on this CPU, which is a known bug "
        "(jax-ml/jax#39103). saddle_jax switches off the cause, but can't do so after JAX has computed something, nor "
        f"override XLA_FLAGS. Fix: {fix}" + ("" if own else ", or import saddle_jax before the first use of JAX")
    )
