"""The notebook runs from top to bottom."""

from pathlib import Path

import pytest

from modeling_pjvlt.data.synthetic.procedural import ProceduralClip

MISSING = "the notebook is run with nbclient: pip install nbclient ipykernel"
nbformat, nbclient = (pytest.importorskip(name, reason=MISSING) for name in ("nbformat", "nbclient"))
NOTEBOOK = Path(__file__).parent.parent / "scripts" / "quickstart.ipynb"


@pytest.mark.slow
def test_notebook_runs_and_shows_what_it_promises(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it is kept without its results
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = ["".join(output["data"].get("text/html", "")) for output in shown if "data" in output]
    assert any("<video" in page for page in pages) and any("<table" in page for page in pages)
    assert any("image/png" in output.get("data", {}) for output in shown)
    printed = "".join(output["text"] for output in shown if output.get("name") == "stdout")
    assert "frame,x,y,w,h,score" in printed and ProceduralClip(3).text in printed
