"""Where the time and the memory of a cell went, in a real kernel."""

from __future__ import annotations

import re

import pytest
from support.kernel import Cell, Notebook, one_kernel_for_most, shared_notebook

__all__ = ["one_kernel_for_most", "shared_notebook"]

BUSY = """
import nbray, time
def busy(seconds):  # of its own: where it has no processor, nobody sees it
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(1000))
@nbray.remote
def child():
    busy(0.3)
"""


def pictures(cell: Cell) -> list[dict[str, str]]:
    found = [
        content["data"]
        for name, content in cell.messages
        if name in ("display_data", "execute_result")
    ]
    return [data for data in found if data["text/plain"].startswith("Profile of")]


def test_a_profile_has_the_lines_of_the_cell_and_of_its_tasks(notebook: Notebook) -> None:
    notebook.run(BUSY)
    cell = notebook.run(
        "%%remote --profile\nbusy(0.3)\nnbray.get([child.remote() for _ in range(2)])\n"
        "kept = bytearray(b'x') * (64 << 20)",
        timeout=60,
    )
    (picture,) = pictures(cell)
    assert "3 tasks" in picture["text/plain"]
    assert re.search(r"\d+% +\d+\.\d\d s +busy \(", picture["text/plain"])
    assert "workers have grown" in picture["text/plain"]
    html = picture["text/html"]
    assert "<svg" in html
    assert "<script" not in html
    assert "child" in html
    assert len(html) < 1 << 20
    (again,) = pictures(notebook.run(f"%nbray profile {cell.label.replace(' ', '')}"))
    assert again == picture


def test_a_cell_of_ordinary_tasks_is_profiled_by_a_line_in_it(notebook: Notebook) -> None:
    notebook.run(BUSY)
    cell = notebook.run("%nbray profile --here\nnbray.get([child.remote() for _ in range(3)])")
    (picture,) = pictures(cell)
    assert "3 tasks" in picture["text/plain"]
    assert "busy" in picture["text/html"]
    assert not pictures(notebook.run("nbray.get(child.remote())"))


def test_a_cell_that_fails_has_its_profile(notebook: Notebook) -> None:
    notebook.run(BUSY)
    cell = notebook.run("%%remote --profile\nbusy(0.5)\nraise ValueError")
    assert "ValueError" in cell.error
    assert "busy" in pictures(cell)[0]["text/html"]


@pytest.mark.slow
def test_a_cell_that_runs_is_looked_at(notebook: Notebook) -> None:
    notebook.run(BUSY)
    running = notebook.run("%%remote --noblock\nprint('begun')\nwhile True:\n    busy(0.1)")
    label = running.label.replace(" ", "")
    notebook.wait(lambda: "begun" in running.printed, "its begin")
    (picture,) = pictures(notebook.run(f"%nbray profile {label} --seconds 1", timeout=60))
    assert "busy" in picture["text/html"]
    notebook.run(f"%nbray cancel {label}")


@pytest.mark.slow
def test_memory_is_traced_by_the_lines_that_allocate(notebook: Notebook) -> None:
    cell = notebook.run(
        "%%remote --profile=memory\nmany = [bytes(1000) for _ in range(20000)]", timeout=120
    )
    (picture,) = pictures(cell)
    assert "allocated at the highest" in picture["text/plain"]
    assert f"{cell.label}:2" in picture["text/plain"]


@pytest.mark.slow
def test_thousands_of_short_tasks_and_a_killed_worker_are_in_it(notebook: Notebook) -> None:
    notebook.run(
        BUSY + "@nbray.remote\ndef tiny(i):\n    return i\n"
        "@nbray.remote(max_retries=0)\ndef dies():\n"
        "    import os\n    busy(1.5)\n    os._exit(1)"
    )
    cell = notebook.run(
        "%nbray profile --here\ndead = dies.remote()\n"
        "print(sum(nbray.get([tiny.remote(i) for i in range(3000)])))\n"
        "nbray.wait([dead])",
        timeout=120,
    )
    (picture,) = pictures(cell)
    assert "tiny" in picture["text/html"]
    assert "busy" in picture["text/html"]
    assert len(picture["text/html"]) < 1 << 20


@pytest.mark.slow
def test_a_cell_that_is_interrupted_has_its_profile(notebook: Notebook) -> None:
    cell = notebook.start("%%remote --profile\nprint('begun')\nwhile True:\n    sum(range(1000))")
    notebook.wait(lambda: "begun" in cell.printed, "its output")
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: cell.idle and pictures(cell), "its end")
    assert "was cancelled" in cell.error
    assert pictures(cell)[0]["text/plain"].startswith(f"Profile of {cell.label}: 1 task")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["--profile", "--profile=memory"])
def test_a_cell_that_forks_has_the_profile_of_its_own_process(
    notebook: Notebook, kind: str
) -> None:
    cell = notebook.run(
        f"%%remote {kind}\nimport os, time\nchild = os.fork()\n"
        "until = time.monotonic() + 0.3\nwhile time.monotonic() < until:\n    sum(range(1000))\n"
        "if child == 0:\n    os._exit(0)\nos.waitpid(child, 0)[1]",
        60,
    )
    assert not cell.error and cell.results[0] == "0"
    (picture,) = pictures(cell)
    assert picture["text/plain"].startswith(f"Profile of {cell.label}: 1 task, 1 worker")
    assert notebook.run("%remote 6 * 7").result == "42"
