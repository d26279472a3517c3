"""``%%remote --cache`` in real kernels: nothing is answered that would not come out again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.kernel import Notebook, one_kernel_for_most, shared_notebook

__all__ = ["one_kernel_for_most", "shared_notebook"]

FROM = "From the cache"


@pytest.fixture(autouse=True)
def folder(notebook: Notebook, tmp_path: Path) -> Iterator[Path]:
    """A folder of its own for what is kept."""
    notebook.run(f"%nbray config cache_folder {tmp_path / 'kept'}")
    yield tmp_path
    notebook.run("%nbray cache clear")


def test_a_cell_that_has_not_changed_gives_its_answer_and_output_at_once(
    notebook: Notebook,
) -> None:
    notebook.run("import numpy as np\nk = 3\ndef f(x): return np.multiply(x, k)\na = np.arange(5)")
    cell = "import os\nprint('ran', flush=True)\nb = f(a)\npid = os.getpid()\nb.sum()"
    first = notebook.run(f"%%remote --cache\n{cell}")
    assert "no such cell was kept" in first.printed and "kept" in first.printed, first.error
    assert first.result.endswith("30)") or first.result == "30"
    pid = notebook.run("pid").result
    again = notebook.run(f"%%remote --cache\n# a comment\n{cell}")
    assert FROM in again.printed and "ran\n" in again.printed, again.printed + again.error
    assert again.result == first.result
    assert notebook.run("pid").result == pid
    assert notebook.run("b.tolist()").result == "[0, 3, 6, 9, 12]"
    why = notebook.run("%nbray cache why").result
    assert "function" in why and "numpy" in why and "the same" in why


def test_whatever_changes_is_seen_and_told(notebook: Notebook) -> None:
    cell = "%%remote --cache\nimport os\ny = g(data)\np = os.getpid()"
    notebook.run("k = 1\ndef h(x): return sum(x) + k\ndef g(x): return h(x)\ndata = [1, 2]")
    notebook.run(cell)
    assert FROM in notebook.run(cell).printed
    for change, told in (
        ("data.append(3)", "input data has changed (list of 2 -> list of 3)"),
        ("k = 1.0", "input k has changed (int -> float)"),
        ("def h(x): return sum(x) - k", "function h has changed"),
        ("data = {1: 2}", "input data has changed"),
    ):
        notebook.run(change)
        ran = notebook.run(cell)
        assert told in ran.printed and FROM not in ran.printed, ran.printed + ran.error
        assert FROM in notebook.run(cell).printed
    assert notebook.run("%nbray cache list").result.count("y, p") == 5
    assert (
        "Ran (--cache=refresh)" in notebook.run(cell.replace("--cache", "--cache=refresh")).printed
    )
