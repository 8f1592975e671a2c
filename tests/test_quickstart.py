"""The notebook runs from top to bottom, and is kept with what it shows."""

import json
import re
from pathlib import Path

import pytest

from modeling_pjvlt.data.synthetic.procedural import ProceduralClip

MISSING = "the notebook is run with nbclient: pip install nbclient ipykernel"
nbformat, nbclient = (pytest.importorskip(name, reason=MISSING) for name in ("nbformat", "nbclient"))
NOTEBOOK = Path(__file__).parent.parent / "scripts" / "quickstart.ipynb"


def test_notebook_comes_with_results_that_show_no_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert len(outputs) >= 6 and {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert not re.search(r"/(tmp|home|root|Users|usr|work)/", "".join(json.dumps(output) for output in outputs))


@pytest.mark.slow
def test_notebook_runs_and_shows_what_it_promises(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []  # those that are kept prove nothing
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = ["".join(output["data"].get("text/html", "")) for output in shown if "data" in output]
    assert any("<video" in page for page in pages) and any("<table" in page for page in pages)
    assert any("image/png" in output.get("data", {}) for output in shown)
    printed = "".join(output["text"] for output in shown if output.get("name") == "stdout")
    assert "it/s" not in "".join(output.get("text", "") for output in shown)  # no progress bar, line after line
    assert "frame,x,y,w,h,score" in printed and ProceduralClip(3).text in printed
