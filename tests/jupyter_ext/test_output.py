"""Output of tasks: what workers send, what a cell shows of it, and that it is the right cell."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.kernel import Cell, Notebook, is_panel, notebook

import nbray
from nbray.core_worker.run.output import LogFile
from nbray.core_worker.run.output_batch import Batch
from nbray.driver import output
from nbray.jupyter_ext.output.cell_output import LINE_LIMIT, CellOutput, Source
from nbray.jupyter_ext.output.progress import AFTER_S
from nbray.testing import wait_until
from nbray.wire.records import OutputSource
from nbray.wire.watching_messages import OutputDisplay, OutputLines

__all__ = ["notebook"]

SOURCE = OutputSource(b"t" * 24, "f", 1, b"n" * 28, 7, "/logs/w.out")


# --- what a worker sends --------------------------------------------------------------------


@given(st.lists(st.text(alphabet="ab\n", max_size=30), max_size=30))
@example(["a" * 30, "a" * 30, "a\n\n"])
def test_every_complete_line_is_sent_or_counted(writes: list[str]) -> None:
    batch = Batch(max_lines=10, max_bytes=60)
    for text in writes:
        batch.write(SOURCE, "stdout", text)
    sent = [message for message in batch.take() if isinstance(message, OutputLines)]
    whole = "".join(writes)
    assert sum(m.text.count("\n") + m.dropped for m in sent) == whole.count("\n")
    assert whole.startswith("".join(m.text for m in sent[:1]))
    assert sum(len(m.text) for m in sent) <= 70


def test_an_unfinished_line_waits_until_it_is_flushed() -> None:
    batch = Batch(10, 1000)
    batch.write(SOURCE, "stdout", "50 ")
    assert not batch
    batch.flush(SOURCE, "stdout")
    batch.write(SOURCE, "stdout", "percent")
    assert [m.text for m in batch.take() if isinstance(m, OutputLines)] == ["50 percent"]
    batch.write(SOURCE, "stdout", "!\n")
    assert [m.text for m in batch.take() if isinstance(m, OutputLines)] == ["!\n"]


@pytest.mark.parametrize("piece", [1000, 4096, 1 << 20])
@pytest.mark.parametrize("flushed", [False, True])
def test_of_a_long_line_the_beginning_is_sent_and_the_rest_counted(
    piece: int, flushed: bool
) -> None:
    batch, size = Batch(10, 100_000), 3_000_000
    for start in range(0, size, piece):
        batch.write(SOURCE, "stdout", "x" * min(piece, size - start))
    if flushed:
        batch.flush(SOURCE, "stdout")
    batch.write(SOURCE, "stdout", "\nand\n" if not flushed else "")
    (sent,) = [m for m in batch.take() if isinstance(m, OutputLines)]
    beginning, _, more = sent.text.partition("\n")[0].partition(" ... ")
    assert 90_000 < len(beginning) <= 100_000 and set(beginning) == {"x"}
    assert more == f"{size - len(beginning):,} more characters"
    assert sent.text.endswith("\nand\n") or flushed


def test_many_unfinished_lines_share_what_is_held() -> None:
    batch = Batch(10, 100_000)
    for number in range(100):
        source = OutputSource(bytes([number]) * 24, "f", 1, b"n" * 28, 7, "/logs/w.out")
        batch.write(source, "stdout", "x" * 200_000)
        batch.end(source)
    sent = [m.text for m in batch.take() if isinstance(m, OutputLines)]
    assert len(sent) == 100 and all("more characters" in text for text in sent)
    assert sum(map(len, sent)) < 2_000_000


def test_of_a_progress_bar_only_the_last_state_is_sent() -> None:
    batch = Batch(10, 1000)
    for percent in range(100):
        batch.write(SOURCE, "stderr", f"\r{percent}%")
        batch.flush(SOURCE, "stderr")
    assert [m.text for m in batch.take() if isinstance(m, OutputLines)] == ["\r99%"]


def test_the_log_is_read_without_what_python_wrote(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "w.out"))
    with open(log.path, "ab", buffering=0) as other:
        log.write("mine\n")
        other.write(b"theirs\n")
        log.write("mine\n" * 3)
        other.write(b"and again\n")
    assert log.read_others() == "theirs\nand again\n"
    assert log.read_others() == ""
    assert (tmp_path / "w.out").read_text().count("mine") == 4


# --- what a cell shows ------------------------------------------------------------------------


def source(pid: int = 1, plain: bool = False) -> Source:
    return Source(bytes([pid]), "f", pid, "/logs/w.out", plain)


def shown(cell: CellOutput, now: float = 0.0, final: bool = True) -> str:
    return "".join(text for _, text in cell.take(now, final))


def test_identical_lines_are_folded_with_their_number() -> None:
    cell = CellOutput()
    for pid in (1, 2, 1, 3):
        cell.feed(source(pid), "stdout", "hello\nother\n" if pid == 3 else "hello\n", 0, 0.0)
    assert (
        shown(cell) == "(f pid=1) hello\n(f pid=3) other\n(f pid=3) hello  [3 times, 3 processes]\n"
    )


def test_a_line_that_comes_slowly_again_is_shown_again() -> None:
    cell = CellOutput()
    for second in (0.0, 2.0, 4.0):
        cell.feed(source(), "stdout", "tick\n", 0, second)
        assert shown(cell, second, final=False) == "(f pid=1) tick\n"


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=60), st.booleans())
def test_folding_loses_no_line(lines: list[str], plain: bool) -> None:
    cell = CellOutput()
    for line in lines:
        cell.feed(source(plain=plain), "stdout", line + "\n", 0, 0.0)
    counted = dict.fromkeys("abc", 0)
    for line in shown(cell).splitlines():
        words = line.removeprefix("(f pid=1) ").split()
        counted[words[0]] += int(words[1].strip("[")) if len(words) > 1 else 1
    assert counted == {name: lines.count(name) for name in "abc"}


@given(st.integers(0, 500), st.integers(0, 1000))
def test_what_is_not_shown_is_counted(lines: int, dropped: int) -> None:
    cell = CellOutput()
    text = "".join(f"line {number}\n" for number in range(lines))
    cell.feed(source(), "stdout", text, dropped, 0.0)
    visible = shown(cell).count("\n")
    assert visible == min(lines, LINE_LIMIT)
    assert visible + sum(cell.hidden.values()) == lines + dropped


def test_what_a_worker_left_out_of_a_line_is_counted_with_what_the_cell_does_not_show() -> None:
    batch, cell = Batch(10, 100_000), CellOutput()
    batch.write(SOURCE, "stdout", "x" * 3_000_000 + "\n")
    for message in batch.take():
        assert isinstance(message, OutputLines)
        cell.feed(source(plain=True), "stdout", message.text, message.dropped, 0.0)
    assert shown(cell) == f"{'x' * 4000} ... 2,996,000 more characters\n"


@pytest.mark.parametrize("plain", [False, True])
def test_of_a_line_that_never_ends_the_cell_keeps_and_shows_the_beginning(plain: bool) -> None:
    cell, text = CellOutput(), ""
    for _ in range(100):
        cell.feed(source(plain=plain), "stdout", "x" * 50_000, 0, 0.0)
        text += shown(cell, final=False)
    cell.feed(source(plain=plain), "stdout", "\nnext\n", 0, 0.0)
    text += shown(cell)
    if plain:
        assert text == "x" * 200_000 and cell.hidden == {"f": 2}
    else:
        assert text == f"(f pid=1) {'x' * 4000} ... 4,996,000 more characters\n(f pid=1) next\n"
    assert list(cell.logs) == ["/logs/w.out"]


def test_bars_with_one_description_are_added_up() -> None:
    cell = CellOutput()
    cell.feed(source(1), "stderr", "\rfit:  10%|#   | 1/10", 0, 0.0)
    cell.feed(source(2), "stderr", "\rfit:  50%|##  | 5/10", 0, 0.0)
    cell.feed(source(1), "stderr", "\rfit:  20%|#   | 2/10", 0, 0.0)
    cell.feed(source(1), "stderr", "\rscore:  50%|##  | 1/2\n", 0, 0.0)
    assert cell.bars[0].startswith("fit:") and cell.bars[0].endswith("7/20 in 2 tasks")
    assert cell.bars[1:] == ["score:  50%|##  | 1/2"]
    assert shown(cell) == ""


# --- without a notebook -----------------------------------------------------------------------


def test_a_handler_that_raises_is_logged_and_get_goes_on(
    cluster: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_message: object) -> None:
        raise ValueError("broken handler")

    output.set_output_handler(broken)
    try:
        with caplog.at_level(logging.ERROR):
            assert nbray.get(nbray.remote(lambda: print("x") or 5).remote(), timeout=30) == 5
            wait_until(lambda: "broken handler" in caplog.text, "the error in the log")
    finally:
        output.set_output_handler(None)


def received(action: Callable[[], Any]) -> tuple[Any, list[OutputLines | OutputDisplay]]:
    messages: list[OutputLines | OutputDisplay] = []
    output.set_output_handler(messages.append)
    try:
        return action(), messages
    finally:
        output.set_output_handler(None)


def test_what_c_code_and_subprocesses_write_arrives_with_its_task(cluster: Path) -> None:
    @nbray.remote
    def low() -> None:
        import ctypes
        import os
        import subprocess

        print("from python")
        os.write(1, b"from a descriptor\n")
        os.write(2, b"an error\n")
        subprocess.run(["echo", "from a subprocess"], check=True)
        ctypes.CDLL(None).puts(b"from C")

    _, messages = received(lambda: nbray.get(low.remote(), timeout=30))
    lines = [m for m in messages if isinstance(m, OutputLines)]
    text = "".join(m.text for m in lines if m.stream == "stdout")
    for said in ("from python", "from a descriptor", "from a subprocess", "from C"):
        assert text.count(said) == 1
    assert "".join(m.text for m in lines if m.stream == "stderr") == "an error\n"
    assert {m.source.name.rpartition(".")[2] for m in lines} == {"low"}


def test_a_flood_is_bounded_in_the_worker_and_whole_in_its_log(cluster: Path) -> None:
    @nbray.remote
    def flood() -> None:
        for number in range(30_000):
            print("line", number)

    _, messages = received(lambda: nbray.get(flood.remote(), timeout=60))
    lines = [m for m in messages if isinstance(m, OutputLines)]
    assert sum(m.text.count("\n") + m.dropped for m in lines) == 30_000
    assert sum(m.dropped for m in lines) > 0
    log = Path(lines[0].source.log).read_text()
    assert log.count("\n") == 30_000


# --- in a notebook -----------------------------------------------------------------------------


def panel(cell: Cell) -> str:
    """What the cell's panel says last."""
    texts = [
        content["data"]["text/plain"]
        for name, content in cell.messages
        if name in ("display_data", "update_display_data") and is_panel(content)
    ]
    return texts[-1] if texts else ""


def test_5_1_output_is_the_submitting_cells_also_from_nested_tasks_threads_and_late(
    notebook: Notebook,
) -> None:
    notebook.run(
        "import nbray, time, sys\n"
        "@nbray.remote\ndef inner(i):\n    print('inner', i)\n"
        "@nbray.remote(num_cpus=0)\ndef outer(i):\n    time.sleep(1)\n"
        "    nbray.get(inner.remote(i))\n    print('trouble', i, file=sys.stderr)\n"
        "@nbray.remote\nclass A:\n    def m(self, i):\n        time.sleep(1)\n"
        "        print('method', i)\n"
        "a = A.remote()\nnbray.get(a.m.remote(0))"
    )
    first = notebook.run("refs = [outer.remote(1), a.m.remote(1)]")
    second = notebook.run("refs += [outer.remote(2)]\nprint('asked')")
    notebook.run("nbray.get(refs)", timeout=60)
    for cell, number in ((first, 1), (second, 2)):
        notebook.wait(lambda c=cell, n=number: f"inner {n}" in c.printed, "nested output")
        notebook.wait(lambda c=cell, n=number: f"trouble {n}" in c.printed, "an error line")
        streams = {
            content["name"]
            for name, content in cell.messages
            if name == "stream" and "trouble" in content["text"]
        }
        assert streams == {"stderr"}
    notebook.wait(lambda: "method 1" in first.printed, "an actor's output")
    assert "inner 1" not in second.printed and "inner 2" not in first.printed


def test_5_1_rich_display_reaches_the_cell(notebook: Notebook) -> None:
    cell = notebook.run(
        "import nbray\n@nbray.remote\ndef show():\n"
        "    from IPython.display import HTML, display, update_display\n"
        "    import matplotlib.pyplot as plt\n"
        "    print('before')\n"
        "    display(HTML('<b>bold</b>'))\n"
        "    display('first', display_id='mine')\n"
        "    update_display('second', display_id='mine')\n"
        "    fig, ax = plt.subplots()\n    ax.plot([1, 2])\n    display(fig)\n"
        "    plt.close(fig)\n"
        "    print('after')\n"
        "nbray.get(show.remote())",
        timeout=60,
    )
    assert not cell.error
    notebook.wait(lambda: "after" in cell.printed, "what is printed last")
    shown = [
        (name, content)
        for name, content in cell.messages
        if name in ("stream", "display_data") and not is_panel(content)
    ]
    kinds = [name for name, _ in shown]
    assert kinds == ["stream", "display_data", "display_data", "display_data", "stream"]
    bundles = [content["data"] for name, content in shown if name == "display_data"]
    assert bundles[0]["text/html"] == "<b>bold</b>"
    assert "image/png" in bundles[2]
    updates = [
        content
        for name, content in cell.messages
        if name == "update_display_data" and not is_panel(content)
    ]
    assert [update["data"]["text/plain"] for update in updates] == ["'second'"]
    assert updates[0]["transient"]["display_id"] == "mine"
    json.dumps(bundles)


def test_5_1_a_flood_leaves_the_notebook_usable(notebook: Notebook) -> None:
    notebook.run(
        "import nbray\n@nbray.remote(num_cpus=0.25)\ndef flood(i):\n"
        "    for n in range(20000): print('line', i, n)"
    )
    cell = notebook.run("nbray.get([flood.remote(i) for i in range(8)])", timeout=100)
    assert not cell.error
    assert notebook.run("1 + 1", timeout=60).result == "2"
    notebook.wait(lambda: "159,800 more lines" in panel(cell), "the count of the rest")
    assert cell.printed.count("\n") == LINE_LIMIT
    assert sum(name == "stream" for name, _ in cell.messages) <= LINE_LIMIT
    assert ".out" in panel(cell)


def test_5_5_progress_appears_by_itself_and_ends_final(notebook: Notebook) -> None:
    notebook.run("import nbray, time\n@nbray.remote\ndef slow(i):\n    time.sleep(0.6); return 1/i")
    began = time.monotonic()
    quick = notebook.run("nbray.get(slow.remote(1))")
    assert panel(quick) == "" or time.monotonic() - began > AFTER_S
    began = time.monotonic()
    cell = notebook.start(
        "refs = [slow.remote(i) for i in range(12)]\nnbray.wait(refs, num_returns=12)"
    )
    notebook.wait(lambda: re.search("running.*queued", panel(cell)), "a bar")
    notebook.wait(lambda: cell.idle, "the end of the cell")
    took = time.monotonic() - began
    assert panel(cell).startswith("slow 100%|") and "12/12, 1 failed" in panel(cell)
    assert "running" not in panel(cell)
    updates = sum(name == "update_display_data" for name, _ in cell.messages)
    assert 1 <= updates <= 4 * max(5, took)
    began = time.monotonic()
    left = notebook.run("refs = [slow.remote(1) for _ in range(10)]")
    assert left.idle and (panel(left) == "" or time.monotonic() - began > AFTER_S)
    notebook.wait(lambda: "10/10" in panel(left), "the bar of a cell that has long ended")


def test_5_5_a_bar_is_final_when_its_cluster_stops(notebook: Notebook) -> None:
    cell = notebook.run(
        "import nbray, time\nnap = nbray.remote(time.sleep)\n"
        "refs = [nap.remote(0), *[nap.remote(60) for _ in range(4)]]"
    )
    notebook.wait(lambda: "2 running, 2 queued" in panel(cell), "a bar")
    notebook.run("%nbray stop")
    notebook.wait(lambda: "5/5, 4 cancelled" in panel(cell), "its end")
    assert "running" not in panel(cell)


def test_5_5_bars_in_remote_code_are_one_for_each_name(notebook: Notebook) -> None:
    pytest.importorskip("tqdm")
    cell = notebook.run(
        "import nbray, time\n@nbray.remote\ndef work():\n    from tqdm import tqdm\n"
        "    for _ in tqdm(range(10), desc='fit'): time.sleep(0.03)\n"
        "nbray.get([work.remote() for _ in range(2)])"
    )
    notebook.wait(lambda: "20/20 in 2 tasks" in panel(cell), "the sum of the bars")
    # Above it is the bar of the tasks, when they take long enough to have one.
    assert re.search(r"^fit: 100%\|", panel(cell), re.MULTILINE)
    assert cell.printed == ""
    cell = notebook.run(
        "from nbray.experimental import tqdm_ray\n@nbray.remote\ndef rays():\n"
        "    for _ in tqdm_ray.tqdm(range(10), desc='of ray'): time.sleep(0.03)\n"
        "nbray.get(rays.remote())"
    )
    notebook.wait(lambda: "of ray: 100%" in panel(cell), "the bar of a task")


def test_5_4_a_remote_traceback_has_the_lines_of_cells(notebook: Notebook) -> None:
    notebook.run("def helper(x):\n    return 1 / x")
    notebook.run("import nbray\n@nbray.remote\ndef f(x):\n    return helper(x)")
    told = notebook.run(
        "try:\n    nbray.get(f.remote(0))\nexcept ZeroDivisionError as error:\n"
        "    print(error.traceback_str)"
    ).printed
    assert "return helper(x)" in told
    assert "return 1 / x" in told


def test_5_6_every_handle_has_a_picture_that_fetches_nothing(notebook: Notebook) -> None:
    notebook.run(
        "import nbray, numpy as np, time\n@nbray.remote\ndef late(): time.sleep(30)\n"
        "@nbray.remote\nclass Counter:\n    def add(self, n): pass\n"
        "big = nbray.put(np.zeros((300, 1000)))\nsmall = nbray.put({'a': 1})\n"
        "later = late.remote()\ncounter = Counter.options(name='c').remote()\n"
        "nbray.get(counter.__ray_ready__.remote())"
    )

    def picture(name: str) -> tuple[str, str]:
        cell = notebook.run(name)
        data = next(c["data"] for kind, c in cell.messages if kind == "execute_result")
        return data["text/plain"], data["text/html"]

    text, html = picture("big")
    assert "ready, ndarray (300, 1000) float64, size 2.4 MB, on node" in text
    assert ", from In [3], id " in text
    assert "float64" in html and "var(--jp-" in html and "<script" not in html
    assert "ready, dict of 1, size" in picture("small")[0]
    assert ": pending, from In [3], id " in picture("later")[0]
    text, html = picture("counter")
    assert text.startswith("<Actor Counter(")
    assert "alive, name c, node" in text and "methods add" in text
    text, _ = picture("from nbray.util.state import list_nodes\nlist_nodes()[0]")
    assert text.startswith("<Node ") and "CPU" in text
    text, html = picture("nbray.init(ignore_reinit_error=True)")
    assert text.startswith("<nbray: cluster 127.0.0.1:") and ", dashboard none" in text
    assert "cluster" in html and "var(--jp-" in html and "<script" not in html
    notebook.run("@nbray.remote\ndef stream():\n    yield from range(3)\nrows = stream.remote()")
    text, html = picture("rows")
    assert text.startswith("<ObjectRefGenerator: its task ") and "var(--jp-" in html
    notebook.run("nbray.cancel(later)")
