"""What a remote cell leaves of the notebook's values: nothing is lost, whatever happens to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.kernel import Notebook, fresh_notebook, one_kernel_for_most, shared_notebook

__all__ = ["fresh_notebook", "one_kernel_for_most", "shared_notebook"]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%%remote\nrows = rows + [4]\n1 / 0", "As before it: rows."),
        ("%%remote\nrows[0] = 9\nrows.missing", "As before it: rows."),
        ("%%remote --gather\nrows = rows.missing", "AttributeError"),
        ("%%remote -o rows\nrows = []\nraise ValueError('no')", "ValueError: no"),
        ("%%remote --retries 0\nimport os\nrows = 1\nos._exit(3)", "WorkerCrashedError"),
        ("%%remote --timeout 0.3\nimport time\nrows = 1\ntime.sleep(60)", "GetTimeoutError"),
        ("%%remote --map x=[1,2] -o rows\nrows = x\n1 / 0", "ZeroDivisionError"),
        ("%%remote --targets workers -o rows\nrows = 1\n1 / 0", "ZeroDivisionError"),
        ("%%remote --actor kept -o rows\nrows = 1\n1 / 0", "ZeroDivisionError"),
        ("%remote rows = 1 / 0", "ZeroDivisionError"),
        ("%%remote\ndel rows\nrows = 1\n1 / 0", "ZeroDivisionError"),
        ("%%remote\nfrom missing import rows", "ModuleNotFoundError"),
        ("%%remote\ndef rows(): pass\nclass other: pass\n1 / 0", "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_a_cell_that_fails_leaves_each_name_its_value(
    notebook: Notebook, cell: str, said: str
) -> None:
    notebook.run("rows = [1, 2, 3]\nsame = rows")
    assert said in notebook.run(cell).error
    assert notebook.run("globals()['rows'] is same, rows").result == "(True, [1, 2, 3])"


@pytest.mark.parametrize("options", ["", " --map x=[1,2] -o rows", " --actor kept -o rows"])
def test_an_interrupted_cell_leaves_each_name_its_value(notebook: Notebook, options: str) -> None:
    notebook.run("import time\nrows = [1, 2, 3]")
    cell = notebook.start(f"%%remote{options}\nrows = 1\nprint('begun')\ntime.sleep(60)")
    notebook.wait(lambda: "begun" in cell.printed, "the start of the cell")
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: cell.idle, "the prompt")
    assert "KeyboardInterrupt" in cell.error
    assert notebook.run("rows").result == "[1, 2, 3]"
    assert notebook.run("%%remote\nrows = rows + [4]\nrows").result == "[1, 2, 3, 4]"


def test_who_waits_for_a_background_cell_that_failed_is_told_once(notebook: Notebook) -> None:
    notebook.run("import time\nrows = [1, 2, 3]")
    notebook.run("%%remote --noblock\ntime.sleep(0.3)\nrows = rows + [4]\n1 / 0")
    notebook.run("%%remote --noblock\nrows = rows + [5]")
    assert "ZeroDivisionError" in notebook.run("rows").error
    assert notebook.run("rows").result == "[1, 2, 3]"
    notebook.run("%%remote --noblock\nrows = 1\ntime.sleep(60)")
    notebook.run("_.cancel()")
    notebook.wait(lambda: notebook.run("rows").result == "[1, 2, 3]", "the end of the cell")
    notebook.run("%%remote --noblock\nrows = rows[:1]")
    assert notebook.run("rows").result == "[1]"


def test_a_lost_cluster_gives_back_what_was_there_before(fresh_notebook: Notebook) -> None:
    fresh_notebook.run("rows = [1]")
    fresh_notebook.run("%%remote\nrows = rows + [2]")
    fresh_notebook.run("%%remote\nrows = rows + [3]")
    fresh_notebook.run("import nbray; nbray.shutdown()")
    assert (
        "Run that cell again. 'rows' has its value of before." in fresh_notebook.run("rows").error
    )
    assert fresh_notebook.run("rows").result == "[1]"
    assert "1 node" in fresh_notebook.run("%nbray start --head --num-cpus 1").result
    assert fresh_notebook.run("%%remote\nrows.append(5)\nrows").result == "[1, 5]"


@pytest.mark.parametrize(
    ("made", "change", "seen", "result"),
    [
        ("xs = list(range(60_000))", "xs.append(7)", "len(xs), xs[-1]", "(60001, 7)"),
        ("d = {i: str(i) for i in range(20_000)}", "d.update(a=1)", "d['a']", "1"),
        ("a = np.zeros(100_000)", "a += 1", "a.sum()", "np.float64(100000.0)"),
        ("a = np.arange(100_000)[::-1].copy()", "a.sort()", "a[:2].tolist()", "[0, 1]"),
        ("a = np.zeros(100_000)", "a.fill(2)", "a[:1].tolist()", "[2.0]"),
        ("a = np.zeros(100_000)", "np.add(a, 1, out=a)", "a[:1].tolist()", "[1.0]"),
        ("a = np.zeros(100_000)", "b = a\nb[0] = 9", "a[0] == b[0] == 9", "np.True_"),
        ("a = np.zeros(100_000)", "a.reshape(100, -1)[1, 0] = 5", "a[1000] == 5", "np.True_"),
        ("a = np.arange(100_000)", "np.random.shuffle(a)", "(a == sorted(a)).all()", "np.False_"),
        ("s = pd.Series([1.0, None] * 20_000)", "s.fillna(0, inplace=True)", "s.sum()",
         "np.float64(20000.0)"),
        ("df = pd.DataFrame({'x': np.arange(50_000), 'y': 0})",
         "df.drop(columns='y', inplace=True)", "list(df.columns)", "['x']"),
        ("df = pd.DataFrame({'x': np.arange(50_000)[::-1]})",
         "df.sort_values('x', inplace=True)", "df.x.iloc[:2].tolist()", "[0, 1]"),
        ("deep = {'a': [{'w': np.zeros(50_000)}]}", "deep['a'][0]['w'][3] = 1",
         "deep['a'][0]['w'].sum()", "np.float64(1.0)"),
        ("rows = [[i] for i in range(30_000)]", "rows[7].append(1)", "rows[7]", "[7, 1]"),
        ("class M: pass\nm = M()\nm.w = np.zeros(50_000)",
         "def train(model): model.w += 1; model.epoch = 3\ntrain(m)",
         "m.w.sum(), m.epoch", "(np.float64(50000.0), 3)"),
        ("log = []\ndef note(x): log.append(x)", "note(3)", "log", "[3]"),
        ("n = 0\ndef bump():\n    global n\n    n += 1", "bump(); bump()", "n", "2"),
        ("def make():\n    n = 0\n    def inc():\n        nonlocal n\n        n += 1\n"
         "        return n\n    return inc\ninc = make()", "inc(); inc()", "inc()", "3"),
        ("rng = np.random.default_rng(0)", "rng.random(5)",
         "rng.random() == np.random.default_rng(0).random(6)[5]", "np.True_"),
        ("a = [1]\nb = [a]", "a.append(2); b.append(3)", "b[0] is a, b", "(True, [[1, 2], 3])"),
    ],
)  # fmt: skip
def test_a_change_in_place_is_there_as_if_the_cell_had_run_here(
    notebook: Notebook, made: str, change: str, seen: str, result: str
) -> None:
    notebook.run(f"import numpy as np, pandas as pd\n{made}")
    cell = notebook.run(f"%%remote\n{change};")
    assert not cell.error and "Changed" not in cell.printed
    assert notebook.run(seen).result == result


def test_what_was_read_from_a_cell_may_be_changed_and_is_sent_again_only_then(
    notebook: Notebook,
) -> None:
    notebook.run("%nbray config tell_bytes 1MB")
    notebook.run("%%remote\nimport numpy as np\na = np.ones(500_000)\nd = {'w': np.ones(200_000)}")
    assert notebook.run("d['w'][0] += 1\na.sum()").result == "np.float64(500000.0)"
    same = notebook.run("%%remote\na.sum()")
    assert same.result == "np.float64(500000.0)" and "Sent" not in same.printed
    notebook.run("a += 1")
    changed = notebook.run("%%remote\na[0], d['w'][0]")
    assert changed.result == "(np.float64(2.0), np.float64(2.0))" and "a 4.0 MB" in changed.printed


@pytest.mark.parametrize("options", ["--map i=[1,2]", "--targets workers", "--actor told"])
def test_a_change_that_cannot_come_back_is_told_with_its_name(
    notebook: Notebook, options: str
) -> None:
    notebook.run("seen = [0]\nlarge = list(range(60_000))")
    cell = notebook.run(f"%%remote {options}\nseen.append(1)\nlarge.append(1)")
    assert "Changed in the worker only: large, seen. -o large,seen brings it back." in cell.printed
    assert notebook.run("seen, len(large)").result == "([0], 60000)"


def test_a_class_that_a_cell_changes_and_a_background_cells_changes_are_told(
    notebook: Notebook,
) -> None:
    notebook.run("class Counter:\n    made = 0\nseen = []")
    cell = notebook.run("%%remote\nCounter.made += 1;")
    assert "Changed in the worker only: Counter. A class of the notebook" in cell.printed
    cell = notebook.run("%%remote\nCounter.__len__ = lambda self: 3\nlen(Counter())")
    assert cell.result == "3" and "Counter" in cell.printed
    assert "Counter" not in notebook.run("%%remote\nCounter().made").printed
    assert notebook.run("Counter.made").result == "0"
    later = notebook.run("%%remote --noblock\nseen.append(1);")
    notebook.wait(lambda: "Changed in the worker only: seen." in later.printed, "what is told")


def test_what_cannot_go_back_is_told_and_the_rest_comes(notebook: Notebook) -> None:
    notebook.run("held = [1]\nseen = []")
    cell = notebook.run(
        "%%remote\nimport threading\nheld.append(threading.Lock())\nseen.append(1);"
    )
    assert "Changed in the worker only: held." in cell.printed
    assert notebook.run("held, seen").result == "([1], [1])"


def test_reading_changes_nothing_and_brings_nothing_back(
    notebook: Notebook, tmp_path: Path
) -> None:
    notebook.run(
        "import numpy as np, pandas as pd\ndf = pd.DataFrame({'x': np.arange(50_000), 'y': 'a'})\n"
        "rows = [{'i': i} for i in range(20_000)]\narray = np.ones(100_000)"
    )
    notebook.run("before = id(df), id(rows), id(array)")
    cell = notebook.run(
        "%%remote\ndf.groupby('y').x.sum(), df.describe(), sorted(r['i'] for r in rows)[:2], "
        "array[::2].sum(), array.copy().sort();"
    )
    assert not cell.error
    here = "before == (id(globals()['df']), id(globals()['rows']), id(globals()['array']))"
    assert notebook.run(here).result == "True"
