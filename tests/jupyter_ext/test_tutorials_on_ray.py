"""The tutorials run on Ray as on nbray: with Ray's names, on a cluster that they start."""

from __future__ import annotations

import json

import pytest
from support.kernel import Cell, running_kernel
from support.places import ROOT
from support.ray_kernel import PYTHON, has_both
from support.tutorials import FROM_DASK, FROM_IPYPARALLEL, FROM_RAY, Shown

from nbray.common.extras import how_to_install

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(400)]

ON_RAY = {"nbray is stopped.": "ray is stopped.", "Counter.incr  10 ": "square"}
"""What has another text there: the engine's name, and calls of actors are not counted."""
NAMES = (
    ("import nbray as ray", "import ray"),
    ("import nbray", "import ray as nbray"),
    ("info = ray.init(num_cpus=2)", "%nbray start --num-cpus 2"),
)
"""How Ray's names are had where the notebook has nbray's."""


@pytest.mark.parametrize(
    ("name", "shown"),
    [("from-ipyparallel", FROM_IPYPARALLEL), ("from-dask", FROM_DASK), ("from-ray", FROM_RAY)],
)
def test_a_tutorial_runs_on_ray_and_shows_what_its_text_says(
    monkeypatch: pytest.MonkeyPatch, name: str, shown: Shown
) -> None:
    if not has_both():
        pytest.skip(f"{PYTHON} has not both nbray and Ray: {how_to_install('ray')}")
    monkeypatch.setenv("NBRAY_ENGINE", "ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    with running_kernel(PYTHON) as notebook:
        for one, (begins, expected) in zip(code, shown, strict=True):
            source = "".join(one["source"])
            assert source.startswith(begins)
            on_ray = source
            for ours, rays in NAMES:
                on_ray = on_ray.replace(ours, rays)
            fails = "raises-exception" in one["metadata"].get("tags", ())
            cell = notebook.run(on_ray, timeout=180)
            assert bool(cell.error) == fails, (on_ray, cell.error)
            assert "UsageError" not in cell.printed, (on_ray, cell.printed)
            shows = ON_RAY.get(expected, expected)
            notebook.wait(lambda c=cell, s=shows: s in _shown(c), f"{shows!r} of {on_ray!r}", 60)
        assert "nbray does not run" in notebook.run("%nbray stop").printed


def _shown(cell: Cell) -> str:
    return "\n".join([cell.printed, *cell.results, cell.error])
