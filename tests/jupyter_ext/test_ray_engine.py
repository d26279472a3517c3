"""The notebook on real Ray, row by row of the table in the documents.

Needs a Python with nbray and Ray, which ``RAY_NOTEBOOK_PYTHON`` names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.kernel import Cell, Notebook
from support.ray_kernel import ray_notebook
from support.widgets import taken_by_widgets

# On a busy machine Ray takes half a minute to start, and each new worker some seconds.
pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    with ray_notebook() as found:
        yield found


def _printed(notebook: Notebook, cell: Cell, *texts: str) -> str:
    """What a cell printed, also late, once all of these are there."""
    notebook.wait(lambda: all(text in cell.printed for text in texts), f"{texts} in its cell")
    return cell.printed


def test_a_remote_cell_runs_in_a_worker_and_its_names_live_there(notebook: Notebook) -> None:
    cell = notebook.run("import os\n%nbray config interrupt_grace 5")
    cell = notebook.run(
        "%%remote\nimport os\npid = os.getpid()\nrows = [1, 2]\nprint('hello')\nlen(rows)", 60
    )
    assert cell.result == "2"
    assert _printed(notebook, cell, "hello") == "hello\n"
    assert "RemoteValue" in notebook.run("repr(globals()['rows'])").result
    assert notebook.run("pid != os.getpid(), rows").result == "(True, [1, 2])"


def test_values_functions_and_classes_of_the_notebook_travel(notebook: Notebook) -> None:
    notebook.run(
        "import numpy as np\n"
        "big = np.arange(300_000)\n"
        "class P:\n"
        "    def __init__(self, x):\n"
        "        self.x = x\n"
        "def total(a):\n"
        "    return int(a.sum()) + step\n"
        "step = 1"
    )
    assert notebook.run("%%remote\np = P(total(big))\nbig[0] = 7", 60).error == ""
    assert notebook.run("p.x, type(p) is P").result == "(44999850001, True)"
    assert notebook.run("%remote int(big[0])").result == notebook.run("int(big[0])").result


def test_o_gather_and_one_line(notebook: Notebook) -> None:
    assert not notebook.run("%%remote -o best\nrest = 2\nbest = 3", 60).error
    assert notebook.run("best, 'rest' in globals()").result == "(3, False)"
    notebook.run("%%remote --gather\ny = 42")
    assert notebook.run("globals()['y']").result == "42"
    assert notebook.run("%remote --num-cpus 0.5 -- best + 1").result == "4"


def test_noblock_goes_on_and_the_output_comes_to_its_cell(notebook: Notebook) -> None:
    cell = notebook.run(
        "%%remote --noblock\nimport time\ntime.sleep(1)\nprint('late line')\nlater = 5"
    )
    assert "remote cell" in cell.result
    other = notebook.run("1 + 1")
    assert _printed(notebook, cell, "late line")
    assert other.printed == ""
    assert notebook.run("later").result == "5"


def test_timeout_cancels_the_cell(notebook: Notebook) -> None:
    cell = notebook.run("%%remote --timeout 1\nimport time\ntime.sleep(60)", 60)
    assert "did not end within 1 s and was cancelled" in cell.error


def test_map_gives_a_list_and_names_the_element_that_failed(notebook: Notebook) -> None:
    assert notebook.run("%%remote --map x=range(4)\nx * x", 60).result == "[0, 1, 4, 9]"
    failed = notebook.run("%%remote --map x=[1, 0]\n1 / x", 60)
    assert "ZeroDivisionError" in failed.error
    assert "Element 2 of 2: x = 0" in failed.error


def test_a_map_of_which_all_end_at_once_ends_no_kernel(notebook: Notebook) -> None:
    for _ in range(25):
        failed = notebook.run("%%remote --map x=[1, 0]\n1 / x", 60)
        assert failed.error and "ZeroDivisionError" in failed.error, failed.printed


def test_targets_are_nodes_and_workers(notebook: Notebook) -> None:
    cell = notebook.run("%%remote --targets nodes -o two\ntwo = 1 + 1", 60)
    assert not cell.error
    assert notebook.run("two").result == "[2]"
    notebook.run("%%remote --targets workers -o pid\nimport os\npid = os.getpid()", 90)
    assert notebook.run("len(set(pid))").result == "2"


def test_an_actor_keeps_the_names_of_its_cells(notebook: Notebook) -> None:
    cell = notebook.run("%%remote --actor keeper --num-cpus 0\nkept = 1\nprint('in the actor')", 60)
    assert _printed(notebook, cell, "in the actor")
    assert notebook.run("%%remote --actor keeper\nkept += 1\nkept", 60).result == "2"
    assert "keeper" in notebook.run("%nbray actors").result
    notebook.run("import ray\nray.kill(ray.get_actor('keeper'))")


def test_a_set_up_cell_runs_in_every_worker(notebook: Notebook) -> None:
    assert not notebook.run("%%remote --every --name first\nfactor = 10", 60).error
    assert notebook.run("%remote factor * 2").result == "20"
    assert "Forgotten" in notebook.run("%nbray setup --drop first").printed


def test_output_of_nested_tasks_comes_to_the_cell_that_submitted_the_first(
    notebook: Notebook,
) -> None:
    notebook.run(
        "import ray\n@ray.remote\ndef inner(i):\n    print('inner', i)\n    return i\n"
        "@ray.remote(num_cpus=0)\n"
        "def outer():\n"
        "    print('outer')\n"
        "    return sum(ray.get([inner.remote(i) for i in (1, 2)]))"
    )
    cell = notebook.run("ray.get(outer.remote())", 60)
    other = notebook.run("'another cell'")
    assert cell.result == "3"
    assert "(inner pid=" in _printed(notebook, cell, "inner 1", "inner 2", "outer")
    assert other.printed == ""


def test_output_of_an_actors_methods_comes_to_the_cell_that_called(notebook: Notebook) -> None:
    notebook.run(
        "@ray.remote(num_cpus=0)\n"
        "class Speaker:\n"
        "    def say(self, what):\n"
        "        print('said', what)\n"
        "speaker = Speaker.remote()"
    )
    first = notebook.run("ray.get(speaker.say.remote('one'))", 60)
    second = notebook.run("ray.get(speaker.say.remote('two'))", 60)
    assert "said one" in _printed(notebook, first, "said one")
    assert "said two" in _printed(notebook, second, "said two")
    assert "two" not in first.printed
    assert "one" not in second.printed


def test_stderr_and_displays_come_to_the_cell(notebook: Notebook) -> None:
    cell = notebook.run(
        "%%remote\n"
        "import sys\n"
        "from IPython.display import HTML, display\n"
        "display(HTML('<b>shown</b>'))\n"
        "print('to err', file=sys.stderr)",
        60,
    )
    assert "to err" in _printed(notebook, cell, "to err")
    notebook.wait(
        lambda: any("<b>shown</b>" in str(c.get("data")) for _, c in cell.messages), "the display"
    )


def test_figures_are_shown_in_the_cell(notebook: Notebook) -> None:
    cell = notebook.run("%%remote\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])", 90)
    assert any("image/png" in c.get("data", {}) for _, c in cell.messages), cell.error


def test_an_error_shows_the_users_own_frames(notebook: Notebook) -> None:
    notebook.run("def deep(x):\n    return 1 / x")
    error = notebook.run("%%remote\nz = 0\ndeep(z)", 60).error
    assert "ZeroDivisionError: division by zero" in error
    assert "line 3, in <module>" in error and "line 2, in deep" in error
    assert "ray_engine" not in error and "running.py" not in error
    assert "%nbray debug" not in error  # Ray has no such thing
    assert "ray_engine" in notebook.run("%nbray tb").printed
    plain = notebook.run(
        "import ray\n@ray.remote\ndef bad():\n    return [][1]\nray.get(bad.remote())", 60
    ).error
    assert "IndexError: list index out of range" in plain and "in bad" in plain
    assert "bad() failed in a worker" in plain and "%nbray debug" not in plain
    assert (
        notebook.run(
            "try:\n    ray.get(bad.remote())\nexcept IndexError:\n    ok = 'caught'\nok"
        ).result
        == "'caught'"
    )


def test_a_cause_is_told_with_its_frames(notebook: Notebook) -> None:
    raising = (
        "    try:\n        deep()\n    except KeyError as first:\n"
        "        raise ValueError('second') from first\n"
    )
    deep = "def deep():\n    raise KeyError('first')\n"
    error = notebook.run(f"%%remote\n{deep}if True:\n{raising}", 60).error
    cause, _, rest = error.partition("The above exception was the direct cause")
    assert "line 6, in <module>" in cause and "line 3, in deep" in cause, error
    assert "KeyError: 'first'" in cause and "ValueError: second" in rest and ".py" not in error
    error = notebook.run(
        f"import ray\n{deep}@ray.remote\ndef plain():\n{raising}ray.get(plain.remote())", 60
    ).error
    assert "Ray has cut the first two lines of this cause off" in error.partition("direct")[0]
    assert "ValueError: second" in error and "in plain" in error


def test_an_exception_of_the_notebooks_own_class_comes_back_as_that(notebook: Notebook) -> None:
    notebook.run(
        "class Two(Exception):\n    def __init__(self, text, other):\n"
        "        super().__init__(text)\n        self.other = other"
    )
    caught = notebook.run(
        "try:\n    get_ipython().run_cell_magic('remote', '', 'raise Two(1, 5)')\n"
        "except Two as error:\n    print('caught', error.other)",
        60,
    )
    assert caught.printed == "caught 5\n", caught.error
    failed = notebook.run("%%remote\nraise Two('why', 5)", 60)
    assert failed.error.startswith("TaskError(Two)") and "Two: why" in failed.error
    assert ".py" not in failed.error and not failed.printed
    plain = notebook.run(
        "import ray\n@ray.remote\ndef fails():\n    raise Two('why', 5)\nray.get(fails.remote())",
        60,
    )
    assert "in fails" in plain.error and "Two: why" in plain.error and ".py" not in plain.error


def test_a_group_of_errors_has_the_users_frames_alone(notebook: Notebook) -> None:
    raised = "ExceptionGroup('some', [KeyError('a'), ExceptionGroup('more', [TypeError('b')])])"
    shown = notebook.run(f"%%remote\nraise {raised}", 60)
    assert shown.error.startswith("TaskError(ExceptionGroup)")
    assert f"|   Cell {shown.label}, line 2" in shown.error
    assert "KeyError: 'a'" in shown.error and "TypeError: b" in shown.error
    assert ".py" not in shown.error, shown.error


def test_odd_text_is_shown_and_huge_text_is_cut(notebook: Notebook) -> None:
    cell = notebook.run("%%remote\nprint('a\\ud800b')\nodd = 'c\\ud800d'", 60)
    assert _printed(notebook, cell, "\n") == "a\\ud800b\n"
    assert notebook.run("odd == 'c\\ud800d'").result == "True"
    assert (
        "ValueError: a\\ud800b" in notebook.run("%%remote\nraise ValueError('a\\ud800b')", 60).error
    )
    failed = notebook.run("%%remote\nraise KeyError('e' * 20_000_000)", 200)
    assert failed.error.startswith("TaskError(KeyError)") and len(failed.error) < 500_000
    shown = notebook.run(
        "%%remote\nfrom IPython.display import HTML, display\ndisplay(HTML('q' * 50_000_000))", 200
    )
    notebook.wait(
        lambda: "(too large to be shown: 50 MB)" in "".join(shown.results), "what stands for it", 60
    )
    assert len(notebook.run("%%remote\n'v' * 20_000_000", 100).result) < 500_000


def test_a_breakpoint_is_passed_over_and_said(notebook: Notebook) -> None:
    cell = notebook.run("%%remote\nbreakpoint()\nbehind = 7", 60)
    assert "is passed over: with Ray as the engine no cell" in _printed(notebook, cell, "\n")
    assert notebook.run("behind").result == "7"


def test_an_output_widget_takes_what_a_cell_prints_in_it(notebook: Notebook) -> None:
    notebook.run("import ipywidgets\nout = ipywidgets.Output()")
    cell = notebook.run(
        "with out:\n    get_ipython().run_line_magic('remote', 'print(\"inside\")')", 60
    )
    assert not cell.error
    assert "inside" in taken_by_widgets(cell)


def test_who_tells_the_names_that_live_in_the_cluster(notebook: Notebook) -> None:
    notebook.run("%%remote\nremote_name = 5", 60)
    notebook.run(
        "import ray\nnames = globals()\nnames[5] = names['a b<i>\\ud800'] = ray.put(1)\n"
        "for i in range(300):\n    names[f'many{i}'] = ray.put(i)"
    )
    assert "remote_name" in notebook.run("%nbray who remote_name", 60).result
    cell = notebook.run("%nbray who", 60)
    assert "The largest 200 of 30" in cell.result and not cell.error
    notebook.run("for i in range(300):\n    del names[f'many{i}']\ndel names[5], i")


def test_progress_appears_by_itself_and_ends_final(notebook: Notebook) -> None:
    notebook.run("import ray, time\n@ray.remote\ndef slow(i):\n    time.sleep(1)\n    return i")
    cell = notebook.run("ray.get([slow.remote(i) for i in range(6)])", 60)
    assert any("slow 100%" in text and "6/6" in text for text in cell.results), cell.results
    assert "slow" in notebook.run("%nbray tasks").result


def test_an_interrupt_cancels_a_remote_cell(notebook: Notebook) -> None:
    cell = notebook.start("%%remote\nprint('began')\nimport time\ntime.sleep(60)")
    _printed(notebook, cell, "began")
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: cell.idle, "the end of the interrupted cell")
    assert "was cancelled" in cell.error
    assert "cancelled" in notebook.run("%nbray cells").result


def test_an_interrupt_cancels_the_tasks_of_a_plain_cell(notebook: Notebook) -> None:
    notebook.run(
        "@ray.remote(max_retries=0)\n"
        "def endless():\n"
        "    print('runs')\n"
        "    import time\n"
        "    while True:\n"
        "        time.sleep(0.05)"
    )
    cell = notebook.start("ray.get([endless.remote(), endless.remote()])")
    _printed(notebook, cell, "runs")
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: cell.idle, "the end of the interrupted cell")
    assert "2 tasks of this cell: stopped." in cell.printed, cell.printed
    assert "endless      " in notebook.run("%nbray tasks").result


def test_a_redefined_helper_is_the_new_one(notebook: Notebook) -> None:
    notebook.run("def helper():\n    return 1\n@ray.remote\ndef asks():\n    return helper()")
    assert notebook.run("ray.get(asks.remote())", 60).result == "1"
    notebook.run("def helper():\n    return 2")
    assert notebook.run("ray.get(asks.remote())", 60).result == "2"


def test_handles_have_pictures(notebook: Notebook) -> None:
    notebook.run("done = ray.put([1, 2])")
    assert "<ObjectRef: ready" in notebook.run("done").result
    assert "<ObjectRef: failed" in notebook.run("f = bad.remote()\nray.wait([f])\nf", 60).result
    assert "methods" in notebook.run("speaker").result
    assert "from In [" in notebook.run("f").result


def test_status_nodes_workers_objects_and_logs_are_there(notebook: Notebook) -> None:
    assert "CPU" in notebook.run("%nbray status").results[0]
    assert "alive" in notebook.run("%nbray nodes").result
    assert "worker" in notebook.run("%nbray workers").result
    assert "ObjectRef" in notebook.run("%nbray objects").result
    assert "raylet.out" in notebook.run("%nbray logs").result
    assert "driver" in notebook.run("%nbray jobs --all").result


def test_a_cached_cell_gives_its_answer_at_once(notebook: Notebook) -> None:
    first = notebook.run("%%remote --cache\nprint('ran')\ncached = 5\ncached", 60)
    assert "Ran" in first.printed
    again = notebook.run("%%remote --cache\nprint('ran')\ncached = 5\ncached", 60)
    assert "From the cache" in again.printed
    assert again.result == "5"


def test_a_detached_cell_runs_without_the_notebook(notebook: Notebook) -> None:
    cell = notebook.run("%%remote --detach far\nprint('over there')\nfrom_far = 6\nfrom_far", 300)
    assert "Detached as far" in cell.printed
    deadline = "the end of the detached cell"
    notebook.wait(lambda: "done" in notebook.run("%nbray results").result, deadline, 60)
    shown = notebook.run("%nbray attach far", 60)
    assert "over there" in shown.printed
    assert notebook.run("from_far").result == "6"
    assert "forgotten" in notebook.run("%nbray results --drop far").printed


def test_a_detachable_cell_is_let_loose_while_it_runs(notebook: Notebook, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    notebook.run("%nbray config detachable yes\ny = 5")
    plain = notebook.run("%%remote\nprint('seen')\nx = y + 1\nx * 2", 200)
    assert plain.result == "12", plain.error
    assert _printed(notebook, plain, "seen")
    cell = notebook.run(
        "%%remote --noblock\nimport os, time\nprint('begun')\n"
        f"while not os.path.exists({str(stop)!r}):\n    time.sleep(0.05)\nz = 77",
        200,
    )
    assert _printed(notebook, cell, "begun")
    label = cell.label.replace(" ", "")
    said = notebook.run(f"%nbray detach {label} moved", 60)
    assert "is detached as moved" in said.printed, (said.printed, said.error)
    assert "running" in notebook.run("%nbray results", 60).result
    stop.touch()
    assert "From moved" in notebook.run("%nbray attach moved", 120).printed
    assert notebook.run("z", 60).result == "77"
    assert "forgotten" in notebook.run("%nbray results --drop moved", 60).printed
    notebook.run("%nbray config detachable no")
    plain = notebook.run("%%remote --noblock\nimport time\ntime.sleep(1000)", 60)
    label = plain.label.replace(" ", "")
    assert "hangs on this kernel" in notebook.run(f"%nbray detach {label}").printed
    notebook.run(f"%nbray cancel {label}", 60)


def test_captured_output_goes_to_who_captures(notebook: Notebook) -> None:
    notebook.run("%%capture got\n%remote print('captured')", 60)
    assert notebook.run("got.stdout").result == "'captured\\n'"


def test_the_module_of_a_file_beside_the_notebook_travels(notebook: Notebook) -> None:
    notebook.run("open('beside_ray.py', 'w').write('def f():\\n    return 1\\n')")
    assert notebook.run("import beside_ray\n%remote beside_ray.f()", 60).result == "1"


def test_what_ray_cannot_give_is_refused_by_name(notebook: Notebook) -> None:
    said = notebook.run("%nbray scale 3").printed
    assert "%nbray scale is not there with Ray as the engine: Ray's nodes are started by" in said
    for line in ("%nbray debug", "%nbray profile In[3]", "%%remote --profile\n1"):
        assert "is not there with Ray as the engine" in notebook.run(line).printed, line


def test_a_kernel_changes_its_engine_only_outside_of_a_cluster(notebook: Notebook) -> None:
    said = notebook.run("%nbray config engine nbray").printed
    assert "The engine is ray, and this kernel is in a cluster of it: %nbray stop first" in said
    assert "ray" in notebook.run("%nbray config engine").result
    left = notebook.run("%nbray stop", 60).printed
    assert "`ray stop` in a shell ends it" in left
    changed = notebook.run("%nbray config engine nbray")
    assert not changed.error
    here = notebook.run("%%remote\n6 * 7", 60)
    assert here.result == "42", (here.printed, here.error)
    notebook.run("%nbray stop", 60)


def test_start_starts_a_ray_cluster_that_ends_with_the_kernel(notebook: Notebook) -> None:
    started = notebook.run("%nbray start --engine ray --num-cpus 1", 180)
    assert "1 node" in started.result, (started.printed, started.error)
    assert "%nbray scale" not in started.result and "nbray start" not in started.result
    assert notebook.run("%remote 6 * 7", 60).result == "42"
    assert notebook.run("%nbray stop", 60).printed == "ray is stopped.\n"
