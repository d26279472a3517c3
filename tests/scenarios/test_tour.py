"""The tour notebook, executed in a real kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support.places import ROOT


@pytest.mark.slow
def test_the_tour_runs_and_shows_what_it_says(session_root: Path) -> None:
    path = ROOT / "notebooks" / "tour.ipynb"
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    # By default, output that comes 4 s after the reply is dropped; a loaded machine may need more.
    NotebookClient(notebook, timeout=100, iopub_timeout=60, resources=resources).execute()
    texts: list[str] = []
    pictures = 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            texts.append(output.get("text", ""))
            pictures += "image/png" in output.get("data", {})
    shown = "\n".join(texts)
    assert pictures == 1
    assert "CPUs: 2.0" in shown
    assert "12 models tried" in shown
    assert "199999990000000.0 copied: False" in shown
    assert "this cell runs in a worker" in shown
    assert "1797 images, the brightest pixel" in shown
    assert "From the cache" in shown
    assert "ZeroDivisionError: division by zero" in shown
    assert "stopped: True" in shown
