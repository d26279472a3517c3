"""`%%remote` and `%remote` in a real kernel: every way to run a cell."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.kernel import Notebook, fresh_notebook, one_kernel_for_most, shared_notebook

from nbray.testing import wait_until

__all__ = ["fresh_notebook", "one_kernel_for_most", "shared_notebook"]


def test_only_the_names_that_are_asked_for_come_back(notebook: Notebook) -> None:
    cell = notebook.run("%%remote -o total,best\nrows = [3, 1, 2]\ntotal = sum(rows)\nbest = 3")
    assert not cell.error
    assert notebook.run("total, best, 'rows' in globals()").result == "(6, 3, False)"
    wrong = notebook.run("%%remote -o totl\ntotal = 1").printed
    assert "-o totl: the cell neither assigns nor reads 'totl'." in wrong


def test_gather_brings_the_values_here_at_once(notebook: Notebook) -> None:
    notebook.run("%%remote --gather\nx = 41\ny = x + 1")
    assert notebook.run("globals()['y'], globals()['x']").result == "(42, 41)"


def test_a_worker_that_runs_cells_has_nothing_of_what_only_a_kernel_asks(
    notebook: Notebook,
) -> None:
    """Each worker pays for what it imports: these were five megabytes."""
    notebook.run("%%remote\nprint('shown', flush=True)")
    cell = notebook.run("%%remote --gather\nimport sys\nthere = sorted(sys.modules)")
    assert not cell.error
    unwanted = {"nbray.launcher", "nbray.notebook_cluster", "nbray.state.lists"}
    assert notebook.run(f"{unwanted} & {{*there}}").result == "set()"


def test_one_line_runs_remotely_and_has_a_value(notebook: Notebook) -> None:
    notebook.run("import os\ndef f(d):\n    return d['a'] + 1")
    assert notebook.run("%remote f({'a': 1})").result == "2"
    assert (
        notebook.run("here = os.getpid()\nthere = %remote os.getpid()\nthere != here").result
        == "True"
    )
    assert notebook.run("%remote --num-cpus 0.5 -- f({'a': 2})").result == "3"
    assigned = notebook.run("%remote x = f({'a': 3})\nx")
    assert assigned.result == "4", assigned.messages
    assert "    1 / 0\n    ~~^~~\nZeroDivisionError" in notebook.run("%remote 1 / 0").error


UNTIL = "import os, time\nwhile not os.path.exists({0!r}): time.sleep(0.01)"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%nbray statsu", "there is no command 'statsu'. Did you mean status?"),
        ("%nbray start --num-cpu 3", "there is no option --num-cpu. Did you mean --num-cpus?"),
        ("%nbray start --num-cpus many", "argument --num-cpus: 'many' is not a number"),
        ("%nbray config gracee 3", "there is no setting 'gracee'."),
        ("%nbray objects --release nothing", "'nothing' keeps nothing in the object store"),
        ("%nbray start 'open", "no closing ' in"),
        ("%nbray nodes extra", "'extra' is one word too many"),
        ("%remote --num-cpus 2 f(x)", "options end with --"),
        ("%remote", "what should run?"),
        ("%%remote --timeout soon\n1", "'soon' is not a number above 0"),
        ("%%remote --map x\nx", "'x' is not like x=xs"),
        ("%%remote --map x=nowhere\nx", "name 'nowhere' is not defined"),
        ("%%remote --every --map x=y\n1", "not allowed with argument"),
        ("%%remote --on-interrupt stop\n1", "--on-interrupt cannot be 'stop', only cancel, detach"),
        ("%%remote --targets nobody\n1", "there is no actor 'nobody'"),
        ("%%remote\nx = 1\nname = input('who?')", "line 3: input(): a worker has no keyboard"),
        ("%%remote\n%load_ext autoreload", "line 2: %load_ext belongs to the notebook"),
        ("%%remote --noblock --gather\n1", "--gather waits for the end, --noblock does not"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_answered_in_one_that_helps(
    notebook: Notebook, line: str, said: str
) -> None:
    cell = notebook.run(line)
    assert said in cell.printed.strip()
    assert "\n" not in cell.printed.strip()
    assert not cell.error


@pytest.mark.parametrize("line", ["%nbray start --help", "%%remote --help\n1", "%remote -h"])
def test_help_is_printed_and_nothing_else_happens(notebook: Notebook, line: str) -> None:
    cell = notebook.run(line)
    assert cell.printed.startswith("usage: %") and "--num-cpus" in cell.printed
    assert not cell.error and not cell.result


def test_a_cell_that_takes_too_long_is_cancelled(notebook: Notebook) -> None:
    cell = notebook.run("%%remote --timeout 0.5\nimport time\ntime.sleep(60)\nx = 1")
    assert f"GetTimeoutError: Remote cell {cell.label} did not end within 0.5 s" in cell.error
    assert notebook.run("%%remote\n6 * 7").result == "42"


def test_a_cells_time_is_its_own_whenever_it_is_asked_for(notebook: Notebook) -> None:
    """Not the time until somebody looked."""
    notebook.run("import time, nbray\nbegan = time.monotonic()")
    cell = notebook.run("%%remote --noblock\nresult = 7")
    notebook.run("run = _\nnbray.wait(run.refs)\nmost = time.monotonic() - began + 1")
    notebook.run("time.sleep(2)")
    assert notebook.run("run.seconds() < most").result == "True"
    line = next(
        line for line in notebook.run("%nbray cells").result.splitlines() if cell.label in line
    )
    seconds = float(line.removeprefix(cell.label).split()[1])
    assert notebook.run(f"{seconds} < most").result == "True"


def test_a_handle_waits_cancels_and_is_awaited(notebook: Notebook, tmp_path: Path) -> None:
    go = tmp_path / "go"
    first = notebook.run(f"%%remote --noblock\n{UNTIL.format(str(go))}\ndone = 5")
    go.touch()
    assert first.result == f"<remote cell {first.label}: running>"
    assert notebook.run("await _\n_").result == f"<remote cell {first.label}: done>"
    assert notebook.run("done").result == "5"
    second = notebook.run("%%remote --noblock\nimport time\ntime.sleep(60)")
    notebook.run("handle = _")
    number = second.label.strip("In []")
    assert notebook.run(f"%nbray cancel {number}").printed == f"{second.label} asked to stop.\n"
    notebook.wait(lambda: notebook.run("handle").result.endswith("cancelled>"), "its end")
    cells = notebook.run("%nbray cells").result
    assert f"{first.label}  " in cells and f"{second.label}  cancelled" in cells


def test_a_worker_that_dies_is_replaced_as_often_as_asked(
    notebook: Notebook, tmp_path: Path
) -> None:
    notebook.run(f"import os, pathlib\nfolder = pathlib.Path({str(tmp_path)!r})")
    body = "(folder / str(os.getpid())).touch()\nos._exit(1)"
    assert "WorkerCrashedError" in notebook.run(f"%%remote --retries 1\n{body}").error
    assert len(list(tmp_path.iterdir())) == 2


def test_magics_and_commands_run_in_the_worker(notebook: Notebook, tmp_path: Path) -> None:
    notebook.run("import os\nn = 7\ndef f(x):\n    return x * 2")
    cell = notebook.run(
        "%%remote\n%matplotlib inline\n%time y = f(n)\n!echo shell says {n} $n\n"
        "listed = !echo one; echo two\n%env NBRAY_SEEN=yes\npid = os.getpid()"
    )
    assert not cell.error
    assert "Wall time" in cell.printed
    assert "shell says 7 7" in cell.printed
    shown = notebook.run("y, list(listed), pid != os.getpid(), os.environ.get('NBRAY_SEEN')")
    assert shown.result == "(14, ['one', 'two'], True, None)"
    timed = notebook.run("%%remote\n%%time\nz = f(n) + 1")
    assert "Wall time" in timed.printed
    assert notebook.run("z").result == "15"


def test_a_change_in_place_comes_back_or_is_told(notebook: Notebook) -> None:
    notebook.run("import numpy as np\nbig = np.zeros(100_000)\ntable = {'a': 1}\nseen = []")
    notebook.run("%%remote\nbig[0] = 5\ntable['b'] = 2")
    assert notebook.run("big[0], table").result == "(np.float64(5.0), {'a': 1, 'b': 2})"
    notebook.run("%%remote\nseen.append(1)")
    assert notebook.run("seen").result == "[1]"
    told = notebook.run("%%remote -o n\nseen.append(2)\nn = len(seen)")
    assert "Changed in the worker only: seen. -o seen brings it back." in told.printed
    assert notebook.run("seen, n").result == "([1], 2)"
    notebook.run("%%remote -o seen\nseen.append(1)")
    assert notebook.run("seen").result == "[1, 1]"
    assert "Changed" not in notebook.run("%%remote\nlen(seen), table['a']").printed


def test_a_large_value_is_sent_once_and_again_when_it_changes(notebook: Notebook) -> None:
    notebook.run("%nbray config tell_bytes 1MB")
    notebook.run("import numpy as np\nbig = np.arange(1_000_000.0)\nmany = list(range(600_000))")
    notebook.run("def through(i):\n    return big[i]")
    first = notebook.run("%%remote\nbig[5] + many[5]")
    assert "Sent 10.9 MB" in first.printed and "big 8.0 MB" in first.printed
    assert first.result == "np.float64(10.0)"
    again = notebook.run("%%remote\nbig[6] + through(7) + many[6]")
    assert again.result == "np.float64(19.0)" and "Sent" not in again.printed
    notebook.run("big[6] = -1")
    changed = notebook.run("%%remote\nthrough(6)")
    assert changed.result == "np.float64(-1.0)" and "big 8.0 MB" in changed.printed
    assert "many" not in changed.printed
    objects = notebook.run("%nbray objects").result
    assert "big" in objects and "as sent to remote cells" in objects
    notebook.run("%nbray objects --release many")
    assert "many" not in notebook.run("%nbray objects").result


def test_what_came_from_the_cluster_is_not_sent_back(notebook: Notebook) -> None:
    notebook.run("%nbray config tell_bytes 1MB")
    notebook.run("%%remote\nimport numpy as np\nmade = np.ones(1_000_000)")
    assert notebook.run("made.sum()").result == "np.float64(1000000.0)"
    used = notebook.run("%%remote\nmade.sum() + 1")
    assert used.result == "np.float64(1000001.0)" and "Sent" not in used.printed


def test_a_value_that_cannot_be_sent_is_named_with_the_way_to_it(notebook: Notebook) -> None:
    notebook.run(
        "import threading\nclass Model:\n    def __init__(self):\n"
        "        self.layers = [{'lock': threading.Lock()}]\n"
        "model = Model()\ndef train():\n    return model"
    )
    cell = notebook.run("%%remote\nprint('ran')\nmodel")
    assert "The cell reads 'model', and model.layers[0]['lock'] is a lock" in cell.printed
    assert "ran\n" not in cell.printed
    through = notebook.run("%%remote\ntrain()")
    assert "model.layers[0]['lock'] is a lock" in through.printed


def test_an_actor_keeps_the_names_of_its_cells(notebook: Notebook) -> None:
    notebook.run("import os\nstep = 2")
    notebook.run("%%remote --actor desk\ncount = 10\ndef add():\n    return count + step")
    assert notebook.run("%%remote --actor desk\ncount += 1\nadd()").result == "13"
    notebook.run("step = 5")
    assert notebook.run("%%remote --actor desk\nadd()").result == "16"
    assert notebook.run("'count' in globals()").result == "False"
    notebook.run("%%remote --actor desk -o count\ncount += 1")
    assert notebook.run("count").result == "12"
    assert "desk" in notebook.run("%nbray actors").result
    first = notebook.run("%remote --actor desk -- os.getpid()").result
    assert first == notebook.run("%remote --actor desk -- os.getpid()").result


def test_a_cell_runs_in_several_actors_and_in_the_users_own(notebook: Notebook) -> None:
    notebook.run(
        "import nbray\n@nbray.remote\nclass Tally:\n    def __init__(self):\n"
        "        self.n = 3\n    def get(self):\n        return self.n\n"
        "tally = Tally.options(name='tally').remote()"
    )
    assert notebook.run("%%remote --targets tally\nself.n += 1\nself.n").result == "4"
    assert notebook.run("nbray.get(tally.get.remote())").result == "4"
    notebook.run("%remote --actor a -- 1")
    notebook.run("%remote --actor b -- 1")
    notebook.run("%%remote --targets a,b -o pid\nimport os\npid = os.getpid()")
    assert notebook.run("len(set(pid))").result == "2"


def test_a_cell_is_spread_over_the_elements(notebook: Notebook) -> None:
    notebook.run("base = 100\nxs = [3, 1, 2]")
    assert notebook.run("%%remote --map x=xs\nbase + x").result == "[103, 101, 102]"
    notebook.run("%%remote --map a,b=zip(xs,'pqr') -o both,n\nboth = f'{a}{b}'\nn = a * 2")
    assert notebook.run("both, n").result == "(['3p', '1q', '2r'], [6, 2, 4])"
    assert notebook.run("%%remote --map x=[]\nx").result == "[]"
    notebook.run("%%remote\nys = [5, 6]")
    assert notebook.run("%%remote --map y=ys\ny + 1").result == "[6, 7]"


def test_the_first_element_that_fails_ends_the_others(notebook: Notebook) -> None:
    started = time.monotonic()
    cell = notebook.run(
        "%%remote --map x=range(40)\nimport time\ntime.sleep(0.2 if x < 3 else 100)\n"
        "if x == 1:\n    raise ValueError('one is bad')"
    )
    assert time.monotonic() - started < 100
    assert "ValueError: one is bad" in cell.error and "line 5" in cell.error
    assert "Element 2 of 40: x = 1" in cell.error
    named = notebook.run("%%remote --map x=[1] -o total\ntotal = x\nraise ValueError('ab' * 28)")
    assert f"ValueError: {'ab' * 28}" in named.error  # as long as the id of an object
    assert notebook.run("%%remote\n1 + 1").result == "2"


def test_a_spread_goes_on_in_the_background(notebook: Notebook) -> None:
    notebook.run("%%remote --map x=[3,1,2] --noblock\nimport time\ntime.sleep(0.3)\nx * 2")
    notebook.run("first = _")
    notebook.run("%%remote --map x=[3,1,2] -o twice,half --noblock\ntwice, half = x * 2, x / 2")
    notebook.run("second = _")
    assert notebook.run("first.result(), first.state()").result == "([6, 2, 4], 'done')"
    assert notebook.run("second.result()").result == (
        "{'twice': [6, 2, 4], 'half': [1.5, 0.5, 1.0]}"
    )
    bad = notebook.run(
        "%%remote --map x=range(9) --noblock\nimport time\ntime.sleep(0.2 if x < 3 else 100)\n"
        "if x == 1:\n    raise ValueError('one is bad')"
    )
    notebook.run("third = _")
    raised = notebook.run("third.result(timeout=50)").error
    assert "ValueError: one is bad" in raised
    notebook.wait(lambda: "one is bad" in bad.printed, "the error in its own cell")
    assert bad.printed.count("Traceback") <= 1 and "Cancelled" not in bad.printed


def test_the_cell_tells_its_error_also_when_who_waits_for_it_saw_it_first(
    notebook: Notebook,
) -> None:
    notebook.run(
        "%%remote --map x=range(3) --noblock\nif x == 1:\n    raise ValueError('one is bad')"
    )
    notebook.run("run, told = _, []")
    assert "ValueError: one is bad" in notebook.run("run.result(timeout=60)").error
    notebook.run("run.watch(told.append)")
    errors = "sum(isinstance(one.exception(), ValueError) for one in told)"
    wait_until(lambda: notebook.run(errors).result == "1", "the error to be told")


def test_a_cell_runs_once_in_each_of_the_workers(notebook: Notebook) -> None:
    count = notebook.run("import nbray\nint(nbray.cluster_resources()['CPU'])").result
    notebook.run("%%remote --targets workers -o pid\nimport os\npid = os.getpid()")
    assert notebook.run("len(pid), len(set(pid))").result == f"({count}, {count})"


def test_a_long_spread_shows_how_far_it_is(notebook: Notebook) -> None:
    cell = notebook.run("%%remote --map x=range(8)\nimport time\ntime.sleep(0.9)\nx")
    notebook.wait(lambda: any("8/8" in text for text in cell.results), "the final progress")
    assert "running" in cell.results[0]


def test_every_worker_is_set_up_before_its_next_cell(notebook: Notebook) -> None:
    notebook.run("import os\nlevel = 3")
    cell = notebook.run(
        "%%remote --every --name tune\nimport os\nos.environ['TUNED'] = str(level)\nhelper = 7"
    )
    assert "set-up cell 'tune'" in cell.printed
    got = notebook.run("%%remote --map i=range(6)\nimport time; time.sleep(0.1)\n"
                       "os.environ.get('TUNED'), helper + i, os.getpid()")  # fmt: skip
    assert got.result.count("'3'") == 6
    notebook.run("%%remote --actor fresh\nvalue = os.environ['TUNED']")
    assert notebook.run("%remote --actor fresh -- value").result == "'3'"
    assert "tune" in notebook.run("%nbray setup").result
    notebook.run("%nbray setup --drop tune")
    assert "No set-up cell" in notebook.run("%nbray setup").result
    failed = notebook.run("%%remote --every --name bad\n1 / 0")
    assert "ZeroDivisionError" in failed.error
    assert notebook.run("%%remote\n1").result == "1"


def test_what_a_cell_calls_is_what_is_defined_now(notebook: Notebook) -> None:
    notebook.run("import nbray\ndef helper():\n    return 'old'\n"
                 "@nbray.remote\ndef task():\n    return helper()")  # fmt: skip
    assert notebook.run("nbray.get(task.remote())").result == "'old'"
    notebook.run("def helper():\n    return 'new'")
    assert notebook.run("nbray.get(task.remote())").result == "'new'"
    assert notebook.run("%remote helper()").result == "'new'"


def test_an_error_of_a_task_shows_cells_and_the_rest_on_demand(notebook: Notebook) -> None:
    made = notebook.run(
        "import nbray, json\n@nbray.remote\ndef parse(text):\n    return json.loads(text)"
    )
    cell = notebook.run("ref = parse.remote('{x')\nnbray.get(ref)")
    assert f"Cell {made.label}, line 4, in parse" in cell.error
    assert "return json.loads(text)" in cell.error
    assert "calls in json (%nbray tb shows all)" in cell.error
    assert f"Cell {cell.label}, line 2" in cell.error
    assert "decoder.py" not in cell.error and "nbray/" not in cell.error
    whole = notebook.run("%nbray tb").printed
    assert "decoder.py" in whole and "JSONDecodeError" in whole
    assert "in parse\n    return json.loads(text)" in whole, "the notebook has the source"


def test_names_of_outputs_and_variables_let_objects_go(fresh_notebook: Notebook) -> None:
    fresh_notebook.run("import nbray, numpy as np")
    fresh_notebook.run("nbray.put(np.ones(1_000_000))")
    fresh_notebook.run("kept = [nbray.put(bytes(500_000)) for _ in range(3)]")
    fresh_notebook.run("array = nbray.get(nbray.put(np.ones(300_000)))")
    shown = fresh_notebook.run("%nbray objects").result
    assert "Out[4]" in shown and "8.0 MB" in shown
    assert "list with 3 refs" in shown and "1.5 MB" in shown
    assert "ndarray read in place" in shown
    fresh_notebook.run("%nbray objects --release Out[4] --release kept --release array")
    assert "keeps nothing" in fresh_notebook.run("%nbray objects").result


def test_an_error_with_half_a_character_is_shown(notebook: Notebook) -> None:
    for body in (
        "raise ValueError('said ' + chr(0xd800))",
        "raise type('Odd', (Exception,), {'__str__': lambda self: 'said ' + chr(0xd800)})",
        "import nbray\n@nbray.remote\ndef f():\n    raise ValueError('said ' + chr(0xd800))\n"
        "nbray.get(f.remote())",
    ):
        for cell in (f"%%remote\n{body}", f"%remote exec({body!r})"):
            assert "said \\ud800" in notebook.run(cell).error


def test_a_group_of_errors_is_shown_as_any_error_and_within_bounds(notebook: Notebook) -> None:
    for cell in (
        "%%remote\nraise ExceptionGroup('some', [KeyError('a'), ValueError('x' * 50_000_000)])",
        "import nbray\n@nbray.remote\ndef f():\n"
        "    raise ExceptionGroup('some', [KeyError('a'), ValueError('x' * 50_000_000)])\n"
        "nbray.get(f.remote())",
    ):
        shown = notebook.run(cell)
        assert "KeyError: 'a'" in shown.error and "raise ExceptionGroup(" in shown.error
        assert f"  |   Cell {shown.label}, line " in shown.error and ".py" not in shown.error
        assert len(shown.error) < 500_000 and len(shown.printed) < 1000
    local = notebook.run("raise ExceptionGroup('local', [ValueError(1)])")
    assert "ExceptionGroup: local (1 sub-exception)" in local.error + local.printed
