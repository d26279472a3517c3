"""A notebook and its cluster: who ends it, what becomes of it, and what an interrupt reaches."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from support.commands import command
from support.kernel import Notebook, running_kernel
from support.stopping import stand_still

from nbray.testing import processes_of, wait_until


def _interrupt_in_get(notebook: Notebook, before: str) -> str:
    cell = notebook.start(
        f"{before}\nrefs = [nap.remote() for _ in range(5)]\nprint('in', flush=True)\n"
        "nbray.get(refs)"
    )
    notebook.wait(lambda: "in\n" in cell.printed, "the tasks")
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: cell.idle, "the prompt")
    assert "KeyboardInterrupt" in cell.error and "Error in callback" not in cell.printed
    return cell.printed


def test_an_interrupt_stops_the_tasks_of_the_cell_in_which_the_cluster_begins(
    session_root: Path,
) -> None:
    with running_kernel() as notebook:
        notebook.run("%load_ext nbray\n%nbray config interrupt_grace 30")
        notebook.run("import nbray, time\n@nbray.remote\ndef nap(): time.sleep(60)")
        free = "time.sleep(0.3); nbray.available_resources() == nbray.cluster_resources()"
        for begin in ("nbray.init(address='local', num_cpus=2)", "nbray.shutdown()"):
            assert "5 tasks of this cell: stopped." in _interrupt_in_get(notebook, begin)
            notebook.wait(lambda: notebook.run(free).result == "True", "the CPUs")
        notebook.run("kept = nap.remote()")
        assert "5 tasks of this cell: stopped." in _interrupt_in_get(notebook, "")
        state = "from nbray.state import local_state\nlocal_state.describe(kept).state"
        assert notebook.run(state).result == "'pending'"


def _pid_of(root: Path, module: str) -> int:
    (found,) = (process.pid for process in processes_of(root) if module in process.info["cmdline"])
    return found


@pytest.mark.slow
def test_a_notebook_says_whose_cluster_it_leaves_and_begins_anew_after_a_loss(
    session_root: Path,
) -> None:
    with running_kernel() as notebook:
        notebook.run("%load_ext nbray\nimport nbray")
        started = notebook.run("%nbray start --head --num-cpus 1 --detach")
        assert "1 node" in started.result
        assert "%nbray stop leaves it" in notebook.run("%nbray start").printed
        left = notebook.run("%nbray stop").printed
        assert "it runs on. %nbray attach" in left and "`nbray stop`" in left
        assert "1 node" in notebook.run("%nbray attach").result
        notebook.run("mine = [1]")
        notebook.run("%%remote\nmine.append(2)\nother = 5\nlarge = list(range(60_000))")

        gcs, raylet = _pid_of(session_root, "nbray.gcs"), _pid_of(session_root, "nbray.raylet")
        stand_still(gcs)
        try:
            asked = notebook.run("%nbray status").printed
            assert "%nbray status: the cluster has not answered within 5 s" in asked
        finally:
            os.kill(gcs, signal.SIGCONT)
        assert "1 node" in notebook.run("%nbray status").result

        os.kill(raylet, signal.SIGKILL)
        wait_until(
            lambda: "has lost its cluster" in notebook.run("%nbray status").printed, "the loss"
        )
        assert "%nbray start" in notebook.run("%%remote\n1").error
        again = notebook.run("%nbray start --head --num-cpus 1")
        assert "was lost, and the values in it" in again.printed and "1 node" in again.result
        assert notebook.run("%%remote\nmine.append(3)\nlen(mine)").result == "3"
        assert "Run that cell again." in notebook.run("large").error
        assert notebook.run("%nbray stop").printed == "nbray is stopped.\n"
        os.kill(gcs, signal.SIGKILL)
    for left in session_root.iterdir():  # whoever would have removed it was killed
        shutil.rmtree(left)


@pytest.mark.slow
def test_a_full_store_names_the_variables(
    small_disk: Path, session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_STORE_FULL_WAIT_S", "0.5")
    with running_kernel() as notebook:
        notebook.run(
            "%load_ext nbray\nimport nbray, numpy as np\nnbray.init(address='local', num_cpus=1, "
            f"object_store_memory=100e6, object_spilling_directory={str(small_disk)!r});"
        )
        assert not notebook.run("%%remote\nheld = np.ones(9_000_000)").error
        made = notebook.run("%%remote\nsize = 20_000_000\nx = np.ones(size)").error
        assert "OutOfDiskError" in made and "0 (held)  owned by" in made
        assert "It is return value" in made and "0 (x)" in made
        notebook.run("a = np.ones(20_000_000)")
        assert "It is memory of 'a', which the cell reads." in notebook.run("%remote a.sum()").error


@pytest.mark.slow
def test_a_start_with_an_address_gives_a_cluster_a_node_of_this_machine(home: Path) -> None:
    done = command("start", "--head", "--port=0", "--num-cpus=1", "--include-dashboard=false")
    found = re.search(r"cluster (\S+)\.", done.stdout)
    assert found, done.stderr
    with running_kernel() as notebook:
        notebook.run("%load_ext nbray\nimport nbray")
        line = f"%nbray start --address={found[1]} --num-cpus 3 --labels here=yes"
        assert "--dashboard-port is of a head" in notebook.run(f"{line} --dashboard-port 0").printed
        assert notebook.run("nbray.is_initialized()").result == "False"
        shown = notebook.run(line)
        assert "2 nodes" in shown.result, shown.error
        assert "%nbray stop leaves the cluster." in shown.result
        assert notebook.run("nbray.cluster_resources()['CPU']").result == "4.0"
        assert "it runs on" in notebook.run("%nbray stop").printed
        again = notebook.run(f"%nbray attach {found[1]}\nnbray.cluster_resources()['CPU']")
        assert again.result, again.error
        notebook.wait(
            lambda: notebook.run("nbray.cluster_resources()['CPU']").result == "1.0", "the head"
        )
    assert command("stop").returncode == 0
