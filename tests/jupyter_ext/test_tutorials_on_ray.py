"""The tutorials run on Ray as on nbray: with Ray's names, on a cluster that they start."""

from __future__ import annotations

import json

import pytest
from support.kernel import Cell, running_kernel
from support.places import ROOT
from support.ray_kernel import PYTHON, has_both
from support.tutorials import FROM_DASK, FROM_IPYPARALLEL, Shown

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(400)]

ELSEWHERE = {
    "1 node": "Ray cluster",
    "nbray is stopped.": "ray is stopped.",
}
"""What shows another text on Ray: the name of the engine."""


@pytest.mark.parametrize(
    ("name", "shown"), [("from-dask", FROM_DASK), ("from-ipyparallel", FROM_IPYPARALLEL)]
)
def test_a_tutorial_runs_on_ray_and_shows_what_its_text_says(
    monkeypatch: pytest.MonkeyPatch, name: str, shown: Shown
) -> None:
    if not has_both():
        pytest.skip(f"{PYTHON} has not both nbray and Ray: pip install 'nbray[ray]'")
    monkeypatch.setenv("NBRAY_ENGINE", "ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    with running_kernel(PYTHON) as notebook:
        for one, (begins, expected) in zip(code, shown, strict=True):
            source = "".join(one["source"])
            assert source.startswith(begins)
            on_ray = source.replace("import nbray", "import ray as nbray")
            fails = "raises-exception" in one["metadata"].get("tags", ())
            cell = notebook.run(on_ray, timeout=180)
            assert bool(cell.error) == fails, (on_ray, cell.error)
            assert "UsageError" not in cell.printed, (on_ray, cell.printed)
            print(repr(on_ray[:40]), repr(expected), "|", _shown(cell)[:300], flush=True)
        assert "nbray does not run" in notebook.run("%nbray stop").printed


def _shown(cell: Cell) -> str:
    return "\n".join([cell.printed, *cell.results, cell.error])
