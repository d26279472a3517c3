"""A notebook whose nodes are jobs of a real Slurm."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.kernel import Notebook, running_kernel
from support.slurm import Slurm

from nbray.testing import processes_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

START = "%nbray start --slurm --include-dashboard=false --object-store-memory=100MB "
NODES = "len([n for n in nbray.nodes() if n['Alive']])"


@pytest.fixture
def notebook(slurm: Slurm, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    for name, value in slurm.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NBRAY_AUTOSCALER_UPDATE_INTERVAL_S", "0.5")
    monkeypatch.setenv("NBRAY_GCS_RPC_SERVER_RECONNECT_TIMEOUT_S", "8")
    with running_kernel() as running:
        running.run("%load_ext nbray\nimport nbray, time, os")
        yield running
    wait_until(lambda: not slurm.jobs(), "the end of all jobs", 90)
    wait_until(lambda: not processes_of(home), "the end of all nodes", 30)


def nodes(notebook: Notebook, count: int) -> None:
    notebook.wait(lambda: notebook.run(NODES).result == str(count), f"{count} nodes", 90)


def test_jobs_are_the_nodes_of_a_notebook_and_end_with_it(slurm: Slurm, notebook: Notebook) -> None:
    started = notebook.run(START + "--jobs 2 --num-cpus 2 --walltime 10")
    assert "1 node" in started.result, started.error
    nodes(notebook, 3)
    assert len(slurm.jobs()) == 2
    cell = notebook.run("%%remote\nprint(os.environ['SLURMD_NODENAME'], 'here')")
    assert "here" in cell.printed, cell.error
    stopped = notebook.run("%nbray stop").printed
    assert "nbray is stopped. 2 jobs of Slurm cancelled." in stopped
    wait_until(lambda: not slurm.jobs(), "the end of both jobs", 60)
    assert not list((Path.home() / ".nbray" / "slurm").iterdir())


def test_a_task_that_waits_for_a_job_is_told_what_the_job_waits_for(
    slurm: Slurm, notebook: Notebook
) -> None:
    notebook.run(START + "--jobs 0..1 --job-extra-directives=--hold")
    notebook.run("from nbray.state.lists import list_demand\nref = nbray.remote(abs).remote(-7)")
    ask = "print(*[why for row in list_demand() for why in row.lacking])"
    notebook.wait(lambda: "JobHeldUser (its user" in notebook.run(ask).printed, "the reason", 90)
    said = notebook.run(ask).printed
    assert "A node of type job will come: Slurm job " in said
    slurm.run("scontrol", "release", slurm.jobs()[0].split()[0])
    assert notebook.run("nbray.get(ref, timeout=90)", 100).result == "7"
    notebook.run("%nbray stop")


def test_a_kernel_that_is_killed_leaves_no_job_also_none_that_waits(
    slurm: Slurm, notebook: Notebook, home: Path
) -> None:
    notebook.run(START + "--jobs 4 --num-cpus 2")  # one more than there are nodes
    nodes(notebook, 4)
    wait_until(lambda: len(slurm.jobs("-t", "PD")) == 1, "the job that waits", 60)
    kernel = int(notebook.run("os.getpid()").result)
    os.kill(kernel, signal.SIGKILL)
    wait_until(lambda: not slurm.jobs(), "the end of all jobs", 90)
    wait_until(lambda: not processes_of(home), "the end of all nodes", 30)
    assert not list((Path.home() / ".nbray" / "slurm").iterdir())
    for session in home.iterdir():  # a start that is next would do it
        shutil.rmtree(session)


def test_two_notebooks_at_once_have_jobs_of_their_own(slurm: Slurm, notebook: Notebook) -> None:
    with running_kernel() as other:
        other.run("%load_ext nbray\nimport nbray")
        for one in (notebook, other):
            one.run(START + "--jobs 1")
        for one in (notebook, other):
            nodes(one, 2)
        assert len(slurm.jobs()) == 2
        assert "1 job of Slurm cancelled." in other.run("%nbray stop").printed
        wait_until(lambda: len(slurm.jobs()) == 1, "the end of one job", 60)
        assert notebook.run(NODES).result == "2"
        assert "1 job of Slurm cancelled." in notebook.run("%nbray stop").printed


def test_lines_that_cannot_be_are_refused(notebook: Notebook) -> None:
    for line, said in (
        ("--jobs 2", "--jobs needs --slurm"),
        ("--slurm --jobs 3..2", "the fewest come first"),
        ("--slurm --walltime soon", "is no time of Slurm's"),
        ("--slurm --detach", "ends with this kernel"),
        ("--slurm --memory 1GB --object-store-memory 2GB", "raise memory"),
    ):
        cell = notebook.run("%nbray start " + line)
        assert said in cell.printed + cell.error
        assert notebook.run("nbray.is_initialized()").result == "False"
