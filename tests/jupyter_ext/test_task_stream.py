"""The task stream of a cell: its layout, its pictures, and both in a real kernel."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st
from support.kernel import Cell, Notebook, is_panel, one_kernel_for_most, shared_notebook

from nbray.jupyter_ext.output.progress import Panel, Row
from nbray.jupyter_ext.pictures import theme
from nbray.jupyter_ext.pictures.task_stream import (
    LANE_LIMIT,
    SPAN_LIMIT,
    Span,
    lanes,
    sample,
    seconds,
    stream,
    ticks,
)
from nbray.util.state import TaskState

__all__ = ["one_kernel_for_most", "shared_notebook"]


def row(name: str, start: float | None, end: float | None, pid: int = 1, **more: str) -> TaskState:
    """A task of worker ``pid``; times in milliseconds."""
    state = "RUNNING" if end is None else more.pop("state", "FINISHED")
    return TaskState(
        "t", 0, name, state, "01", None, "NORMAL_TASK", name, None, more.pop("node", "aa" * 28),
        "w", pid, more.get("error_type"), start_time_ms=start, end_time_ms=end,
    )  # fmt: skip


TIMES = st.floats(0, 1e4)
SPANS = st.lists(st.tuples(TIMES, TIMES, st.sampled_from("abc")), max_size=80)


@given(SPANS)
def test_spans_of_a_row_never_overlap_and_rows_of_a_worker_stand_together(
    times: list[tuple[float, float, str]],
) -> None:
    spans = sorted(
        (Span("f", min(a, b), max(a, b), "FINISHED", worker) for a, b, worker in times),
        key=lambda span: span.start,
    )
    found = lanes(spans, limit=1000)
    assert sorted(id(span) for _, lane in found for span in lane) == sorted(map(id, spans))
    for _, lane in found:
        for before, after in itertools.pairwise(lane):
            assert before.end <= after.start
    workers = [lane[0].worker for _, lane in found]
    assert workers == sorted(workers)
    assert [label for label, _ in found if label] == sorted({span.worker for span in spans})


@given(st.floats(1e-4, 1e5))
def test_the_axis_has_a_few_round_numbers(length: float) -> None:
    found = ticks(length)
    assert found[0] == 0 and found[-1] <= length * 1.0001 and 3 <= len(found) <= 11


def test_of_many_tasks_those_are_drawn_that_matter() -> None:
    quick = [Span("f", float(i), i + 0.001, "FINISHED", "a") for i in range(SPAN_LIMIT)]
    long = Span("f", 1.0, 500.0, "FINISHED", "b")
    failed = Span("f", 2.0, 2.0, "FAILED", "b")
    kept = sample([*quick, long, failed])
    assert len(kept) == SPAN_LIMIT and long in kept and failed in kept
    many = [row("f", 10.0 * i, 10.0 * i + 5, pid=i % 60) for i in range(5000)]
    drawn = stream("In [1]", many, 0, submitted=9000)
    assert len(drawn.lanes) == LANE_LIMIT and drawn.workers == 60
    assert f"{drawn.spans:,} of 5,000 are drawn" in repr(drawn)
    assert "20 workers more are not drawn." in repr(drawn)
    assert "Of 9,000 tasks, the cluster remembers 5,000." in repr(drawn)
    assert len(drawn._repr_html_()) < 400_000


def test_a_stream_reads_well_as_text_and_is_sound_as_html() -> None:
    rows = [
        row("load<b>", 1000.0, 2000.0),
        row("fit", 2000.0, 4500.0, pid=2),
        row("fit", 2000.0, 3000.0, state="FAILED"),
        row("fit", 4000.0, None),
        row("fit", None, None),
    ]
    drawn = stream("In [3]", rows, now_ms=5000.0, submitted=5)
    lines = repr(drawn).split("\n")
    assert lines[0] == "Tasks of In [3], 2 workers"
    assert lines[1].startswith("pid 1 |████") and "x" in lines[1] and "▒" in lines[1]
    assert lines[3].strip().startswith("0 s") and lines[3].endswith("4 s")
    assert "  fit: 3 tasks, 4.5 s, 1.5 s each, 1 failed" in lines
    assert lines[-1] == "1 more have not begun."
    html = drawn._repr_html_()
    assert "load&lt;b&gt;" in html and "<script" not in html
    picture = ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])
    assert len(picture.findall("rect")) == 4
    assert stream("In [4]", [], 0.0)._repr_html_().count("No task of In [4] has run yet.") == 1


def test_what_was_cancelled_has_not_failed() -> None:
    rows = [row("fit", 1000.0, 2000.0, state="FAILED", error_type="TASK_CANCELLED")]
    drawn = stream("In [3]", rows, now_ms=5000.0, submitted=1)
    assert "failed" not in repr(drawn) and "░" in repr(drawn)
    html = drawn._repr_html_()
    assert "cancelled after 1 s" in html and theme.BAD not in html
    panel = Panel()
    panel.set([Row("fit", 4, done=1, failed=0, running=0, seconds=2.0, cancelled=3)], [], {}, [])
    assert "4/4, 3 cancelled" in panel.text() and panel.is_final
    assert theme.BAD not in panel.html()


def test_times_have_units() -> None:
    assert [seconds(s) for s in (0.0123, 2.5, 125.0)] == ["12.3 ms", "2.5 s", "2 min 5 s"]


# --- in a notebook -----------------------------------------------------------------------------


def pictures(cell: Cell, mime: str = "text/plain") -> list[str]:
    kinds = ("display_data", "update_display_data", "execute_result")
    return [
        content["data"][mime]
        for name, content in cell.messages
        if name in kinds and mime in content["data"] and not is_panel(content)
    ]


def test_a_cell_shows_the_stream_of_its_tasks_and_its_last_state_stays(
    shared_notebook: Notebook,
) -> None:
    notebook = shared_notebook
    notebook.run(
        "import nbray, time\n@nbray.remote\ndef work(i):\n"
        "    time.sleep(i)\n    return 1 / (i - 0.3)"
    )
    cell = notebook.run(
        "refs = [work.remote(i) for i in (0.1, 0.2, 0.3, 1.5)]\n"
        "nbray.wait(refs, num_returns=3)\n%nbray stream"
    )
    assert not cell.error
    assert pictures(cell)[0].startswith(f"Tasks of {cell.label}, ")
    notebook.wait(
        lambda: "work: 4 tasks" in pictures(cell)[-1] and "▒" not in pictures(cell)[-1],
        "the final picture",
    )
    assert "1 failed" in pictures(cell)[-1]
    assert pictures(cell, "text/html")[-1].count("<rect") == 4
    later = notebook.run(f"%nbray stream {cell.label.replace(' ', '')}")
    assert pictures(later)[0] == pictures(cell)[-1]
    by_default = notebook.run("%nbray stream")
    assert pictures(by_default) == pictures(later)
    told = notebook.run("%nbray stream 99").printed
    assert "cell 99 has submitted no task." in told
    zoomed = notebook.run("%nbray stream --zoom")
    static, live = [c["data"] for name, c in zoomed.messages if name == "display_data"]
    assert live.keys() == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert pictures(later, "text/html")[0] in static["text/html"]
    assert static["text/plain"] == pictures(later)[0] and len(static["text/html"]) < 20_000
