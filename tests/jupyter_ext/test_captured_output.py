"""A cell that keeps its output for itself keeps that of its tasks, too."""

from __future__ import annotations

import pytest
from support.kernel import Notebook, one_kernel_for_most, shared_notebook
from support.widgets import taken_by_widgets

__all__ = ["one_kernel_for_most", "shared_notebook"]

SAY = (
    "import contextlib, io, nbray, sys, threading\n@nbray.remote\ndef say(x):\n"
    "    print('task says', x)\n    print('and', x, file=sys.stderr)\n    return x"
)


@pytest.mark.parametrize(
    "body",
    [
        "print('local'); nbray.get(say.remote(1))",
        "print('local'); nbray.get([say.remote(i) for i in range(1, 4)])",
        "print('local')\nthread = threading.Thread(target=lambda: nbray.get(say.remote(1)))\n"
        "thread.start(); thread.join()",
    ],
)
def test_capture_takes_what_tasks_print(notebook: Notebook, body: str) -> None:
    notebook.run(SAY)
    cell = notebook.run(f"%%capture cap\n{body}")
    assert not cell.error and not cell.printed
    assert notebook.run("cap.stdout.startswith('local\\n(say pid=')").result == "True"
    assert notebook.run("cap.stdout.count('task says 1\\n')").result == "1"
    assert notebook.run("cap.stderr.count('and 1\\n')").result == "1"


def test_a_remote_line_in_capture_is_taken_unmarked_with_its_displays(notebook: Notebook) -> None:
    notebook.run(SAY)
    cell = notebook.run(
        "%%capture cap\n%remote print('from the line')\n@nbray.remote\ndef draw():\n"
        "    from IPython.display import HTML, display\n    display(HTML('<b>bold</b>'))\n"
        "nbray.get(draw.remote())"
    )
    assert not cell.error and not cell.printed and not cell.results
    quiet = notebook.run("%%capture cap2\n%%remote\nimport time\ntime.sleep(2.5)\nprint('end')")
    assert not quiet.printed and not quiet.results
    assert notebook.run("cap2.stdout").result == "'end\\n'"
    assert notebook.run("cap.stdout").result == "'from the line\\n'"
    assert notebook.run("[o.data['text/html'] for o in cap.outputs]").result == "['<b>bold</b>']"


def test_a_redirection_takes_its_stream_and_ends_with_its_block(notebook: Notebook) -> None:
    notebook.run(SAY)
    cell = notebook.run(
        "with contextlib.redirect_stdout(io.StringIO()) as f:\n    nbray.get(say.remote(5))\n"
        "nbray.get(say.remote(6))\nf.getvalue().count('task says 5\\n'), 'says 6' in f.getvalue()"
    )
    assert cell.result == "(1, False)"
    assert "task says 5" not in cell.printed and "and 5" in cell.printed
    assert "task says 6" in cell.printed


def test_what_another_cell_submitted_is_not_taken(notebook: Notebook) -> None:
    notebook.run(f"{SAY}\nimport time\n@nbray.remote\ndef later():\n    time.sleep(0.5)\n"
                 "    print('late')")  # fmt: skip
    first = notebook.run("ref = later.remote()")
    notebook.run("%%capture cap\nnbray.get(ref)")
    notebook.wait(lambda: "late" in first.printed, "the late line in its own cell")
    assert notebook.run("cap.stdout").result == "''"


def test_an_output_widget_takes_what_tasks_print_while_it_is_open(notebook: Notebook) -> None:
    notebook.run(f"{SAY}\nimport ipywidgets\nout = ipywidgets.Output()")
    cell = notebook.run(
        "with out:\n    x = nbray.get(say.remote('inside'))\nx = nbray.get(say.remote('outside'))"
    )
    assert not cell.error
    taken = taken_by_widgets(cell)
    assert "task says inside" in taken and "and inside" in taken
    assert "outside" not in taken and "task says outside" in cell.printed
