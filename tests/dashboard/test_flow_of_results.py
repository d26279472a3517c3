"""Whose results go where: what tasks tell of their arguments, and the picture of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbray
from nbray.dashboard.parts.dataflow import lay_out, near, svg
from nbray.dashboard.parts.tree import MOST_BOXES
from nbray.state.rows import TaskState
from nbray.testing import wait_until
from nbray.util.state import list_tasks


def task(number: int, name: str, needs: list[int], more: int = 0) -> TaskState:
    return TaskState(
        f"{number:048x}", 0, name, "FINISHED", "01000000", None, "NORMAL_TASK", name, None, None,
        None, None, None, depends_on=[f"{one:048x}" for one in needs], depends_on_more=more,
    )  # fmt: skip


def test_many_results_of_one_function_for_another_are_one_line_between_two_boxes() -> None:
    rows = [task(n, "load", []) for n in range(300)]
    rows += [task(1000 + n, "mend", [n]) for n in range(300)]
    rows += [task(2000, "sum", [1000 + n for n in range(64)], more=236), task(3000, "alone", [])]
    flow = lay_out(rows)
    assert [(a.name, b.name, n) for (a, b), n in flow.edges.items()] == [
        ("load", "mend", 300), ("mend", "sum", 64),
    ]  # fmt: skip
    assert (flow.alone, flow.more, flow.unknown, flow.left_out) == (1, 236, 0, 0)
    text = svg(flow)
    assert "300 results of load for mend" in text and "236 refs" in text


def test_around_a_task_is_what_it_came_of_and_what_became_of_it() -> None:
    rows = [task(n, "step", [n - 1]) for n in range(1, 40)] + [task(90, "other", [1])]
    around = {int(row.task_id, 16) for row in near(rows, rows[19].task_id, 3)}
    assert around == set(range(17, 24))
    assert near(rows, "ff" * 24) == []
    flow = lay_out(near(rows, rows[19].task_id, 3), rows[19].task_id)
    (chosen,) = [box for box in flow.boxes if box.chosen]
    assert chosen.tasks == [rows[19]]


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.lists(st.integers(0, 80), max_size=4)),
        min_size=1, max_size=300,
    ),
    st.booleans(),
)  # fmt: skip
def test_every_task_is_in_one_box_or_counted_also_where_ids_go_round_in_a_circle(
    tasks: list[tuple[str, list[int]]], choose: bool
) -> None:
    rows = [task(number, name, needs) for number, (name, needs) in enumerate(tasks)]
    flow = lay_out(rows, rows[0].task_id if choose else "")
    drawn = [row.task_id for box in flow.boxes for row in box.tasks]
    assert len(drawn) == len(set(drawn))
    assert len(drawn) + flow.alone + flow.left_out == len(rows)
    assert len(flow.boxes) <= MOST_BOXES + 1
    places = {(box.x, box.y) for box in flow.boxes}
    assert len(places) == len(flow.boxes), "no box hides another"
    svg(flow)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_task_tells_whose_results_its_arguments_are_or_contain(cluster: Path, size: int) -> None:
    @nbray.remote
    def make(number: int) -> bytes:
        return bytes(size)

    @nbray.remote
    class Taker:
        def take(self, *values: object) -> int:
            return len(values)

    taker = Taker.remote()
    made = [make.remote(number) for number in range(3)]
    many = [make.remote(number) for number in range(70)]
    calls = [taker.take.remote(made[0], [made[1], taker], made[0]), taker.take.remote(many)]
    nbray.get(calls, timeout=60)
    waits = make.options(resources={"none": 1}).remote(made[2])

    def told() -> dict[str, TaskState]:
        rows = list_tasks(detail=True, limit=1000)
        return {row.task_id: row for row in rows}

    ids = [ref.task_id().hex() for ref in (*calls, waits)]
    wait_until(lambda: set(ids) <= set(told()), "the rows of three tasks")
    first, second, third = (told()[one] for one in ids)
    assert first.depends_on == [ref.task_id().hex() for ref in made[:2]]
    assert (len(second.depends_on), second.depends_on_more) == (64, 6)
    assert third.depends_on == [made[2].task_id().hex()]
