"""The tutorial notebooks, executed in real kernels: every output is what its text says."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support.places import ROOT
from support.tutorials import FROM_DASK, FROM_IPYPARALLEL, FROM_RAY, Shown

pytestmark = pytest.mark.slow

FOLDER = ROOT / "notebooks"

WHEN_THINGS_FAIL: Shown = [
    ("%load_ext", ""),
    ("%nbray start", "1 node"),
    ("import json", ""),
    ("%%remote\nconfig", "Cell In [4], line 2, in <module>\n    config = json.loads(text)"),
    ("%nbray tb", "decoder.py"),
    ("%%remote\nprice", "config (In [4]), rate (In [4]), price (In [6])."),
    ("import threading", ""),
    ("%%remote\nscore", "model.state['lock'] is a lock that cannot be sent to a worker"),
    ("%%remote --retries", "ended with exit status 1"),
    ("%remote 'a new", "'a new worker answers'"),
    ("%%remote --timeout", "did not end within 0.5 s and was cancelled."),
    ("%%remote --noblock", "<remote cell In [12]: running>"),
    ("%nbray cancel", "In [12] killed."),
    ("%%remote --map word", "Element 3 of 4: word = 'x3'"),
    ("%%remote\nname", "line 2: input(): a worker has no keyboard"),
    ("import nbray", "ValueError: only 10 left"),
    ("nbray.get(account", "6"),
    ("nbray.kill", "Account.take: the actor is dead"),
    ("%nbray statsu", "Did you mean status?"),
    ("%%remote\nkept", ""),
    ("%nbray stop", "nbray is stopped."),
    ("kept", "The value of 'kept' (In [20]) was in a cluster that has been stopped."),
]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("from-ipyparallel", FROM_IPYPARALLEL),
        ("from-dask", FROM_DASK),
        ("from-ray", FROM_RAY),
        ("when-things-fail", WHEN_THINGS_FAIL),
    ],
)
def test_every_cell_shows_what_the_text_says(
    session_root: Path, tmp_path: Path, name: str, shown: Shown
) -> None:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=60, iopub_timeout=60, resources=resources).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) == len(shown)
    for cell, (begins, expected) in zip(cells, shown, strict=True):
        assert cell.source.startswith(begins)
        text = "\n".join(_texts(cell))
        assert expected in text, cell.source
        if not expected:
            assert not text, cell.source


def _texts(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell shows, without the progress that a slow machine adds."""
    found = []
    for output in cell.outputs:
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        text = text or "\n".join(output.get("traceback", []))
        if "%|" not in text:
            found.append(text)
    return found
