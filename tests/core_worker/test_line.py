"""The tasks that wait in a queue: whatever comes and goes, the line is that of a plain list."""

from __future__ import annotations

import time

import hypothesis.strategies as st
from hypothesis import given
from support.pending import pending_task

from nbray.common.ids import FIRST, TaskIDFactory
from nbray.core_worker.submit.line import Line
from nbray.core_worker.task_options import TaskOptions
from nbray.core_worker.tasks import Burst, PendingTask, PickledFunction
from nbray.wire.records import TaskSpec

JOB = b"job0"
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["new", "late", "again", "back", "take", "find", "remove", "withdraw"]),
        st.integers(0, 30),
    ),
    max_size=60,
)


def burst(retries: int) -> Burst:
    function = PickledFunction(b"f" * 16, b"", ())
    return Burst(function, "f", TaskOptions(retries=retries), JOB, 0, b"", None)


def kept(first: bytes) -> PendingTask:
    return pending_task(TaskSpec(first[:24], JOB, b"f", "f", first), TaskOptions(retries=3))


@given(STEPS)
def test_a_line_is_a_list_that_finds_its_tasks(steps: list[tuple[str, int]]) -> None:
    new_id = TaskIDFactory(JOB)
    bursts = [burst(0), burst(3)]
    line, model, late = Line(), list[bytes](), list[bytes]()
    for step, number in steps:
        at = model[number % len(model)] if model else new_id.first()
        match step:
            case "new":  # another thread has an id, and has not come yet
                late.append(new_id.first())
                first = new_id.first()
                line.add(bursts[number % 2], first, first, float(number))
                model.append(first)
            case "late" if late:
                first = late.pop()
                line.add(bursts[number % 2], first, first, float(number))
                model.append(first)
            case "again":
                first = late.pop() if late else new_id.first()
                line.append(kept(first))
                model.append(first)
            case "back" if model:
                line.appendleft(line.popleft())
                other = new_id.first()
                line.appendleft(kept(other))
                model.insert(0, other)
            case "take" if model:
                may = line.may_repeat_next()
                assert may == (line.popleft().retries != 0)
                model.pop(0)
            case "find":
                task = line.find(at)
                assert (task is not None) == (at in model)
                if task is not None:
                    assert (task.first, task.args) == (at, at)
                    assert line.find(at) is task
            case "remove":
                line.remove(at)
                if at in model:
                    model.remove(at)
            case "withdraw":
                gone = line.withdraw(lambda task: task.first[19] % 2 == 0)
                model = [first for first in model if first not in {task.first for task in gone}]
        assert len(line) == len(model)
    assert line.find(new_id.first()) is None
    waiting = [line.popleft() for _ in model]
    assert [task.first for task in waiting] == model
    assert [task.args for task in waiting] == model
    assert all(task.first.endswith(FIRST) for task in waiting)


def test_what_the_next_task_may_is_known_before_it_is_taken() -> None:
    line, new_id = Line(), TaskIDFactory(JOB)
    assert not line.may_repeat_next()
    for retries in (3, 0):
        line.add(burst(retries), new_id.first(), b"", 0.0)
    for retries in (3, 0):
        assert line.may_repeat_next() == (retries != 0)
        assert line.popleft().retries == retries


def test_any_of_many_tasks_is_found_at_once() -> None:
    """As when all of a cell's are cancelled, from the last to the first."""
    line, new_id, one = Line(), TaskIDFactory(JOB), burst(3)
    firsts = [new_id.first() for _ in range(100_000)]
    for first in firsts:
        line.add(one, first, b"", 0.0)
    began = time.process_time()
    for first in firsts[::-100]:
        task = line.find(first)
        assert task is not None
        line.remove(first)
    missing = new_id.first()
    assert all(line.find(missing) is None for _ in range(1000))
    assert time.process_time() - began < 2
    assert len(line) == 99_000


def test_a_task_is_found_behind_a_later_one_that_came_back_to_an_empty_line() -> None:
    new_id = TaskIDFactory(JOB)
    before, late, first = new_id.first(), new_id.first(), new_id.first()
    line = Line()
    line.add(burst(3), before, b"", 0.0)
    line.popleft()
    line.appendleft(kept(first))
    line.add(burst(3), late, b"", 0.0)
    assert line.find(late) is not None
