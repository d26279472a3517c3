"""Detached cells while parts that live lose each other, or stand still for seconds."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support.commands import command
from support.cutting import cut_between
from support.detached import STEPS, attached_kernel, lasting_cluster, steps_of
from support.kernel import Cell, Notebook
from support.processes import running
from support.stopping import stand_still

from nbray.testing import own_sessions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass
class _Going:
    """A detached cell that prints until it is told to stop."""

    home: Path
    notebook: Notebook
    name: str
    cell: Cell
    stop: Path

    def pid(self, part: str) -> int:
        """The process of that part of it."""
        keeper = running(self.home, "nbray.jupyter_ext.kept")[0]
        worker = int(re.search(r"pid (\d+)", self.cell.printed)[1])  # type: ignore[index]
        raylet = psutil.Process(worker)
        while raylet.pid not in [one.pid for one in running(self.home, "nbray.raylet")]:
            raylet = raylet.parent()  # type: ignore[assignment]
        found = {
            "kernel": lambda: self.notebook.manager.provisioner.pid,  # type: ignore[union-attr]
            "door": lambda: keeper.ppid(),
            "keeper": lambda: keeper.pid,
            "worker": lambda: worker,
            "raylet": lambda: raylet.pid,
            "gcs": lambda: running(self.home, "nbray.gcs")[0].pid,
        }
        return int(found[part]())

    def goes_on(self) -> None:
        """It prints more."""
        seen = len(steps_of(self.cell.printed))
        self.notebook.wait(
            lambda: len(steps_of(self.cell.printed)) > seen + 1, "more of its output", 90
        )

    def ends_well(self) -> None:
        """All that it printed is there once, in order, and its result."""
        self.stop.touch()
        attached = self.notebook.run(f"%nbray attach {self.name}", 90)
        lines = steps_of(attached.printed)
        assert lines == [f"step {i}" for i in range(len(lines))]
        assert len(lines) > 3, attached.printed
        assert self.notebook.run(f"{self.name}_n + 1 == {len(lines)}").result == "True"
        self.notebook.run(f"%nbray results {self.name} --drop")


@contextmanager
def _going(home: Path, notebook: Notebook, folder: Path, name: str) -> Iterator[_Going]:
    stop = folder / f"stop-{name}"
    steps = STEPS.format(str(stop))
    cell = notebook.run(
        f"%%remote --detach {name} --label-selector {json.dumps({'place': name})}\n"
        f"import os\nprint('pid', os.getpid())\n{steps}{name}_n = i"
    )
    notebook.wait(lambda: len(steps_of(cell.printed)) > 1, f"output of {name}: {cell.printed}")
    yield _Going(home, notebook, name, cell, stop)


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Notebook]]:
    """A kernel in a cluster with the nodes near, which is the head, and far."""
    with (
        pytest.MonkeyPatch.context() as patch, own_sessions() as root,
    ):  # fmt: skip
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        with lasting_cluster("--labels place=near"), attached_kernel() as notebook:
            told = notebook.run("import nbray\nnbray.get_runtime_context().gcs_address")
            joined = command(
                "start", f"--address={told.result[1:-1]}", "--num-cpus=2", "--labels=place=far"
            )
            assert joined.returncode == 0, joined.stderr
            yield root, notebook


STANDING_STILL = (("worker", 1), ("gcs", 3), ("raylet", 6), ("door", 9), ("keeper", 12))
"""The parts of a cell, and for how many seconds they stand still."""
CUTS = (
    ("near", "kernel", "door"),
    ("near", "door", "keeper"),
    ("near", "keeper", "worker"),
    ("near", "raylet", "gcs"),
    ("far", "keeper", "worker"),
    ("far", "keeper", "raylet"),
    ("far", "raylet", "gcs"),
)


def test_one_cut_connection_loses_nothing(two_nodes: tuple[Path, Notebook], tmp_path: Path) -> None:
    home, notebook = two_nodes
    for place in ("near", "far"):
        with _going(home, notebook, tmp_path, place) as one:
            for where, a, b in CUTS:
                if where == place:
                    assert cut_between(one.pid(a), one.pid(b)) > 0, (place, a, b)
                    one.goes_on()
            one.ends_well()


def test_a_keeper_that_loses_its_raylet_has_failed_with_its_cells_and_that_is_said(
    two_nodes: tuple[Path, Notebook], tmp_path: Path
) -> None:
    home, notebook = two_nodes
    with _going(home, notebook, tmp_path, "near") as one:
        assert cut_between(one.pid("keeper"), one.pid("raylet")) > 0
        attached = notebook.run("%nbray attach near", 90)
        assert "step 1" in attached.printed
        assert "its process ended with code 1: it lost the raylet of its node" in attached.error
        notebook.run("%nbray results near --drop")
    with _going(home, notebook, tmp_path, "near") as again:
        again.ends_well()


def test_a_worker_that_loses_its_raylet_has_ended_and_its_cell_runs_again(
    two_nodes: tuple[Path, Notebook], tmp_path: Path
) -> None:
    home, notebook = two_nodes
    with _going(home, notebook, tmp_path, "near") as one:
        assert cut_between(one.pid("worker"), one.pid("raylet")) > 0
        notebook.wait(lambda: one.cell.printed.count("step 1\n") == 2, "its second run", 60)
        one.stop.touch()
        assert "From near" in notebook.run("%nbray attach near", 60).printed


def test_parts_that_stand_still_delay_it_and_lose_nothing(
    two_nodes: tuple[Path, Notebook], tmp_path: Path
) -> None:
    home, notebook = two_nodes
    with _going(home, notebook, tmp_path, "far") as one:
        stopped = [(one.pid(part), seconds) for part, seconds in STANDING_STILL]
        began = time.monotonic()
        try:
            for pid, _ in stopped:
                stand_still(pid)
            for pid, seconds in sorted(stopped, key=lambda known: known[1]):
                threading.Event().wait(began + seconds - time.monotonic())
                os.kill(pid, signal.SIGCONT)
        finally:
            for pid, _ in stopped:
                os.kill(pid, signal.SIGCONT)
        one.goes_on()
        one.ends_well()
