"""A notebook over time: edited modules, another folder, interrupts, restarts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from support.kernel import Notebook, fresh_notebook, one_kernel_for_most, shared_notebook

__all__ = ["fresh_notebook", "one_kernel_for_most", "shared_notebook"]


STUBBORN = (
    "import time\nwhile True:\n    try:\n        time.sleep(1)\n"
    "    except BaseException:\n        pass"
)


def test_a_module_that_is_edited_is_taken_anew_by_the_workers(
    notebook: Notebook, tmp_path: Path
) -> None:
    (tmp_path / "rates.py").write_text("RATE = 1\ndef rate():\n    return RATE\n")
    (tmp_path / "prices.py").write_text("import rates\ndef price(n):\n    return n * rates.RATE\n")
    notebook.run(f"import nbray, os\nos.chdir({str(tmp_path)!r})\nimport sys\nsys.path.append('.')")
    notebook.run("import prices\n@nbray.remote\ndef cost(n):\n    return prices.price(n)")
    assert notebook.run("nbray.get([cost.remote(i) for i in (1, 2)])").result == "[1, 2]"
    assert notebook.run("%remote prices.price(5)").result == "5"
    (tmp_path / "rates.py").write_text("RATE = 10\ndef rate():\n    return RATE\n")
    used = notebook.run("nbray.get([cost.remote(i) for i in (1, 2, 3, 4)])")
    assert used.result == "[10, 20, 30, 40]"
    assert "Edited since it was last used: rates.py." in used.printed
    cell = notebook.run("%%remote\nimport rates\nprices.price(5) + rates.rate()")
    assert cell.result == "60" and "Edited" not in cell.printed


def test_a_module_that_only_remote_cells_import_is_taken_anew(
    notebook: Notebook, tmp_path: Path
) -> None:
    notebook.run(f"import os\nos.chdir({str(tmp_path)!r})")
    (tmp_path / "model.py").write_text("VALUE = 1\n")
    assert notebook.run("%%remote -o v\nimport model\nv = model.VALUE\nv").result == "1"
    (tmp_path / "model.py").write_text("VALUE = 22\n")
    again = notebook.run("%%remote -o v\nimport model\nv = model.VALUE\nv")
    assert again.result == "22" and "model.py" in again.printed


def test_workers_stand_where_the_notebook_stands(notebook: Notebook, tmp_path: Path) -> None:
    (tmp_path / "here.txt").write_text("found")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "beside.py").write_text("WORD = 'beside'\n")
    notebook.run("import os, sys\n%remote 1")
    notebook.run(f"os.chdir({str(tmp_path)!r})\nsys.path.insert(0, {str(tmp_path / 'lib')!r})")
    assert notebook.run("%remote open('here.txt').read()").result == "'found'"
    cell = notebook.run("%%remote\nimport beside as other\nother.WORD")
    assert cell.result == "'beside'"


def _interrupt_until(notebook: Notebook, cell: object, seconds: float = 30) -> None:
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: "interrupt again" in cell.printed, "the offer to kill", seconds)  # type: ignore[attr-defined]
    notebook.manager.interrupt_kernel()


def test_the_second_interrupt_kills_a_stubborn_cell(notebook: Notebook) -> None:
    notebook.run("%nbray config interrupt_grace 30")
    cell = notebook.start(f"%%remote\nimport os\nprint('pid', os.getpid())\n{STUBBORN}\nx = 1")
    notebook.wait(lambda: "pid " in cell.printed, "the start of the cell")
    pid = int(cell.printed.split()[1])
    _interrupt_until(notebook, cell)
    notebook.wait(lambda: cell.idle, "the prompt")
    assert f"remote cell {cell.label} was killed" in cell.error
    notebook.wait(lambda: not os.path.exists(f"/proc/{pid}"), "the end of the worker")
    assert notebook.run("%%remote\n6 * 7").result == "42"


def test_a_stubborn_cell_gives_the_prompt_back_and_can_be_killed_later(
    notebook: Notebook,
) -> None:
    notebook.run("%nbray config interrupt_grace 0.6")
    cell = notebook.start(f"%%remote\nprint('begun')\n{STUBBORN}")
    notebook.wait(lambda: "begun" in cell.printed, "the start of the cell")
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: cell.idle, "the prompt")
    short = cell.label.replace(" ", "")
    assert f"%nbray cancel {short} --force kills it" in cell.error
    assert notebook.run(f"%nbray cancel {short} --force").printed == f"{cell.label} killed.\n"
    notebook.wait(
        lambda: f"{cell.label}  cancelled" in notebook.run("%nbray cells").result, "its end"
    )


def test_an_interrupt_of_a_plain_cell_stops_its_tasks_and_no_others(notebook: Notebook) -> None:
    notebook.run(
        "import nbray, time\n@nbray.remote\ndef doze(i):\n    time.sleep(60)\n"
        "@nbray.remote(num_cpus=0)\ndef other():\n    time.sleep(4)\n    return 'other'"
    )
    notebook.run("%nbray config interrupt_grace 30\nkept = other.remote()")
    cell = notebook.start(
        "refs = [doze.remote(i) for i in range(50)]\nprint('in')\nnbray.get(refs)"
    )
    notebook.wait(lambda: "in\n" in cell.printed, "the tasks")
    time.sleep(0.5)
    started = time.monotonic()
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: cell.idle, "the prompt")
    assert time.monotonic() - started < 30
    assert "KeyboardInterrupt" in cell.error
    assert f"Cell {cell.label}, line 3, in <module>\n    nbray.get(refs)" in cell.error
    assert "/nbray/" not in cell.error
    assert "50 tasks of this cell: stopped." in cell.printed
    assert notebook.run("nbray.get(kept)").result == "'other'"
    states = notebook.run(
        "from nbray.state import local_state\n{local_state.describe(r).state for r in refs}"
    )
    assert states.result == "{'failed'}"
    tasks = [line.split() for line in notebook.run("%nbray tasks").result.splitlines()]
    assert [t for t in tasks if t[0] == "doze"] == [["doze", "50", "0", "0", "0", "0", "50"]]
    assert "failed" not in notebook.run(f"%nbray stream {cell.label.replace(' ', '')}").result
    assert notebook.run("%remote 1 + 1").result == "2"


def test_the_second_interrupt_kills_the_workers_of_a_plain_cell(notebook: Notebook) -> None:
    notebook.run("%nbray config interrupt_grace 30")
    notebook.run(
        "import nbray, os, time\n@nbray.remote\ndef stubborn():\n    print('pid', os.getpid())\n"
        "    while True:\n        try:\n            time.sleep(1)\n"
        "        except BaseException:\n            pass"
    )
    cell = notebook.start("nbray.get([stubborn.remote() for _ in range(2)])")
    notebook.wait(lambda: cell.printed.count("pid ") >= 2, "both tasks")
    _interrupt_until(notebook, cell)
    notebook.wait(lambda: cell.idle, "the prompt")
    assert "2 tasks of this cell: killed." in cell.printed
    assert notebook.run("%remote 1 + 1").result == "2"


def test_a_detached_cell_goes_on(notebook: Notebook, tmp_path: Path) -> None:
    go = tmp_path / "go"
    cell = notebook.start(
        f"%%remote --on-interrupt detach\nprint('begun')\nimport os, time\n"
        f"while not os.path.exists({str(go)!r}):\n    time.sleep(0.01)\n"
        "print('ended')\nz = 9\nz"
    )
    notebook.wait(lambda: "begun" in cell.printed, "the start of the cell")
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: cell.idle, "the prompt")
    assert f"{cell.label} goes on in the cluster" in cell.error
    go.touch()
    assert notebook.run("z").result == "9"
    notebook.wait(lambda: "ended" in cell.printed, "the late output")
    notebook.wait(lambda: "9" in cell.results, "the late result")


def test_an_interrupt_stops_an_actors_cell_and_keeps_its_names(notebook: Notebook) -> None:
    notebook.run("%%remote --actor desk\nn = 5")
    cell = notebook.start("%%remote --actor desk\nprint('begun')\nimport time\ntime.sleep(60)")
    notebook.wait(lambda: "begun" in cell.printed, "the start of the cell")
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: cell.idle, "the prompt")
    assert "was cancelled" in cell.error
    assert notebook.run("%remote --actor desk -- n").result == "5"


@pytest.mark.parametrize("again", ["%nbray stop\n%nbray start --num-cpus 1", "%nbray start"])
def test_starting_again_is_harmless_and_old_names_say_what_became_of_them(
    fresh_notebook: Notebook, again: str
) -> None:
    fresh_notebook.run("%%remote\nx = 1\ny = 2")
    assert fresh_notebook.run("x").result == "1"
    fresh_notebook.run(again)
    assert fresh_notebook.run("%remote x + 1").result == "2"
    read = fresh_notebook.run("y")
    if "stop" in again:
        assert "was in a cluster that has been stopped. Run that cell again." in read.error
    else:
        assert read.result == "2"
