"""A tutorial runs on Ray as on nbray: with Ray's names, on a cluster that it starts."""

from __future__ import annotations

import json

import pytest
from support.kernel import running_kernel
from support.places import ROOT
from support.ray_kernel import PYTHON, has_both

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(400)]


def test_the_tutorial_for_who_comes_from_dask_runs_on_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_both():
        pytest.skip(f"{PYTHON} has not both nbray and Ray: pip install 'nbray[ray]'")
    monkeypatch.setenv("NBRAY_ENGINE", "ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cells = json.loads((ROOT / "notebooks" / "from-dask.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    with running_kernel(PYTHON) as notebook:
        for one in code:
            on_ray = "".join(one["source"]).replace("import nbray", "import ray as nbray")
            fails = "raises-exception" in one["metadata"].get("tags", ())
            cell = notebook.run(on_ray, timeout=180)
            assert bool(cell.error) == fails, (on_ray, cell.error)
            assert "UsageError" not in cell.printed, (on_ray, cell.printed)
        assert "nbray does not run" in notebook.run("%nbray stop").printed
