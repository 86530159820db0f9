"""Known faults of XLA on CPUs are switched off before JAX starts, and where they are not, nothing runs."""

import os
import subprocess
import sys

import pytest
from conftest import AS_SHIPPED, ROOT

from saddle_jax.host import xla

# The case of jax-ml/jax#39103: wrong by thousands, in either dtype, where the faulty fusions are on.
KNOWN_CASE = """
import jax, jax.numpy as jnp, numpy as np
def is_right(dtype, rows):
    with jax.enable_x64(dtype == "float64"):
        matrix = jnp.asarray([[1, 2, 3], [0, 1, 4], [2, 0, 1]], dtype)
        x = jnp.asarray(np.arange(3 * rows).reshape(rows, 3) % 5, dtype)
        found = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(x)
        return bool(np.array_equal(found, np.square(np.asarray(x) @ np.asarray(matrix).T).sum(1)))
print(is_right("float32", 32769), is_right("float64", 16385))
"""


def run(*code, flags=None, **more):
    """Run lines in a process that has none of the tests' flags."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | AS_SHIPPED
    environment |= {} if flags is None else {"XLA_FLAGS": flags}
    return subprocess.run(
        [sys.executable, "-c", "\n".join(code)], cwd=ROOT, env=environment, capture_output=True, text=True, **more
    )


@pytest.mark.parametrize("before", ["import saddle_jax", "import jax; import saddle_jax"])
def test_sums_are_right_after_the_import(before):
    assert run(before, KNOWN_CASE, check=True).stdout == "True True\n"


def test_a_backend_that_computes_wrong_sums_is_refused():
    check = "import saddle_jax; from saddle_jax.host.xla import require_right_sums; require_right_sums()"
    found = run(KNOWN_CASE, check)  # JAX has computed before saddle_jax comes
    if found.stdout == "True True\n":
        assert found.returncode == 0, "this jaxlib is right by itself"
    else:
        assert "computes wrong sums" in found.stderr
        assert "before Python starts, or import saddle_jax before the first use of JAX" in found.stderr


def test_the_command_refuses_before_anything_is_read(tmp_path):
    """A user's own flag is kept, and named where it makes the sums wrong."""
    flags = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE"
    is_right = run(KNOWN_CASE, flags=flags, check=True).stdout == "True True\n"
    arguments = ["main.py", "--mode", "check", "--config", "configs/digits_lt.py:smoke", "--workdir", str(tmp_path)]
    found = run(
        f"import runpy, sys; sys.argv = {arguments}; runpy.run_path('main.py', run_name='__main__')", flags=flags
    )
    if is_right:
        assert found.returncode == 0
    else:
        assert found.returncode == 2
        assert "Fix: remove --xla_cpu_experimental_ynn_fusion_type from XLA_FLAGS" in found.stderr
        assert not found.stdout


@pytest.mark.parametrize(
    ("version", "flags", "expected"),
    [
        ("0.10.2", None, xla._OFF),
        ("0.12.0.1", "--xla_dump_to=/x", f"--xla_dump_to=/x {xla._OFF}"),
        ("0.10.2", f"{xla._FLAG}=dot", f"{xla._FLAG}=dot"),
        ("0.10.1", None, None),  # an unknown flag ends the process
        ("0.13.0", None, None),
    ],
)
def test_the_flag_is_for_versions_that_know_it(monkeypatch, version, flags, expected):
    monkeypatch.setattr(xla.importlib.metadata, "version", lambda _: version)
    monkeypatch.delenv("XLA_FLAGS")
    if flags is not None:
        monkeypatch.setenv("XLA_FLAGS", flags)
    xla.prepare()
    assert os.environ.get("XLA_FLAGS") == expected
