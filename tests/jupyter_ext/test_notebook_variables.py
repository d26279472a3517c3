"""Names that live in the cluster are seen by whoever looks at variables, and nothing is fetched."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.kernel import Notebook, one_kernel_for_most, running_notebook, shared_notebook
from support.stopping import stand_still

from nbray.testing import processes_of

__all__ = ["one_kernel_for_most", "shared_notebook"]

_LOOK = """
import json as _json, sys as _sys
from IPython.core.magics.namespace import NamespaceMagics as _Names
_names = _Names()
_names.shell = get_ipython().kernel.shell
_rows = []
for _name in _names.who_ls():
    _value = eval(_name)
    _rows.append([_name, type(_value).__name__, _sys.getsizeof(_value), str(_value)[:150],
                  hasattr(_value, "shape"), hasattr(_value, "__len__")])
print(_json.dumps([row for row in _rows if row[0] in ("far", "many")]))
"""
"""As variable inspectors do: code that reaches all names by `eval`."""
_MADE = "import numpy as np\nfar = np.ones(2_000_000)\nmany = list(range(50_000))"
_STILL = "print({type(globals()['f' + 'ar']).__name__, type(globals()['ma' + 'ny']).__name__})"
_FAR = "far: ndarray (2000000,) float64, done, In ["


@pytest.mark.slow
def test_who_tells_what_lives_in_the_cluster_and_where(notebook: Notebook) -> None:
    nothing = notebook.run("%nbray who").result
    assert "No name of this notebook lives in the cluster." in nothing
    made = notebook.run(f"%%remote\n{_MADE}\nhere_now = 1")
    notebook.run("import nbray\nrefs = [nbray.put(i) for i in range(3)]\nhere_now")
    shown = notebook.run("%nbray who").result
    far = next(line for line in shown.splitlines() if line.startswith("far "))
    assert "ndarray (2000000,) float64" in far and "16.0 MB" in far and made.label in far
    assert "done" in far and "(" in far.partition("16.0 MB")[2]
    assert "list with 3 refs" in shown and "here_now" not in shown
    assert "1 name" in notebook.run("%nbray who far").result
    assert notebook.run(_STILL).printed == "{'RemoteValue'}\n"


@pytest.mark.slow
def test_odd_long_and_many_names_are_told_within_bounds(notebook: Notebook) -> None:
    notebook.run(
        "import nbray\nnames = globals()\nnames[5] = nbray.put(1)\n"
        "names['a b\\n<b>&\\ud800'] = names['g' * 3000] = nbray.put(bytes(500_000))\n"
        "for i in range(1000):\n    names[f'many{i}'] = nbray.put(i)\n"
        "lots = [nbray.put(i) for i in range(10_001)]"
    )
    for command in ("who", "objects"):
        cell = notebook.run(f"%nbray {command}", 60)
        shown = cell.result
        assert r"a b\n<b>&\ud800" in shown, cell.error
        assert "'gggggggggg" in shown and "(3,000 characters)" in shown
        assert "with 10000 refs or more" in shown
        assert "The largest 200 of 1," in shown and len(shown) < 50_000
        html = next(c["data"]["text/html"] for k, c in cell.messages if k == "display_data")
        assert "&lt;b&gt;" in html and len(html) < 300_000
    assert "many999" in notebook.run("%nbray who many999").result
    nothing = notebook.run(f"%nbray who {'q' * 5000}").result
    assert "(5,000 characters) of this notebook lives in the cluster" in nothing
    assert len(nothing) < 300
    notebook.run("for i in range(1000):\n    del names[f'many{i}']\ndel names[5], lots")


@pytest.mark.slow
def test_inspectors_see_names_and_fetch_nothing_though_the_cluster_stands_still(
    session_root: Path,
) -> None:
    with running_notebook() as notebook:
        notebook.run(f"%%remote --noblock\n{_MADE}")
        notebook.wait(lambda: "done" in notebook.run("%nbray cells").result, "the end of the cell")
        notebook.run("from nbray.jupyter_ext.line.magics import resolve as _resolve")
        assert notebook.debug("initialize", clientID="t", adapterID="") is not None
        raylets = [p.pid for p in processes_of(session_root) if "nbray.raylet" in p.info["cmdline"]]
        for pid in raylets:
            stand_still(pid)
        try:
            assert _FAR in notebook.run("%whos").printed.replace("<...>", "") or (
                "RemoteValue    <RemoteValue far" in notebook.run("%whos").printed
            )
            looked = notebook.run(_LOOK)
            assert _FAR in looked.printed and '"many", "RemoteValue"' in looked.printed
            assert _FAR in notebook.inspect("far")
            variables = notebook.debug("inspectVariables")["variables"]
            values = {row["name"]: row["value"] for row in variables}
            assert _FAR in values["far"] and "RemoteValue many" in values["many"]
            rich = notebook.debug("richInspectVariables", variableName="far")
            assert _FAR in rich["data"]["text/plain"] and "16.0 MB" in rich["data"]["text/html"]
            assert notebook.run(_STILL).printed == "{'RemoteValue'}\n"
        finally:
            for pid in raylets:
                os.kill(pid, signal.SIGCONT)
        assert notebook.run("far.sum()").result == "np.float64(2000000.0)"
