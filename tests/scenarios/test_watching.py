"""The notebook about watching a cluster, executed in a real kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support.places import ROOT


@pytest.mark.slow
def test_watching_a_cluster_shows_what_it_says(session_root: Path, tmp_path: Path) -> None:
    path = ROOT / "notebooks" / "watching-a-cluster.ipynb"
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=100, iopub_timeout=60, resources=resources).execute()
    shown = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not [output for output in cell.outputs if output.output_type == "error"]
            data = [output.get("data", {}) for output in cell.outputs]
            texts = [output.get("text", "") for output in cell.outputs]
            texts += [bundle.get("text/plain", "") for bundle in data]
            pictures = sum("image/png" in bundle for bundle in data)
            shown[cell.source.split("(")[0].split("\n")[-1]] = ("\n".join(texts), pictures)
    text = "\n".join(words for words, _ in shown.values())
    for number in range(6):
        assert f"step {number}" in text
    assert "the same for all  [5 times" in text
    assert "14/14" in text
    assert "40/40 in 2 tasks" in text
    assert "Tasks of In [3], 2 workers" in text and "slow: 14 tasks, " in text
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_notebook_node(notebook)
    for part in ("<svg", "nbray-picture", "nbray-panel", "nbray-table", "4,800 more lines"):
        assert part in page, f"{part} is not in nbconvert's page"
    assert sum(pictures for _, pictures in shown.values()) == 1
    assert "4,800 more lines" in text
    assert "ready, ndarray (300, 1000) float64, size 2.4 MB" in text
    assert "CPU:" in text
    assert "nbray is stopped." in text
