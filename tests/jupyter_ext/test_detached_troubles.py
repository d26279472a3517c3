"""Detached cells that fail with more than anybody reads, and the GCS killed under each command."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.descriptors import no_file_left
from support.detached import STEPS, attached_kernel, lasting_cluster, steps_of
from support.kernel import Notebook, one_kernel_for_most, shared_notebook
from support.processes import kill_gcs, running

__all__ = ["one_kernel_for_most", "shared_notebook"]

pytestmark = pytest.mark.slow

_CAUGHT = (
    "try:\n    get_ipython().run_line_magic('nbray', 'attach {}')\n"
    "except {} as error:\n    caught = error"
)


def test_a_huge_error_is_raised_as_its_own_class_with_its_text_cut(notebook: Notebook) -> None:
    notebook.run(
        "class Two(Exception):\n    def __init__(self, text, other):\n"
        "        super().__init__(text)\n        self.other = other\n"
    )
    for name, kind, raised in (
        ("key", "KeyError", "KeyError('e' * 50_000_000)"),
        ("two", "Two", "Two('e' * 50_000_000, 'kept')"),
        ("group", "ExceptionGroup", "ExceptionGroup('g', [ValueError('e' * 50_000_000)])"),
    ):
        notebook.run(f"%%remote --detach {name}\nraise {raised}", 90)
        shown = notebook.run(f"%nbray attach {name}", 90).error
        assert shown.startswith(f"TaskError({kind})") and f"Cell {name} (In [" in shown
        assert f"raise {kind}(" in shown and len(shown) < 500_000
        notebook.run(_CAUGHT.format(name, kind), 90)
        assert notebook.run("len(str(caught)) < 500_000").result == "True"
        notebook.run(f"del caught\n%nbray results {name} --drop")
    notebook.run("%%remote --detach two\nraise Two('e' * 50_000_000, 'kept')", 90)
    notebook.run(_CAUGHT.format("two", "Two"), 90)
    assert notebook.run("caught.other, len(caught.args[0]) < 100_000").result == "('kept', True)"


def test_each_command_outlasts_a_gcs_that_is_killed_right_before_it(
    home: Path, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    with lasting_cluster(), attached_kernel() as notebook:
        notebook.run(f"%%remote --detach going\n{STEPS.format(str(stop))}n = i", 60)
        kill_gcs(home)
        live = notebook.start("%nbray attach going")
        notebook.wait(lambda: len(steps_of(live.printed)) > 5, "its output", 60)
        kill_gcs(home)
        stop.touch()
        notebook.wait(lambda: live.idle, "its end", 60)
        lines = steps_of(live.printed)
        assert lines == [f"step {i}" for i in range(len(lines))]
        assert notebook.run(f"n + 1 == {len(lines)}").result == "True"
        kill_gcs(home)
        assert "going" in notebook.run("%nbray results", 60).result
        kill_gcs(home)
        assert "Detached as next" in notebook.run("%%remote --detach next\n5", 60).printed
        kill_gcs(home)
        assert "5" in notebook.run("%nbray attach next", 60).results
        kill_gcs(home)
        assert "next is forgotten" in notebook.run("%nbray results next --drop", 60).printed


def test_cells_outlive_a_gcs_that_is_away_for_longer_than_a_question_waits(
    home: Path, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    with lasting_cluster(), attached_kernel() as notebook:
        notebook.run("%nbray config detachable yes")
        cell = notebook.start(
            "%%remote\nimport os, time\nprint('begun')\n"
            f"while not os.path.exists({str(stop)!r}): time.sleep(0.1)\nn = 5"
        )
        notebook.wait(lambda: "begun" in cell.printed, "its start", 60)
        (raylet,) = running(home, "nbray.raylet")
        with no_file_left(raylet.pid):  # no other can be started
            kill_gcs(home)
            time.sleep(12)  # its keeper asks every two seconds, and waits for five
        stop.touch()
        notebook.wait(lambda: cell.idle, "its end", 60)
        assert not cell.error and notebook.run("n").result == "5"
