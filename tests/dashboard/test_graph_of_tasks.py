"""Who submitted whom: every task is in one box, the picture is bounded, and says what it lacks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nbray.dashboard.pages.bandwidth import flows, matrix
from nbray.dashboard.parts.tree import MOST_BOXES, Box, grow, kind_of, newest, svg
from nbray.state.rows import NodeState, TaskState


def task(number: int, name: str, parent: int | None, state: str = "FINISHED") -> TaskState:
    return TaskState(
        f"{number:048x}", 0, name, state, "01000000", None, "NORMAL_TASK", name,
        None if parent is None else f"{parent:048x}", None, None, None, None,
    )  # fmt: skip


def drawn(rows: list[TaskState]) -> tuple[Box, int, int]:
    known = {row.task_id for row in rows}
    root = Box("job", [], "job?id=1")
    found = grow(root, rows, [row for row in rows if row.parent_task_id not in known])
    return root, found.boxes, found.left_out


def test_many_of_one_function_are_one_box_and_few_are_linked_one_by_one() -> None:
    rows = [task(1, "top", None)]
    rows += [task(2 + n, "leaf", 1, "FAILED" if n == 5 else "RUNNING") for n in range(300)]
    rows += [task(400 + n, "below", 2) for n in range(3)]
    root, boxes, left_out = drawn(rows)
    (top,) = root.inside
    (leaves,) = top.inside
    assert len(leaves.tasks) == 300 and [box.name for box in leaves.inside] == ["below"] * 3
    assert (boxes, left_out) == (6, 0)
    text = svg(grow(Box("job", [], "x"), rows, rows[:1]))
    assert "leaf x 300" in text and "1 failed, 299 running" in text
    assert f"graph?id={402:048x}" in text and "tasks?name=leaf&amp;job=01000000" in text


@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abcdefgh")), min_size=1, max_size=400)
)
def test_no_task_is_lost_or_drawn_twice_and_the_picture_is_bounded(
    submitted: list[tuple[int, str]],
) -> None:
    rows = [
        task(number + 1, name, parent % number if number else None)
        for number, (parent, name) in enumerate(submitted)
    ]
    root, boxes, left_out = drawn(rows)
    counted, waiting = 0, [root]
    while waiting:
        box = waiting.pop()
        counted += len(box.tasks)
        waiting += box.inside
    assert boxes <= MOST_BOXES
    assert counted == len(rows) if not left_out else counted < len(rows)


def test_names_are_text_and_only_the_last_attempt_counts() -> None:
    hostile = '<script>alert("1")</script>'
    first, second = task(1, hostile, None, "FAILED"), task(1, hostile, None)
    second.attempt_number = 1
    (row,) = newest([second, first])
    assert kind_of(row) == "done"
    text = svg(grow(Box("job", [], "x"), [row], [row]))
    assert "<script" not in text and "&lt;script" in text


def test_what_goes_between_nodes_is_a_row_a_pair_and_a_matrix_of_few() -> None:
    nodes = [
        NodeState(f"{n:056x}", "host", n == 0, "ALIVE", None, "host", {},
                  received_from={f"{(n + 1) % 40:056x}": n * 1000})
        for n in range(40)
    ]  # fmt: skip
    found = flows(nodes, {(f"{3:056x}", f"{2:056x}"): 5e6})
    assert len(found) == 39 and found[0].rate == 5e6
    assert not matrix(found), "of many nodes the table tells"
    assert matrix(found[:3]).count("heat") == 3
