"""The magics in a real kernel: what a person sees in each cell."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.kernel import Notebook, notebook

__all__ = ["notebook"]


def test_values_go_and_come_by_name(notebook: Notebook) -> None:
    notebook.run("import numpy as np\nscale = 3\nbig = np.arange(100_000.0)")
    notebook.run("def times(x):\n    return x * scale")
    cell = notebook.run(
        "%%remote\nimport os\nprint('made in a worker')\nscale = 10\n"
        "total = times(big.sum())\npid = os.getpid()\ntotal"
    )
    assert cell.printed == "made in a worker\n"
    assert cell.result == "np.float64(49999500000.0)"
    shown = notebook.run("globals()['total'], globals()['total']._repr_html_()").result
    assert "<RemoteValue total: float64 () float64, done, In [" in shown
    assert "from</span> In [" in shown
    assert notebook.run("import os as here\nint(total), pid != here.getpid(), scale").result == (
        "(49999500000, True, 10)"
    )
    assert "RemoteValue" not in notebook.run("repr(total)").result


def test_functions_and_classes_come_home(notebook: Notebook) -> None:
    notebook.run(
        "%%remote\nrate = 2\ndef f(x):\n    return x * rate\n"
        "class A:\n    def m(self):\n        return f(10)\na = A()"
    )
    assert notebook.run("a.m()").result == "20"
    assert notebook.run("rate = 5\nf(1), a.m(), type(a) is A").result == "(5, 50, True)"


def test_remote_cells_feed_each_other_without_blocking(notebook: Notebook, tmp_path: Path) -> None:
    go = tmp_path / "go"
    first = notebook.run(
        f"%%remote --noblock\nimport os, time\nwhile not os.path.exists({str(go)!r}):\n"
        "    time.sleep(0.01)\nprint('late')\nx = 20\nx"
    )
    assert first.idle and not first.printed
    notebook.run("%%remote --noblock\ny = x + 1")
    assert notebook.run("type(globals()['y']).__name__").result == "'RemoteValue'"
    go.touch()
    notebook.run("def use():\n    return y * 2")
    last = notebook.run("use()")
    assert last.result == "42"
    notebook.wait(lambda: "late" in first.printed, "late output in the cell that made it")
    notebook.wait(
        lambda: any(name == "display_data" for name, _ in first.messages), "the late result"
    )
    assert not last.printed


def test_output_of_tasks_goes_to_the_cell_that_submitted_them(notebook: Notebook) -> None:
    notebook.run(
        "import nbray, time\n@nbray.remote\ndef speak(i):\n"
        "    time.sleep(0.5)\n    print('said', i)"
    )
    first = notebook.run("refs = [speak.remote(1)]")
    second = notebook.run("refs += [speak.remote(2)]\nnbray.get(refs)")
    notebook.wait(lambda: "said 1" in first.printed, "the first task's output")
    notebook.wait(lambda: "said 2" in second.printed, "the second task's output")
    assert first.printed.startswith("(speak pid=")
    assert "said 1" not in second.printed


def test_an_error_shows_the_cells_line_and_what_hangs_on_it(notebook: Notebook) -> None:
    cell = notebook.run("%%remote\nx = 1\ny = x / 0")
    assert "ZeroDivisionError" in cell.error
    assert "line 3, in <module>\n    y = x / 0" in cell.error
    assert "Without a value because of it: x (In [3]), y (In [3])." in cell.error
    assert "nbray/" not in cell.error and "jupyter_ext/" not in cell.error
    assert "line 3, in <module>" in notebook.run("y").error
    dependent = notebook.run("%%remote\nz = y")
    assert "line 3, in <module>" in dependent.error
    assert "z (In [5])" in dependent.error
    assert notebook.run("%%remote\ny = 1\ny").result == "1"


def test_what_cannot_be_sent_is_named_before_anything_runs(notebook: Notebook) -> None:
    notebook.run("import threading\nlock = threading.Lock()")
    cell = notebook.run("%%remote\nprint('ran')\nlock.acquire()")
    assert "The cell reads 'lock', a lock that cannot be sent to a worker" in cell.printed
    assert "ran" not in cell.printed
    stays = notebook.run("%%remote\nimport threading as t\nmade = t.Lock()\nkept = 1")
    assert not stays.error
    assert "'made' is a lock that stayed in its worker" in notebook.run("made").error
    assert notebook.run("kept").result == "1"


def test_a_branch_that_does_not_bind_leaves_the_name(notebook: Notebook) -> None:
    notebook.run("x = 7")
    notebook.run("%%remote\nfor x in []:\n    new = 1")
    assert notebook.run("x").result == "7"
    assert "NameError: The remote cell In [4] did not assign 'new'." in notebook.run("new").error


def test_plots_and_await_work(notebook: Notebook) -> None:
    cell = notebook.run(
        "%%remote\nimport asyncio\nimport matplotlib.pyplot as plt\n"
        "await asyncio.sleep(0.01)\nplt.plot([1, 2]);"
    )
    assert not cell.error
    pictures = [c["data"] for name, c in cell.messages if name == "display_data"]
    # A slow machine shows the progress of the cell beside it.
    assert ["image/png" in data for data in pictures].count(True) == 1


def test_an_interrupt_returns_the_prompt_and_cancels(notebook: Notebook) -> None:
    cell = notebook.start("%%remote\nprint('begun')\nimport time\ntime.sleep(60)\nx = 1")
    notebook.wait(lambda: "begun" in cell.printed, "the start of the cell")
    started = time.monotonic()
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: cell.idle, "the prompt", timeout=30)
    assert time.monotonic() - started < 30
    assert "KeyboardInterrupt: remote cell In [3] was cancelled." in cell.error
    assert "TaskCancelledError" in notebook.run("x").error
    assert notebook.run("%%remote\n6 * 7").result == "42"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%nbray frob", "UsageError: %nbray: there is no command 'frob'."),
        ("%nbray start --cpus 3", "there is no option --cpus. Did you mean --num-cpus?"),
        ("%%remote --resources {x\n1", """'{x' is not JSON, as '{"name": 1}'"""),
        ("# it is slow\n%%remote\n1", "%%remote has to be the first line of its cell"),
        ("%nbray attach nowhere:1", "this kernel is in a cluster"),
    ],
)
def test_wrong_lines_are_answered_in_one(notebook: Notebook, line: str, said: str) -> None:
    printed = notebook.run(line).printed.strip()
    assert said in printed
    assert "\n" not in printed


def test_what_only_the_compiler_finds_is_not_sent(notebook: Notebook) -> None:
    told = notebook.run("%%remote\nreturn 5").error
    assert "SyntaxError: 'return' outside function" in told
    assert "TaskError" not in told
    assert notebook.run("%%remote\nawait __import__('asyncio').sleep(0, 7)").result == "7"


def test_start_and_stop_may_be_repeated(notebook: Notebook) -> None:
    again = notebook.run("%nbray start --head").printed
    assert again == "nbray runs already; %nbray stop ends it.\n"
    other = notebook.run("%nbray start --head --num-cpus 9 --labels a=b").printed
    assert "so --num-cpus, --labels had no effect: %nbray stop ends it" in other
    assert "CPU: 2 of 2 free" in notebook.run("%nbray status").result
    assert notebook.run("%nbray stop").printed == "nbray is stopped.\n"
    assert notebook.run("%nbray stop").printed == "nbray does not run.\n"
    assert "start_cluster" in notebook.run("%nbray config start_cluster no").result
    assert "no cluster yet" in notebook.run("%%remote\n1").printed
    notebook.run("%nbray config start_cluster yes")
    without = notebook.run("%%remote\n1 + 2")
    assert without.printed.startswith("There was no cluster, so one was started on this machine.")
    assert without.result == "3"
    notebook.run("%nbray stop")
    shown = notebook.run("%nbray start --head --num-cpus 1").result
    assert "1 node" in shown
    assert "Dashboard: " in shown or "No dashboard runs." in shown
    assert "More machines: %nbray scale 2 adds one here" in shown
    assert "%nbray stop ends the cluster." in shown
    assert notebook.run("%%remote\n1 + 1").result == "2"
