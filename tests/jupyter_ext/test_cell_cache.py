"""``%%remote --cache`` in real kernels: nothing is answered that would not come out again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.detached import attached_kernel, kill_kernel, lasting_cluster
from support.kernel import (
    Notebook,
    one_kernel_for_most,
    running_kernel,
    running_notebook,
    shared_notebook,
)

__all__ = ["one_kernel_for_most", "shared_notebook"]

FROM = "From the cache"


@pytest.fixture
def kept(notebook: Notebook, tmp_path: Path) -> Iterator[Path]:
    """A folder of its own for what is kept."""
    notebook.run(f"%nbray config cache_folder {tmp_path / 'kept'}")
    yield tmp_path / "kept"
    notebook.run("%nbray cache clear\n%nbray config cache_bytes 1GB")


def test_a_cell_that_has_not_changed_gives_its_answer_and_output_at_once(
    notebook: Notebook, kept: Path
) -> None:
    notebook.run("import numpy as np\nk = 3\ndef f(x): return np.multiply(x, k)\na = np.arange(5)")
    cell = "import os\nprint('ran', flush=True)\nb = f(a)\npid = os.getpid()\nb.sum()"
    first = notebook.run(f"%%remote --cache\n{cell}")
    assert "Ran (no such cell was kept)" in first.printed, first.printed + first.error
    pid = notebook.run("pid").result
    again = notebook.run(f"%%remote --cache\n# a comment\n{cell}")
    assert FROM in again.printed and "ran\n" in again.printed, again.printed + again.error
    assert again.result == "np.int64(30)"
    assert notebook.run("pid").result == pid
    assert notebook.run("b.tolist()").result == "[0, 3, 6, 9, 12]"
    why = notebook.run("%nbray cache why").result
    for part in ("function", "numpy", "the same", FROM):
        assert part in why
    line = notebook.run("%nbray cache list").result
    assert "os, b, pid" in line and "of 1.0 GB" in line
    assert notebook.run("%nbray cache drop In[5]").printed == "1 answer dropped.\n"
    assert "Nothing is kept" in notebook.run("%nbray cache list").result


@pytest.mark.slow
def test_whatever_changes_is_seen_and_told(notebook: Notebook, kept: Path) -> None:
    cell = "%%remote --cache\nimport os\ny = g(data)\np = os.getpid()"
    notebook.run("k = 1\ndef h(x): return sum(x) + k\ndef g(x): return h(x)\ndata = [1, 2]")
    notebook.run(cell)
    assert FROM in notebook.run(cell).printed
    for change, told in (
        ("data.append(3)", "input data has changed (list of 2 -> list of 3)"),
        ("k = 1.0", "input k has changed (int -> float)"),
        ("def h(x): return sum(x) - k", "function h has changed"),
        ("data = {1: 2}", "input data has changed"),
    ):
        notebook.run(change)
        ran = notebook.run(cell)
        assert told in ran.printed and FROM not in ran.printed, ran.printed + ran.error
        assert told in notebook.run("%nbray cache why").result
        assert FROM in notebook.run(cell).printed
    assert notebook.run("%nbray cache list").result.count("y, p") == 5
    fresh = notebook.run(cell.replace("--cache", "--cache=refresh")).printed
    assert "Ran (--cache=refresh)" in fresh
    notebook.run("%%remote --every\nimport math")
    assert "set-up cell import math is new" in notebook.run(cell).printed
    notebook.run("%nbray setup --drop 'import math'")


@pytest.mark.slow
def test_an_edited_module_is_seen_wherever_it_is_imported(
    notebook: Notebook, kept: Path, tmp_path: Path
) -> None:
    (tmp_path / "cachedown.py").write_text("def value(): return 1")
    (tmp_path / "cacheown.py").write_text(
        "def value():\n    import cachedown\n    return cachedown.value()"
    )
    notebook.run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    notebook.run("def inner():\n    import cacheown\n    return cacheown.value()")
    cell = "%%remote --cache\nv = inner()"
    for number in (1, 2, 3):
        (tmp_path / "cachedown.py").write_text(f"def value(): return {number}")
        ran = notebook.run(cell)
        assert FROM not in ran.printed and "kept" in ran.printed, ran.printed + ran.error
        assert FROM in notebook.run(cell).printed
        assert notebook.run("v").result == str(number)
    assert "module cachedown has changed" in ran.printed
    assert notebook.run("'cachedown' in sys.modules").result == "False"


@pytest.mark.slow
def test_what_cannot_be_told_or_kept_is_said_by_name_and_the_cell_runs(
    notebook: Notebook, kept: Path
) -> None:
    notebook.run(
        "import nbray, threading, functools, numpy as np\n"
        "@nbray.remote\nclass A:\n    def one(self): return 1\nactor = A.remote()\n"
        "class L:\n    def __init__(self): self.n = 0\n"
        "    def __reduce__(self):\n        raise TypeError('no')"
    )
    for cell, told in (
        ("z = nbray.get(actor.one.remote())", "Not cached: actor is"),
        ("z = nbray.put(1)", "not kept: z holds what ends with its cluster"),
        ("import threading\nz = threading.Lock()", "not kept: z is a lock that stayed"),
        ("import nosuchmodule_ as m", ""),
        ("import random\nz = random.random()", "Mind: it seems to use random numbers (random)"),
    ):
        for _ in range(2):
            ran = notebook.run(f"%%remote --cache\n{cell}")
            assert told in ran.printed or FROM in ran.printed, ran.printed + ran.error
    assert "ModuleNotFoundError" in notebook.run("%%remote --cache\nimport nosuchmodule_").error
    notebook.run("%nbray config cache_bytes 1MB")
    huge = "%%remote --cache\nz = np.ones(1_000_000)"
    for _ in range(2):
        assert "8.0 MB are more than a quarter of cache_bytes" in notebook.run(huge).printed
    assert notebook.run("z.sum()").result == "np.float64(1000000.0)"
    for line in (
        "--actor x",
        "--targets nodes",
        "--every",
        "--map i=[1]",
        "--noblock",
        "--detach n",
        "--profile",
    ):
        assert "--cache does not go with" in notebook.run(f"%%remote --cache {line}\n1").printed


@pytest.mark.slow
def test_an_error_and_an_interrupted_cell_are_not_kept(notebook: Notebook, kept: Path) -> None:
    for _ in range(2):
        assert "ZeroDivisionError" in notebook.run("%%remote --cache\n1 / 0").error
    cell = notebook.start("%%remote --cache\nimport time\nprint('in', flush=True)\ntime.sleep(60)")
    notebook.wait(lambda: "in\n" in cell.printed, "the cell")
    notebook.manager.interrupt_kernel()
    notebook.wait(lambda: cell.idle, "the prompt")
    assert "KeyboardInterrupt" in cell.error
    assert "Nothing is kept" in notebook.run("%nbray cache list").result


_SLOW_TO_KEEP = """
import os, time
HOME = os.getpid()
class Slow:
    def __init__(self, home):
        self.home = home
    def __getstate__(self):
        if os.getpid() == self.home:
            print('keeping', flush=True)
            time.sleep(1000 if waits else 0)
        return self.__dict__
waits = True
"""
_SLOW = "%%remote --cache\nslow = Slow(HOME)\nprint('ran', flush=True)"


@pytest.mark.slow
def test_an_interrupt_while_an_answer_is_kept_leaves_the_cells_names_and_no_answer(
    notebook: Notebook, kept: Path
) -> None:
    notebook.run(_SLOW_TO_KEEP)
    for interrupts in (1, 2):
        cell = notebook.start(_SLOW)
        notebook.wait(lambda cell=cell: "keeping\n" in cell.printed, "the keeping")
        for _ in range(interrupts):  # the second comes while it is told, or in the next cell
            notebook.manager.interrupt_kernel()
        notebook.wait(lambda cell=cell: cell.idle and "ran\n" in cell.printed, "the prompt")
        if interrupts == 1:
            assert "The cell has run; keeping its answer was interrupted." in cell.printed
        notebook.run("waits = False")
        assert notebook.run("waits = False\ntype(slow).__name__").result == "'Slow'"
        assert not list(kept.glob("*.answer")) and not list(kept.glob(".*.new"))
        notebook.run("waits = True")
    notebook.run("waits = False")
    assert "the answer is kept" in notebook.run(_SLOW).printed
    assert FROM in notebook.run(_SLOW).printed


@pytest.mark.slow
def test_a_kernel_that_is_killed_while_it_keeps_leaves_nothing_that_is_taken(
    home: Path, tmp_path: Path
) -> None:
    folder = f"%nbray config cache_folder {tmp_path / 'kept'}"
    with lasting_cluster(), attached_kernel() as second:
        with attached_kernel() as first:
            first.run(f"{folder}\n{_SLOW_TO_KEEP}")
            cell = first.start(_SLOW)
            first.wait(lambda: "keeping\n" in cell.printed, "the keeping")
            kill_kernel(first)
        second.run(f"{folder}\n{_SLOW_TO_KEEP}waits = False")
        ran = second.run(_SLOW)
        assert "ran\n" in ran.printed and "the answer is kept" in ran.printed, ran.error
        assert FROM in second.run(_SLOW).printed


@pytest.mark.slow
def test_a_full_disk_and_a_limit_of_files_are_said_and_the_cell_has_run(
    notebook: Notebook, kept: Path, small_disk: Path
) -> None:
    makes = "%%remote --cache\nimport os\nbig = os.urandom({})\nlen(big)"
    notebook.run(f"%nbray config cache_folder {small_disk / 'kept'}")
    cell = notebook.run(makes.format(40_000_000))
    assert cell.result == "40000000" and notebook.run("len(big)").result == "40000000"
    assert "its answer is not kept: [Errno 28] No space left on device." in cell.printed
    assert "the answer is kept" in notebook.run(makes.format(2_000)).printed
    notebook.run(f"%nbray config cache_folder {kept}")
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({}, -1))"
    notebook.run(limit.format(100_000))
    cell = notebook.run(makes.format(3_000_000))
    assert cell.result == "3000000"
    assert "its answer is not kept: [Errno 27] File too large." in cell.printed
    notebook.run(limit.format(-1))
    assert "the answer is kept" in notebook.run(makes.format(3_000_000)).printed


_DEFINED = """
import numpy as np, dataclasses
@dataclasses.dataclass
class C:
    v: int = 1
    def twice(self): return self.v * 2
c = C(4)
far = np.ones(200_000)
"""
_MAKES = """%%remote --cache
import nbray, pathlib
@nbray.remote
def nested(i):
    print('nested', i, flush=True)
    return i
nbray.get([nested.remote(i) for i in range(2)])
r = C(c.twice())
class D(C):
    pass
d = D(3)
def made(x): return x + r.v + c.v
total = far.sum()
far[0] = 7
big = far * 2
from IPython.display import display, HTML
display(HTML('<b>hi</b>'))
"""
_SEEN = (
    "print(isinstance(r, C), isinstance(d, D), isinstance(d, C), made(1), total, far[0], big[1], "
    "made.__globals__ is globals(), pathlib.__name__, big.flags.writeable)"
)


@pytest.mark.slow
def test_an_answer_is_there_for_another_kernel_and_without_a_cluster(
    session_root: Path, tmp_path: Path
) -> None:
    start = f"%load_ext nbray\n%nbray config cache_folder {tmp_path / 'kept'}\n{_DEFINED}"
    with running_notebook() as notebook:
        notebook.run(start)
        ran = notebook.run(_MAKES)
        assert "the answer is kept" in ran.printed, ran.printed + ran.error
        seen = notebook.run(_SEEN).printed
        assert seen == "True True True 13 200000.0 7.0 2.0 True pathlib True\n"
    with running_kernel() as notebook:
        notebook.run(start)
        again = notebook.run(_MAKES)
        assert FROM in again.printed and "nested 1" in again.printed, again.printed + again.error
        assert "<IPython.core.display.HTML object>" in again.results
        assert notebook.run(_SEEN).printed == seen
        assert notebook.run("nbray.is_initialized()").result == "False"
        notebook.run("c.v = 5")
        changed = notebook.run(_MAKES)
        assert "input c has changed" in changed.printed, changed.printed + changed.error


@pytest.mark.slow
def test_an_answer_that_was_changed_on_disk_is_not_taken(notebook: Notebook, kept: Path) -> None:
    cell = "%%remote --cache\nx = 1\nprint('ran')"
    notebook.run(cell)
    (path,) = kept.glob("*.answer")
    data = bytearray(path.read_bytes())
    data[-70] ^= 1
    path.write_bytes(data)
    ran = notebook.run(cell)
    assert "what was kept could not be read" in ran.printed and FROM not in ran.printed
    assert FROM in notebook.run(cell).printed
    path.chmod(0o644)
    assert FROM not in notebook.run(cell).printed


@pytest.mark.slow
def test_ten_thousand_inputs_and_large_ones_are_compared(notebook: Notebook, kept: Path) -> None:
    notebook.run("import numpy as np\nmany = {str(i): [i, {i}] for i in range(10_000)}")
    notebook.run("large = np.zeros(20_000_000)")
    cell = "%%remote --cache\nn = len(many), large.sum()"
    notebook.run(cell)
    assert FROM in notebook.run(cell).printed
    notebook.run("many['9999'][1].add(-1)")
    assert "input many has changed" in notebook.run(cell).printed
    notebook.run("large[-1] = -0.0")
    assert "input large has changed" in notebook.run(cell).printed


@pytest.mark.slow
def test_two_kernels_share_what_is_kept(session_root: Path, tmp_path: Path) -> None:
    start = f"%load_ext nbray\n%nbray config cache_folder {tmp_path / 'kept'}"
    with running_notebook() as one, running_kernel() as other:
        one.run(start)
        other.run(start)
        failed: list[str] = []

        def work(notebook: Notebook) -> None:
            for number in range(10):
                ran = notebook.run(f"%%remote --cache\nx = {number}")
                if ran.error or not (FROM in ran.printed or "is kept" in ran.printed):
                    failed.append(ran.error + ran.printed)

        threads = [threading.Thread(target=work, args=(notebook,)) for notebook in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert other.run("%nbray cache list").result.count("x = ") == 10
