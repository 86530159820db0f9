"""Run the notebooks from their start, and store what they print and draw: `python examples/execute.py [NOTEBOOK ...]`.

It needs requirements-dev.txt. The notebooks write below examples/runs/; remove that folder to train everything anew.
"""

from __future__ import annotations

import pathlib
import sys

import nbclient
import nbformat

HERE = pathlib.Path(__file__).parent
NOTEBOOKS = tuple(sorted(HERE.glob("*.ipynb")))


def execute(notebook: pathlib.Path, folder: pathlib.Path, seconds: int = 600) -> nbformat.NotebookNode:
    """Return the notebook with the outputs of a run in a kernel of its own.

    Args:
      notebook: its file, which stays as it is.
      folder: where the notebook writes.
      seconds: that each cell may take.

    Raises:
      CellExecutionError: a cell fails.
    """
    content = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    settings = {"timeout": seconds, "record_timing": False, "coalesce_streams": True}
    settings["extra_arguments"] = ["--log-level=ERROR"]
    return nbclient.NotebookClient(content, resources=resources, **settings).execute()


if __name__ == "__main__":
    for path in map(pathlib.Path, sys.argv[1:] or NOTEBOOKS):
        nbformat.write(execute(path, path.parent), path)
        print(f"done   {path}")
