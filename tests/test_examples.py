"""The notebooks: each runs from its first cell to its last, and what is stored of it comes from such a run."""

import nbformat
import pytest
from conftest import ROOT

from examples import execute

SHORTER = {  # what `make test` changes in a notebook, so that its runs end sooner; every cell is run
    "own_images": {"300 steps": "60 steps"},
    "what_sam_does": {
        '"digits_lt:ce_drw"': '"digits_lt:ce_drw,epochs=10"',
        '"digits_lt:ce_drw_sam"': '"digits_lt:ce_drw_sam,epochs=10"',
        "SEEDS = (0, 1)": "SEEDS = (0,)",
        '"steps": 40': '"steps": 10',
    },
    "your_own_loop": {"range(300)": "range(30)", "steps=40": "steps=10"},
}


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Let a kernel find saddle_jax, see one device, and leave its own files in a folder of the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling takes longer than what is compiled
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


def outputs(cells):
    return [output for cell in cells for output in cell.get("outputs", [])]


def shortened(path):
    """Return a notebook with shorter runs, and with ids that no other notebook has."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.id = f"{path.stem}-{cell.id}"
    for long, short in SHORTER[path.stem].items():
        changed = [cell for cell in notebook.cells if cell.cell_type == "code" and long in cell.source]
        assert changed, long
        for cell in changed:
            cell.source = cell.source.replace(long, short)
    return notebook


def check(path, cells):
    found = outputs(cells)
    streams = [output for output in found if output.output_type == "stream"]
    assert streams and {stream.name for stream in streams} == {"stdout"}
    assert not any(sign in stream.text for stream in streams for sign in ("\r", "\x1b"))
    pictures = [output for output in found if "image/png" in output.get("data", {})]
    assert bool(pictures) == ("plot(" in path.read_text())


@pytest.mark.slow
def test_notebooks_run_and_print_plain_lines(kernel):
    """One after the other in one kernel, which has to start only once."""
    first, *others = notebooks = list(map(shortened, execute.NOTEBOOKS))
    lengths = [len(notebook.cells) for notebook in notebooks]
    for notebook in others:
        first.cells += notebook.cells
    nbformat.write(first, kernel / "all.ipynb")
    cells = execute.execute(kernel / "all.ipynb", kernel).cells  # raises what a cell raises
    for path, length in zip(execute.NOTEBOOKS, lengths, strict=True):
        check(path, cells[:length])
        cells = cells[length:]
    assert not cells


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("path", execute.NOTEBOOKS, ids=lambda path: path.stem)
def test_a_whole_notebook_runs_and_prints_plain_lines(path, kernel):
    check(path, execute.execute(path, kernel).cells)


@pytest.mark.parametrize("path", execute.NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_comes_from_one_run_and_is_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts in (list(range(1, len(counts) + 1)), [None] * len(counts))  # stored with all outputs, or with none
    found = outputs(notebook.cells)
    assert not [output for output in found if output.output_type == "error" or output.get("name") == "stderr"]
    assert len(path.read_bytes()) < 150_000
    assert not any(place in str(found) for place in ("/tmp", "/home", "/Users", "/root"))
