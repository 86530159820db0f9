"""The notebooks: each runs from its first cell to its last, and what is stored of it comes from such a run."""

import nbformat
import pytest
from conftest import ROOT

from examples import execute


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Let a kernel find saddle_jax, see one device, and leave its own files in a folder of the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.slow
@pytest.mark.parametrize("path", execute.NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_plain_lines(path, kernel):
    found = outputs(execute.execute(path, kernel))  # raises what a cell raises
    streams = [output for output in found if output.output_type == "stream"]
    assert streams and {stream.name for stream in streams} == {"stdout"}
    assert not any(sign in stream.text for stream in streams for sign in ("\r", "\x1b"))
    pictures = [output for output in found if "image/png" in output.get("data", {})]
    assert bool(pictures) == ("plot(" in path.read_text())


@pytest.mark.parametrize("path", execute.NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_comes_from_one_run_and_is_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts in (list(range(1, len(counts) + 1)), [None] * len(counts))  # stored with all outputs, or with none
    assert not [
        output for output in outputs(notebook) if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert len(path.read_bytes()) < 150_000
    assert not any(place in str(outputs(notebook)) for place in ("/tmp", "/home", "/Users", "/root"))
