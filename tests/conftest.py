"""What all tests share: eight forced host devices, real data where it is at hand."""

import contextlib
import gc
import os
import pathlib
import platform
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# What one test, worker or child process has compiled serves the others; a new folder each session.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="saddle_jax_tests_"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
# Eight device threads on two busy cores may meet late; XLA would end the process after 40 seconds.
os.environ["XLA_FLAGS"] += " --xla_cpu_collective_call_terminate_timeout_seconds=180"
os.environ.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)  # a worker inherits what pytest_configure has set

import jax
import pytest

from saddle_jax.experiment import command_line
from saddle_jax.training.directory import package_versions  # and with it saddle_jax, which sets XLA up

ROOT = pathlib.Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
GOLDEN = pathlib.Path(__file__).parent / "golden"
# For the environment of a child process whose numbers are compared with those of this process.
AS_SHIPPED, QUICKLY = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}, {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

# The files that take longest, in this order.
LONGEST = ("spectra_runs", "spectra", "pretrained", "processes", "report", "extending", "faults_kill", "training")
LONGEST += ("resnet", "examples", "feed", "networks", "sam", "promises", "glmc", "decoding", "kernels", "convnets")


def pytest_configure(config):
    """Let child processes compile with few optimizations; those of `make test-all` and `make test-faults` don't.

    This process has read its environment by now. See the fixture compile_quickly.
    """
    if "not nightly" in config.option.markexpr:
        os.environ.update(QUICKLY)


def pytest_collection_modifyitems(items):
    """Begin with the longest files, so that no process of `make test` has one left when the other has finished."""
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))  # otherwise as before


def pytest_terminal_summary(terminalreporter):
    """Print which versions were tested."""
    versions = {"Python": platform.python_version(), **package_versions()}
    terminalreporter.write_line("ran with " + ", ".join(f"{name} {version}" for name, version in versions.items()))


def shared_file(name: str) -> pathlib.Path:
    """Return a file of the reference material, or skip the test where there is none."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name} of the project's shared material")
    return path


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_code():
    """Forget it after each file: a process that keeps all dies at the kernel's limit of 65,530 memory maps."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def forget_flags():
    """Forget what other tests and their fixtures parsed: absl's flags belong to the process."""
    command_line.FLAGS.unparse_flags()


@contextlib.contextmanager
def optimizations(few):
    """Compile with few optimizations, or as shipped, what the block runs for the first time."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", few)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def _compile_quickly():
    """Compile with few optimizations, for tests that show what slow code shows, too."""
    with optimizations(few=True):
        yield


compile_quickly = pytest.fixture(_compile_quickly)
compile_file_quickly = pytest.fixture(_compile_quickly, scope="module")  # and what fixtures of this scope make


@pytest.fixture
def small_network(monkeypatch):
    """Train one layer, whatever network the config names; for programs that no other test shares."""
    import one_layer

    from saddle_jax.models import networks

    monkeypatch.setattr(networks, "make_network", one_layer.make)


@pytest.fixture
def x64():
    """Run the test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """The job of the fault tests, compiled and once run unbroken."""
    from fault_harness import make_bench

    return make_bench(tmp_path_factory.mktemp("bench"))
