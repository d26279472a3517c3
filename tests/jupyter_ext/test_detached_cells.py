"""Cells that live in the cluster: nothing is lost when the notebook, the GCS or the head goes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from support.commands import command
from support.detached import STEPS, attached_kernel, kill_kernel, lasting_cluster
from support.kernel import (
    Notebook,
    fresh_notebook,
    one_kernel_for_most,
    shared_notebook,
)
from support.processes import kill_gcs, running

from nbray.testing import wait_until

__all__ = ["fresh_notebook", "one_kernel_for_most", "shared_notebook"]


def test_a_detached_cell_shows_itself_and_brings_its_names(notebook: Notebook) -> None:
    notebook.run("y = 5\nseen = []\ndef f(a):\n    seen.append(a)\n    return a + y")
    detached = notebook.run(
        "%%remote --detach train\nfrom IPython.display import HTML, display\nprint('begun')\n"
        "display(HTML('<b>plot</b>'))\nprint('ended')\nx = f(3)\nx * 2"
    )
    # This kernel's own cluster ends with it.
    assert detached.printed.startswith("Detached as train, in the cluster that this kernel has")
    attached = notebook.run("%nbray attach train")
    assert attached.printed.startswith("begun\nended\nFrom train (In [")
    html = [c["data"].get("text/html") for k, c in attached.messages if k == "display_data"]
    assert html[0] == "<b>plot</b>"
    assert attached.results[1] == "16"
    assert notebook.run("x, seen").result == "(8, [3])"
    notebook.wait(lambda: "train is done" in detached.printed, "the end in the cell of the start")
    assert "begun\nended\n" in detached.printed


def test_what_it_raised_is_raised_where_it_is_attached(notebook: Notebook) -> None:
    notebook.run("%%remote --detach bad\ndef deep(n):\n    return 1 / n\nx = deep(0)")
    error = notebook.run("%nbray attach bad").error
    assert "Cell bad (In [" in error and "line 3, in deep" in error and "return 1 / n" in error
    assert "ZeroDivisionError: division by zero" in error
    assert notebook.run("%nbray results bad --drop").printed == "bad is forgotten.\n"
    assert "there is no detached cell 'bad'" in notebook.run("%nbray attach bad").printed


@pytest.mark.slow
def test_the_frames_of_what_failed_are_there_for_who_attaches(notebook: Notebook) -> None:
    notebook.run(
        "%%remote --detach wrong\nimport nbray\n@nbray.remote\ndef part(a):\n    b = a + 1\n"
        "    return b / 0\nwhole = 7\nnbray.get(part.remote(whole))"
    )
    assert "%nbray debug looks into it" in notebook.run("%nbray attach wrong").error
    looked = notebook.answer("%nbray debug", ["p ('b is', b)", "up", "p ('whole is', whole)", "q"])
    assert "('b is', 8)" in looked.printed and "('whole is', 7)" in looked.printed
    assert "no failed task whose arguments" in notebook.run("%nbray debug --rerun").printed


@pytest.mark.slow
def test_a_breakpoint_in_a_detached_cell_is_passed_over_and_told(notebook: Notebook) -> None:
    notebook.run("%%remote --detach stops\nbreakpoint()\nx = 5")
    attached = notebook.run("%nbray attach stops")
    assert "is at a breakpoint: nobody is there to look, so it goes on." in attached.printed
    assert "From stops" in attached.printed


def test_a_name_is_taken_once(notebook: Notebook) -> None:
    notebook.run("%%remote --detach once\n1")
    notebook.run("%nbray attach once")
    again = notebook.run("%%remote --detach once\n2").printed
    assert "there is a detached cell 'once' already" in again
    assert "cannot name a detached cell" in notebook.run("%%remote --detach In[5]\n2").printed
    both = notebook.run("%%remote --detach other --noblock\n2").printed
    assert "--detach and --noblock do not go together" in both


@pytest.mark.slow
def test_a_detached_map_has_its_results_under_its_own_name(notebook: Notebook) -> None:
    notebook.run("%%remote --detach squares --map i=range(5)\nprint(i)\ni * i")
    assert "From squares" in notebook.run("%nbray attach squares").printed
    assert notebook.run("squares").result == "[0, 1, 4, 9, 16]"
    notebook.run("%%remote --detach pairs -o s,p --map i,j=[(1,2),(3,4)]\ns, p = i + j, i * j")
    notebook.run("%nbray attach pairs")
    assert notebook.run("s, p").result == "([3, 7], [2, 12])"
    notebook.run("%%remote --detach fails --map i=[4,0,1]\n8 / i")
    cell = notebook.run("%nbray attach fails")
    assert "Element 2 of 3: i = 0" in cell.printed and "ZeroDivisionError" in cell.error


@pytest.mark.slow
def test_it_reads_what_the_notebook_has_made_and_set_up(notebook: Notebook) -> None:
    notebook.run("%%remote --every\nSET = 41")
    notebook.run("import numpy\nbig = numpy.arange(100_000)")
    notebook.run("%%remote --noblock\nimport time\ntime.sleep(1)\nearly = 5")
    notebook.run(
        "import nbray\n@nbray.remote\ndef h(i):\n    print('nested', i)\n    return i\n"
        "refs = [h.remote(i) for i in range(3)]"
    )
    notebook.run(
        "%%remote --detach reads\n"
        "got = SET + early, int(big.sum()), nbray.get(refs), nbray.get(h.remote(9))"
    )
    assert "nested 9" in notebook.run("%nbray attach reads").printed
    assert notebook.run("got").result == "(46, 4999950000, [0, 1, 2], 9)"


@pytest.mark.slow
def test_output_that_is_cleared_is_cleared_where_it_is_attached(
    notebook: Notebook, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    notebook.run(
        "%%remote --detach frames\nfrom IPython.display import clear_output\nimport os, time\n"
        f"i = 0\nwhile not os.path.exists({str(stop)!r}):\n    clear_output(wait=True)\n"
        "    print('frame', i)\n    i += 1\n    time.sleep(0.1)\n"
    )
    live = notebook.start("%nbray attach frames")
    notebook.wait(lambda: [k for k, _ in live.messages].count("clear_output") > 1, "frames")
    stop.touch()
    notebook.wait(lambda: live.idle, "the end")
    later = notebook.run("%nbray attach frames")
    assert later.printed.count("frame ") == 1
    assert "clear_output" not in [kind for kind, _ in later.messages]


@pytest.mark.slow
def test_an_interrupt_lets_go_and_results_stop_it(notebook: Notebook) -> None:
    notebook.run("%%remote --detach long\nimport time\nprint('begun')\ntime.sleep(1000)")
    attached = notebook.start("%nbray attach long")
    notebook.wait(lambda: "begun" in attached.printed, "its output")
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: attached.idle, "the prompt")
    assert "Let go of long, which goes on in the cluster" in attached.error
    assert "long runs" in notebook.run("%nbray results long --drop").printed
    assert notebook.run("%nbray results long --stop").printed == "long is asked to stop.\n"
    assert "long (In [" in notebook.run("%nbray attach long").error
    assert "cancelled" in notebook.run("%nbray results").result


@pytest.mark.slow
def test_limits_are_said_when_they_are_met(notebook: Notebook) -> None:
    notebook.run("%nbray config kept_output 100kB")
    notebook.run(
        "%%remote --detach many\nfrom IPython.display import HTML, display\n"
        "for i in range(20):\n    display(HTML('x' * 10_000))\nfor i in range(300):\n    print(i)"
    )
    attached = notebook.run("%nbray attach many")
    assert "displays of many were not kept" in attached.printed
    assert "100 more lines after the first 200" in "".join(attached.results)
    notebook.run("%%remote --detach large -o values\nvalues = bytes(1_000_000)")
    notebook.run("%nbray attach large")
    notebook.run("%nbray config kept_results 100kB")
    refused = notebook.run("%%remote --detach more\n1").printed
    assert "kept_results allows 100,000" in refused
    notebook.run("%nbray results large --drop\n%nbray config kept_cells 1")
    assert "as many as kept_cells allows" in notebook.run("%%remote --detach more\n1").printed
    notebook.run("%nbray config kept_cells 1000\n%nbray config kept_results 10GB")


@pytest.mark.slow
def test_odd_names_are_no_cells_and_odd_text_is_shown(notebook: Notebook) -> None:
    refused = notebook.run(f"%%remote --detach {'x' * 10_000}\n1").printed
    assert "(10,000 characters) cannot name a detached cell" in refused and len(refused) < 400
    assert "'' cannot name a detached cell" in notebook.run("%%remote --detach ''\n1").printed
    for line in ("attach a\\ud800b", "results a\\ud800b --drop", f"attach {'y' * 10_000}"):
        said = notebook.run(f"get_ipython().run_line_magic('nbray', '{line}')")
        assert "there is no detached cell" in said.printed, said.error
    notebook.run(
        "%%remote --detach größe.模型\nfrom IPython.display import HTML, display\n"
        "print('a\\ud800b')\ndisplay(HTML('c\\ud800d'))\nodd = 'e\\ud800f'"
    )
    attached = notebook.run("%nbray attach größe.模型")
    assert attached.printed.startswith("a\\ud800b\nFrom größe.模型"), attached.error
    html = [c["data"].get("text/html") for k, c in attached.messages if k == "display_data"]
    assert html == ["c\\ud800d"]
    assert notebook.run("odd == 'e\\ud800f'").result == "True"


@pytest.mark.slow
def test_huge_output_is_bounded_and_what_is_left_out_is_said(notebook: Notebook) -> None:
    notebook.run(
        "%%remote --detach huge_output\nfrom IPython.display import HTML, display\nimport time\n"
        "display(HTML('q' * 150_000_000))\nprint('z' * 5_000_000)\n"
        "for i in range(600):\n    display(HTML(str(i)))\n    time.sleep(0.002)\nprint('last')"
    )
    attached = notebook.run("%nbray attach huge_output", 90)
    assert "(too large to be shown: 150 MB)" in "".join(attached.results)
    assert "displays of huge_output were not kept" in attached.printed
    assert "at most 500 displays of a cell" in attached.printed
    assert "last\n" in attached.printed and len(attached.printed) < 200_000


@pytest.mark.slow
def test_a_thousand_detached_cells_are_listed(fresh_notebook: Notebook) -> None:
    fresh_notebook.run(
        "from nbray.jupyter_ext.kept.space import Row, claim\n"
        "for i in range(1000):\n"
        "    claim(Row(f'cell{i}', str(i), 'In [1]', 'source', 'me', ('nobody', ''), began=i))"
    )
    listed = fresh_notebook.run("%nbray results").result
    assert "cell999" in listed and "cell800" in listed and "cell799" not in listed
    assert "The newest 200 of 1,000 are shown." in listed and "lost" in listed


# --- kills -----------------------------------------------------------------------


@pytest.mark.slow
def test_it_outlives_its_kernel_and_the_gcs_and_is_shown_to_two_others(
    home: Path, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    with lasting_cluster():
        with attached_kernel() as first:
            first.run("import numpy\nbig = numpy.arange(500_000)\ndef size():\n    return big.size")
            cell = first.run(
                f"%%remote --detach train\n{STEPS.format(str(stop))}twice = big * 2\nn = size()\nn"
            )
            first.wait(lambda: "step 3\n" in cell.printed, "its output")
            assert cell.printed.startswith("Detached as train: it goes on without this kernel.")
            kill_kernel(first)
        with attached_kernel() as second, attached_kernel() as third:
            live = [second.start("%nbray attach train"), third.start("%nbray attach train")]
            second.wait(lambda: "step 5\n" in live[0].printed, "its output")
            kill_gcs(home)
            third.wait(lambda: "step 9\n" in live[1].printed, "its output")
            stop.touch()
            second.wait(lambda: live[0].idle, "its end")
            third.wait(lambda: live[1].idle, "its end")
            for cell in live:
                lines = [line for line in cell.printed.splitlines() if line.startswith("step")]
                assert lines == [f"step {i}" for i in range(len(lines))]
                assert cell.result == "500000" or "500000" in cell.results
            assert live[0].printed.split("From train")[0] == live[1].printed.split("From train")[0]
            for notebook in (second, third):
                assert notebook.run("n, int(twice[-1])").result == "(500000, 999998)"
            assert third.run("%%remote\nint(twice[1])").result == "2"


@pytest.mark.slow
def test_what_the_kernel_had_not_handed_over_leaves_nothing(home: Path) -> None:
    with lasting_cluster(), attached_kernel() as second:
        with attached_kernel() as first:
            first.run("%%remote --noblock\nimport time\ntime.sleep(1000)\nslow = 1")
            first.start("%%remote --detach never\nresult = slow")
            second.wait(lambda: "never" in second.run("%nbray results").result, "the claim")
            assert "handed over" in second.run("%nbray results").result
            kill_kernel(first)
        second.wait(lambda: "never" not in second.run("%nbray results").result, "its end", 60)
        wait_until(lambda: not running(home, "nbray.jupyter_ext.kept"), "the keeper's leave", 90)


@pytest.mark.slow
def test_a_killed_keeper_is_told_and_another_one_takes_its_place(home: Path) -> None:
    with lasting_cluster(), attached_kernel() as notebook:
        cell = notebook.run("%%remote --detach long\nimport time\nprint('begun')\ntime.sleep(1000)")
        notebook.wait(lambda: "begun" in cell.printed, "its output")
        for process in running(home, "nbray.jupyter_ext.kept"):
            process.kill()
        lost = notebook.run("%nbray attach long")
        assert "begun" in lost.printed
        assert "What ran long has ended before it: its process ended with code -9" in lost.error
        assert "failed" in notebook.run("%nbray results").result
        notebook.run("%%remote --detach again\nx = 6 * 7")
        notebook.run("%nbray attach again")
        assert notebook.run("x").result == "42"


@pytest.mark.slow
def test_a_head_that_comes_back_keeps_what_is_in_the_gcs(home: Path) -> None:
    with lasting_cluster():
        session = max(home.glob("s*"), key=os.path.getmtime)
        with attached_kernel() as first:
            first.run("%%remote --detach small\nprint('hello')\nx = 7")
            first.run("%%remote --detach large\nbig = bytes(1_000_000)\ny = 8")
            first.run("%nbray attach small\n")
            first.run("%nbray attach large\n")
            cell = first.run("%%remote --detach going\nimport time\nprint(1)\ntime.sleep(1000)")
            first.wait(lambda: "1\n" in cell.printed, "its output")
            for part in (
                "nbray.raylet",
                "nbray.gcs",
                "nbray.core_worker.run.template",
                "nbray.jupyter_ext.kept",
            ):
                for process in running(home, part):
                    with suppress(psutil.NoSuchProcess):  # the death of another one ended it
                        process.kill()
            wait_until(lambda: not running(home, "nbray.raylet"), "the end of the head")
        again = command("start", "--head", "--num-cpus=2", f"--session={session}")
        assert again.returncode == 0, again.stderr
        with attached_kernel() as second:
            assert second.run("%nbray attach small").printed.startswith("hello\nFrom small")
            assert "Without big: what kept 'large' has ended." in (
                second.run("%nbray attach large").printed
            )
            assert "what ran it has ended before" in second.run("%nbray attach going").printed
            assert second.run("x, y").result == "(7, 8)"


@pytest.mark.slow
def test_a_result_that_is_larger_than_the_store_is_kept(home: Path) -> None:
    with lasting_cluster("--object-store-memory=100MB"):
        with attached_kernel() as first:
            first.run("%%remote --detach huge\nimport numpy\nhuge = numpy.ones(20_000_000)", 60)
            first.run("%nbray attach huge", 60)
            kill_kernel(first)
        with attached_kernel() as second:
            assert "huge 160.0 MB" in second.run("%nbray results").result
            second.run("%nbray attach huge", 60)
            assert second.run("float(huge.sum())", 60).result == "20000000.0"


# --- cells that are detached while they run ------------------------------------------


@pytest.mark.slow
def test_detachable_cells_are_as_any_others(fresh_notebook: Notebook) -> None:
    notebook = fresh_notebook
    notebook.run("%nbray config detachable yes\ny = 5\nrows = []")
    cell = notebook.run("%%remote\nprint('seen')\nx = y + 1\nrows.append(1)\nx * 2")
    assert cell.printed == "seen\n" and cell.result == "12"
    assert notebook.run("x, rows").result == "(6, [1])"
    failed = notebook.run("%%remote\nx = 1 / 0")
    assert f"Cell {failed.label}, line 2" in failed.error and "As before it: x." in failed.error
    looked = notebook.answer("%nbray debug", ["p ('y is', y)", "q"])
    assert "('y is', 5)" in looked.printed
    assert notebook.run("%remote x + 1").result == "7"
    later = notebook.run("%%remote --noblock\nimport time\ntime.sleep(0.5)\nz = 3")
    assert notebook.run("z").result == "3"
    notebook.wait(
        lambda: "No detached cell" in "".join(notebook.run("%nbray results").results), "their end"
    )
    gone = notebook.run(f"%nbray detach {later.label.replace(' ', '')}").printed
    assert "is running" in gone
    stopped = notebook.start("%%remote\nimport time\nprint('begun')\ntime.sleep(1000)")
    notebook.wait(lambda: "begun" in stopped.printed, "its output")
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: stopped.idle, "the prompt")
    assert "was cancelled" in stopped.error
    notebook.run("%nbray config detachable no")
    plain = notebook.run("%%remote --noblock\nimport time\ntime.sleep(1000)")
    refused = notebook.run(f"%nbray detach {plain.label.replace(' ', '')}").printed
    assert "hangs on this kernel" in refused and "run it again with" in refused


@pytest.mark.slow
def test_a_cell_that_is_let_loose_outlives_its_kernel_and_others_do_not(
    home: Path, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    with lasting_cluster(), attached_kernel() as second:
        with attached_kernel() as first:
            first.run("%nbray config detachable yes")
            steps = STEPS.format(str(stop))
            loose = first.run(f"%%remote --noblock\n{steps}z = 77")
            tied = first.run(f"%%remote --noblock\n{steps}z = 78")
            first.wait(lambda: "step 2" in loose.printed and "step 2" in tied.printed, "output")
            label = loose.label.replace(" ", "")
            said = first.run(f"%nbray detach {label} moved").printed
            assert said.startswith(f"{loose.label} is detached as moved")
            first.wait(lambda: "step 9\n" in loose.printed, "more of its output")
            kill_kernel(first)
        attached = second.start("%nbray attach moved")
        second.wait(lambda: "step 12\n" in attached.printed, "its output")
        stop.touch()
        second.wait(lambda: attached.idle, "its end")
        assert "From moved (In [" in attached.printed
        assert second.run("z").result == "77"
        names = "from nbray.jupyter_ext.kept import space\nspace.names()"
        second.wait(lambda: second.run(names).result == "['moved']", "the end of the other")


@pytest.mark.slow
def test_the_end_of_the_cluster_says_what_ends_with_it(fresh_notebook: Notebook) -> None:
    fresh_notebook.run("%%remote --detach long\nimport time\ntime.sleep(1000)")
    slow = fresh_notebook.run("%%remote --noblock\nimport time\ntime.sleep(1000)\nslow = 1")
    waits = fresh_notebook.start("%%remote --detach never\nx = slow")
    names = "from nbray.jupyter_ext.kept import space\nspace.names()"
    fresh_notebook.wait(lambda: "begins when" in waits.printed, "its wait")
    assert f"never begins when all that it reads is there: {slow.label} runs." in waits.printed
    fresh_notebook.manager.interrupt_kernel()
    fresh_notebook.wait(lambda: waits.idle, "the prompt")
    assert "KeyboardInterrupt" in waits.error
    fresh_notebook.wait(
        lambda: fresh_notebook.run(names).result == "['long']", "the end of what was taken back"
    )
    stopped = fresh_notebook.run("%nbray stop").printed
    assert "nbray is stopped. Detached cells ended with it: long." in stopped


@pytest.mark.slow
def test_a_cell_that_was_handed_over_while_it_was_taken_back_ends_and_is_forgotten(
    notebook: Notebook,
) -> None:
    cell = notebook.run("%%remote --detach unwanted\nimport time\nprint('in')\ntime.sleep(1000)")
    notebook.wait(lambda: "in\n" in cell.printed, "its output")
    notebook.run(
        "from nbray.jupyter_ext.kept import handing, space\n"
        "handing.take_back(space.find('unwanted').id)"
    )
    is_there = "'unwanted' in space.names()"
    notebook.wait(lambda: notebook.run(is_there).result == "False", "its end")


@pytest.mark.slow
def test_leaving_the_cluster_leaves_the_cell(home: Path, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    with lasting_cluster(), attached_kernel() as notebook:
        cell = notebook.run(f"%%remote --detach long\n{STEPS.format(str(stop))}z = 5")
        notebook.wait(lambda: "step 1" in cell.printed, "its output")
        assert "it runs on" in notebook.run("%nbray stop").printed
        attached = notebook.start("%nbray attach long")
        notebook.wait(lambda: "step 5" in attached.printed, "its output")
        stop.touch()
        notebook.wait(lambda: attached.idle, "its end")
        assert notebook.run("z").result == "5"
        assert "Traceback" not in cell.printed
        forever = notebook.run(
            "%%remote --detach forever\nprint('on')\nimport time\ntime.sleep(1000)"
        )
        notebook.wait(lambda: "on\n" in forever.printed, "its output")
        assert "Detached cells of notebooks ended with it: forever.\n" in command("stop").stdout
