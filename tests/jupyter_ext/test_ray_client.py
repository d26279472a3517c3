"""A notebook on a Ray cluster far away, by Ray's client: what works there, and what is said.

Needs a Python with nbray and Ray, which ``RAY_NOTEBOOK_PYTHON`` names.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.kernel import Cell, Notebook
from support.ray_kernel import FAR, ray_notebook

# On a busy machine Ray takes half a minute to start, and each new worker some seconds.
pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    with ray_notebook(far=True) as found:
        yield found


def _printed(notebook: Notebook, cell: Cell, text: str) -> bool:
    notebook.wait(lambda: text in cell.printed, f"{text!r} in its cell", 60)
    return True


def test_remote_cells_their_names_and_values_travel(notebook: Notebook) -> None:
    notebook.run("import numpy as np\nbig = np.arange(300_000)\nk = 2\ndef f(a): return a + k")
    cell = notebook.run("%%remote\nprint('hello')\ny = f(3) + int(big.sum())\ny > 0", 120)
    assert cell.result == "True" or "True" in cell.results, cell.error
    assert _printed(notebook, cell, "hello")
    assert notebook.run("y", 60).result == "44999850005"
    assert "ZeroDivisionError" in notebook.run("%%remote\n1 / 0", 60).error


def test_output_of_tasks_and_of_their_children_comes_to_its_cell(notebook: Notebook) -> None:
    notebook.run(
        "import ray\n@ray.remote\ndef g(i):\n    print('g', i)\n    return i\n"
        "@ray.remote(num_cpus=0)\ndef outer():\n    return ray.get(g.remote(7))"
    )
    cell = notebook.run("ray.get(outer.remote())", 120)
    assert "7" in cell.results and _printed(notebook, cell, "g 7")


def test_an_actor_keeps_the_names_of_its_cells(notebook: Notebook) -> None:
    assert not notebook.run("%%remote --actor desk\nn = 5", 120).error
    assert notebook.run("%remote --actor desk -- n + 1", 60).result == "6"


def test_to_detach_is_refused_by_name(notebook: Notebook) -> None:
    said = notebook.run("%%remote --detach far\n1", 60).printed
    assert "%%remote --detach is not there through Ray's client: Ray's client opens" in said


def test_an_interrupt_cancels_a_remote_cell(notebook: Notebook) -> None:
    cell = notebook.start("%%remote\nprint('began')\nimport time\ntime.sleep(60)")
    assert _printed(notebook, cell, "began")
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: cell.idle, "the prompt")
    assert "was cancelled" in cell.error


def test_what_is_not_there_from_afar_is_said_in_a_line(notebook: Notebook) -> None:
    assert "CPU" in notebook.run("%nbray status", 60).results[0]
    assert "RemoteValue" in notebook.run("%nbray objects", 60).result
    logs = notebook.run("%nbray logs", 60)
    assert "This machine has no node of the Ray cluster, and no logs." in logs.printed
    assert "is not there with Ray as the engine" in notebook.run("%nbray debug").printed
    left = notebook.run("%nbray stop", 60)
    assert f"Left the cluster at {FAR}; it runs on." in left.printed, left.printed
