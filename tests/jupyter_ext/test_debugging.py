"""Remote errors and breakpoints in the kernel's own debugger, in a real kernel."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest
from support import from_afar
from support.cutting import cut_between
from support.kernel import Notebook, one_kernel_for_most, running_notebook, shared_notebook

from nbray.testing import processes_of
from nbray.wire import tls

__all__ = ["one_kernel_for_most", "shared_notebook"]

TASKS = """
import nbray
FACTOR = 3
@nbray.remote
def inner(a, b=2):
    part = a * b
    return part / 0 * FACTOR
@nbray.remote
def outer(x):
    y = x + 1
    return nbray.get(inner.remote(y))
@nbray.remote
def stops(i):
    q = i * 10
    breakpoint()
    return q
"""


def test_the_frames_of_a_failed_task_and_of_its_children_are_walked(notebook: Notebook) -> None:
    notebook.run(TASKS)
    assert "ZeroDivisionError" in notebook.run("nbray.get(outer.remote(4))").error
    cell = notebook.answer(
        "%nbray debug", ["p part, FACTOR, part * 2", "args", "up", "p ('outer', x, y)", "q"]
    )
    assert "(10, 3, 20)" in cell.printed
    assert "a = 5" in cell.printed
    assert "('outer', 4, 5)" in cell.printed
    again = notebook.answer("%debug", ["p part", "q"])
    assert "10" in again.printed


def test_the_frame_of_a_remote_cell_has_the_names_of_the_cell(notebook: Notebook) -> None:
    notebook.run("%%remote\nv = [1, 2, 3]\nw = v[7]")
    cell = notebook.answer("%nbray debug", ["p v + [4]", "q"])
    assert "[1, 2, 3, 4]" in cell.printed
    assert "w = v[7]" in cell.printed


def test_breakpoint_stops_in_the_cell_and_steps(notebook: Notebook) -> None:
    cell = notebook.answer(
        "%%remote\nfor i in range(2):\n    breakpoint()\n    print('at', i)\n'done'",
        ["p 'i is', i", "n", "c", "!i = 7", "c"],
    )
    assert "('i is', 0)" in cell.printed
    assert "at 0\n" in cell.printed
    assert "at 7\n" in cell.printed
    assert cell.result == "'done'"


def test_tasks_at_breakpoints_queue_and_one_command_passes_all(notebook: Notebook) -> None:
    notebook.run(TASKS)
    cell = notebook.answer(
        "nbray.get([stops.remote(i) for i in range(8)])", ["p 'q is', q", "c", "ca"]
    )
    assert "('q is', 0)" in cell.printed
    assert cell.result == "[0, 10, 20, 30, 40, 50, 60, 70]"


def test_an_interrupt_at_the_prompt_ends_the_cell_and_its_tasks(notebook: Notebook) -> None:
    notebook.run(TASKS)
    cell = notebook.answer("nbray.get([stops.remote(i) for i in range(2)])", [None])
    assert "KeyboardInterrupt" in cell.error
    assert notebook.run("%%remote -o none\nnone = 0\n1 + 1").result == "2"


def test_a_task_that_fails_waits_with_its_frames_where_that_is_asked(notebook: Notebook) -> None:
    cell = notebook.answer(
        "%%remote --debug\nbig = bytearray(1 << 20)\nassert not big", ["p len(big)", "c"]
    )
    assert "1048576" in cell.printed
    assert "AssertionError" in cell.error


def test_a_task_of_a_cell_that_has_ended_waits_for_the_command(notebook: Notebook) -> None:
    notebook.run(TASKS)
    started = notebook.run("late = stops.remote(3)")
    notebook.wait(
        lambda: "is at a breakpoint, and waits: %nbray debug goes there." in started.printed,
        "the line in its cell",
    )
    cell = notebook.answer("%nbray debug", ["p 'q is', q", "c"])
    assert "('q is', 30)" in cell.printed
    assert notebook.run("nbray.get(late)").result == "30"


@pytest.mark.slow
def test_a_task_that_stands_still_in_its_debugger_is_waited_for_and_tells_when_it_goes_on(
    notebook: Notebook,
) -> None:
    notebook.run(TASKS)
    started = notebook.run("late = stops.remote(3)")
    line = "is at a breakpoint, and waits: %nbray debug goes there."
    notebook.wait(lambda: line in started.printed, "the line in its cell")
    worker = psutil.Process(int(re.findall(r"pid (\d+)", started.printed)[0]))
    worker.suspend()
    try:
        said = notebook.answer("%nbray debug", ["p 'q is', q"]).printed
    finally:
        worker.resume()
    assert "the command takes its time; its cell tells its end." in said
    notebook.wait(lambda: started.printed.count(line) == 2, "the line once more")
    cell = notebook.answer("%nbray debug", ["c"])
    assert "('q is', 30)" in cell.printed
    assert notebook.run("nbray.get(late)").result == "30"


@pytest.mark.slow
def test_tasks_on_another_node_are_debugged_also_when_their_worker_dies(
    notebook: Notebook,
) -> None:
    notebook.run("%nbray scale 2", 60)
    notebook.run(
        f"{TASKS}from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy\n"
        "here = nbray.get_runtime_context().get_node_id()\n"
        "(far,) = [n['NodeID'] for n in nbray.nodes() if n['Alive'] and n['NodeID'] != here]\n"
        "there = {'scheduling_strategy': NodeAffinitySchedulingStrategy(far, False)}"
    )
    notebook.run("nbray.get(inner.options(**there).remote(4))")
    assert "('part is', 8)" in notebook.answer("%nbray debug", ["p ('part is', part)", "q"]).printed
    cell = notebook.answer("nbray.get(stops.options(**there).remote(4))", ["p 'q is', q", "c"])
    assert "('q is', 40)" in cell.printed and "40" in cell.results
    started = notebook.run("dies = stops.options(max_retries=0, **there).remote(5)")
    notebook.wait(lambda: "%nbray debug goes there" in started.printed, "the line in its cell")
    psutil.Process(int(re.findall(r"pid (\d+)", started.printed)[0])).kill()
    assert "WorkerCrashedError" in notebook.run("nbray.get(dies)").error
    assert "none stands in a debugger" in notebook.run("%nbray debug").printed or (
        "its worker has gone" in started.printed
    )
    notebook.run("%nbray scale 1", 60)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["with TLS", "from afar", "from afar with TLS"])
def test_a_cluster_is_debugged_whatever_lies_between(
    way: str, session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "TLS" in way:
        monkeypatch.setenv("NBRAY_USE_TLS", "1")
    if "afar" in way:
        monkeypatch.setenv(from_afar.SWITCH, "1")
    with running_notebook() as notebook:
        assert ("TLS" in way) == any(session_root.glob(f"*/{tls.FOLDER}"))
        commands = [" ".join(found.info["cmdline"]) for found in processes_of(session_root)]
        assert ("afar" in way) == any("gateway" in command for command in commands)
        notebook.run(TASKS)
        assert "ZeroDivisionError" in notebook.run("nbray.get(outer.remote(4))").error
        cell = notebook.answer("%nbray debug", ["p 'part is', part", "up", "p 'y is', y", "q"])
        assert "('part is', 10)" in cell.printed and "('y is', 5)" in cell.printed
        cell = notebook.answer("%nbray debug --rerun", ["p 'a is', a", "q"])
        assert "('a is', 5)" in cell.printed
        cell = notebook.answer("nbray.get(stops.remote(3))", ["p 'q is', q", "!q = 7", "c"])
        assert "('q is', 30)" in cell.printed and "7" in cell.results
        started = notebook.run("late = stops.remote(5)")
        line = "is at a breakpoint, and waits: %nbray debug goes there."
        notebook.wait(lambda: line in started.printed, "the line in its cell")
        assert "('q is', 50)" in notebook.answer("%nbray debug", ["p 'q is', q", "c"]).printed
        assert notebook.run("nbray.get(late)").result == "50"
        stopped = notebook.answer("nbray.get(stops.remote(1))", [None])
        assert "KeyboardInterrupt" in stopped.error
        notebook.run("%nbray stop")


@pytest.mark.slow
def test_a_tunnel_that_is_cut_at_a_breakpoint_loses_no_command(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(from_afar.SWITCH, "1")
    with running_notebook() as notebook:
        notebook.run(TASKS)
        started = notebook.run("late = stops.remote(5)")
        line = "is at a breakpoint, and waits: %nbray debug goes there."
        notebook.wait(lambda: line in started.printed, "the line in its cell")
        parts = {
            part: [p.pid for p in processes_of(session_root) if part in " ".join(p.info["cmdline"])]
            for part in ("nbray.client.agent", "nbray.client.gateway")
        }
        (agent,), (gateway,) = parts.values()
        worker = int(re.findall(r"pid (\d+)", started.printed)[0])
        assert cut_between(agent, gateway) > 0
        cut_between(agent, worker)  # a call from afar may have a socket of its own
        assert "('q is', 50)" in notebook.answer("%nbray debug", ["p 'q is', q", "c"], 90).printed
        assert notebook.run("nbray.get(late)", 90).result == "50"
        notebook.run("%nbray stop")


def test_a_frontend_without_input_is_told_and_the_task_goes_on(notebook: Notebook) -> None:
    notebook.run(TASKS)
    cell = notebook.run("nbray.get(stops.remote(1))")
    assert "it goes on, since nobody can be asked here" in cell.printed
    assert cell.result == "10"


def test_quit_ends_the_task_and_its_worker_serves_on(notebook: Notebook) -> None:
    notebook.run(TASKS)
    cell = notebook.answer(
        "import bdb\ntry:\n    nbray.get(stops.remote(1))\n"
        "except bdb.BdbQuit:\n    print('it quit')",
        ["q"],
    )
    assert "it quit" in cell.printed
    assert "10" in notebook.answer("nbray.get(stops.remote(1))", ["c"]).result


@pytest.mark.slow
def test_hold_makes_every_failing_task_wait(notebook: Notebook) -> None:
    notebook.run(TASKS)
    notebook.run("%nbray debug --hold")
    cell = notebook.answer("nbray.get(outer.remote(4))", ["p part", "c", "p y", "c"])
    assert "10\n" in cell.printed
    assert "5\n" in cell.printed
    notebook.run("%nbray debug --hold off")
    assert "ZeroDivisionError" in notebook.run("nbray.get(outer.remote(4))").error


def test_a_failed_task_runs_here_again_with_its_own_arguments(notebook: Notebook) -> None:
    notebook.run(
        "import numpy\n@nbray.remote\ndef adds(array, more, /, *, key=1):\n"
        "    total = array.sum() + more + key\n    raise KeyError(int(total))"
    )
    notebook.run("nbray.get(adds.remote(numpy.ones(1 << 20), nbray.put(3), key=5))")
    cell = notebook.answer("%nbray debug --rerun", ["p int(total), len(array)", "q"])
    assert "(1048584, 1048576)" in cell.printed


def test_a_failed_cell_runs_here_again(notebook: Notebook) -> None:
    notebook.run("threshold = 3")
    notebook.run("%%remote\nlist_of = [1] * threshold\nassert not list_of")
    cell = notebook.answer("%nbray debug --rerun", ["p list_of", "q"])
    assert "[1, 1, 1]" in cell.printed
