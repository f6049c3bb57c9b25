"""The notebooks run from top to bottom as Jupyter runs them, draw, and are kept without output."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Pictures and tables that each must show.
SHOWN = {"coin.ipynb": (3, 1), "training.ipynb": (3, 1)}
RUN = (
    "import nbformat, nbclient, sys; book = nbformat.read(sys.argv[1], 4); "
    "nbclient.NotebookClient(book, timeout=600).execute(); nbformat.write(book, sys.argv[2])"
)


def test_each_is_known_here():
    assert SHOWN.keys() == {path.name for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_kept_without_output(path):
    cells = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("nbclient", "ipykernel"))), reason="needs nbclient"
)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, tmp_path):
    command = [sys.executable, "-c", RUN, path, tmp_path / "out.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((tmp_path / "out.ipynb").read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    pictures, tables = SHOWN[path.name]
    assert kinds.count("image/png") == pictures
    assert kinds.count("text/html") == tables
    said = [line for o in outputs if o.get("name") == "stderr" for line in o["text"]]
    assert not [line for line in said if line.strip() and not line.startswith("findfont")]
