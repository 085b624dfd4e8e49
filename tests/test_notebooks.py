"""The notebooks run from top to bottom, and what they keep is what comes out."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples/notebooks").glob("*.ipynb"))


def shown(cell):
    """Return what of the outputs of a cell is the same at each run: kinds, and numbers that stand alone."""
    found = []
    for output in cell.get("outputs", ()):
        if output["output_type"] == "stream":  # that something is being compiled
            continue
        data = output.get("data", {})
        alone = data.get("text/plain", "") if set(data) == {"text/plain"} else ""
        found.append((output["output_type"], sorted(data), "" if "<" in alone else alone))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_gives_what_it_keeps(path, tmp_path):
    kept = nbformat.read(path, 4)
    assert any(cell.get("outputs") for cell in kept.cells)
    again = nbformat.read(path, 4)
    NotebookClient(again, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert [shown(cell) for cell in again.cells] == [shown(cell) for cell in kept.cells]


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["calibration", "cluster", "language_model", "quickstart"]
