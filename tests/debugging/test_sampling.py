"""Where the time of tasks goes, as a thread beside them sees it; and its picture's layout."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.no_threads import no_thread_left

from nbray.core_worker.run.profiles import TaskProfiles
from nbray.debugging.flame import laid_out, own_counts, tree
from nbray.debugging.marks import HOLD, PROFILE, PROFILE_MEMORY, plain
from nbray.debugging.sampling import Sampler, Seen, decode, encode, stack_of
from nbray.debugging.stacks import LOOKS
from nbray.testing import wait_until

CELL = 5 | PROFILE


@pytest.fixture
def told() -> Iterator[list[tuple[int, Seen]]]:
    yield []
    wait_until(
        lambda: not any(thread.name == LOOKS for thread in threading.enumerate()),
        "the end of the thread that looks",
    )


def busy(seconds: float, seen: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until or not seen():
        sum(range(1000))


def test_the_time_of_a_task_is_that_of_its_lines(told: list[tuple[int, Seen]]) -> None:
    sampler = Sampler(lambda origin, seen: told.append((origin, decode(encode(seen)))))
    began = time.monotonic()
    sampler.enter("work", CELL)
    # However late a look comes, the time since the one before is that of what it sees.
    busy(0.2, lambda: any("busy (" in stack for _, seen in told for stack in seen.time))
    sampler.leave("work", CELL)
    took = (time.monotonic() - began) * 1e6
    wait_until(lambda: sum(seen.ended for _, seen in told) == 1, "what was seen")
    pairs = [pair for _, seen in told for pair in seen.time.items()]
    time_of = [pair for pair in pairs if pair[0].startswith("work;")]
    whole = sum(amount for _, amount in time_of)
    assert 0.2 * 1e6 <= whole <= took
    assert sum(amount for stack, amount in time_of if "busy (" in stack) > 0.5 * whole


def test_tasks_that_are_shorter_than_a_look_have_their_time(told: list[tuple[int, Seen]]) -> None:
    sampler = Sampler(lambda origin, seen: told.append((origin, seen)))
    for _ in range(1000):
        sampler.enter("short", CELL)
        sampler.leave("short", CELL)
    wait_until(lambda: sum(seen.ended for _, seen in told) == 1000, "what was seen of all")
    assert len(told) < 20
    assert {origin for origin, _ in told} == {CELL}


def test_who_could_not_look_for_want_of_a_thread_looks_at_the_next_task(
    told: list[tuple[int, Seen]],
) -> None:
    sampler = Sampler(lambda origin, seen: told.append((origin, seen)))
    with no_thread_left(), pytest.raises(RuntimeError):
        sampler.enter("first", PROFILE)
    sampler.leave("first", PROFILE)
    sampler.enter("second", PROFILE)
    wait_until(lambda: sampler._running[threading.get_ident()][0].seen, "a look")
    sampler.leave("second", PROFILE)


def test_a_task_is_no_failure_because_nobody_can_look_at_it() -> None:
    profiles = TaskProfiles(SimpleNamespace(source=lambda: None))  # type: ignore[arg-type]
    task = SimpleNamespace(name="task", origin=PROFILE)
    with no_thread_left():
        profiles.enter(task)  # type: ignore[arg-type]
    profiles.leave(task)  # type: ignore[arg-type]


def test_what_nobody_wants_to_know_is_not_looked_at() -> None:
    sampler = Sampler(lambda origin, seen: pytest.fail(f"{origin} {seen}"))
    for origin in (0, 7, 7 | HOLD):
        sampler.enter("work", origin)
        sampler.leave("work", origin)
    assert not any(thread.name == LOOKS for thread in threading.enumerate())


def test_allocations_are_those_at_the_highest(told: list[tuple[int, Seen]]) -> None:
    sampler = Sampler(lambda origin, seen: told.append((origin, seen)))
    sampler.enter("work", CELL | PROFILE_MEMORY)
    kept = [bytes(1000) for _ in range(3000)]
    sampler.leave("work", CELL | PROFILE_MEMORY)
    wait_until(lambda: any(seen.ended for _, seen in told), "what was seen")
    assert told[-1][1].exact
    mine = sum(amount for stack, amount in told[-1][1].memory.items() if __file__ in stack)
    assert mine >= 1000 * len(kept)


def test_marks_leave_the_cells_in_their_order() -> None:
    assert plain(5 | HOLD | PROFILE | PROFILE_MEMORY) == 5


class _Looks:
    """Sees the stack of an import, and finds nothing."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name.endswith("not_there"):
            self.seen.append(stack_of("task", sys._getframe()))


@pytest.mark.parametrize(
    ("module", "name", "is_shown"),
    [("nbray.some", "nbray.not_there", False), ("nbray.some", "not_there", True),
     ("users", "nbray.not_there", True)],
)  # fmt: skip
@pytest.mark.parametrize("statement", ["import {}", "import_module('{}')"])
def test_what_nbray_imports_for_itself_is_no_time_of_the_users(
    module: str, name: str, is_shown: bool, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = _Looks()
    monkeypatch.setattr(sys, "meta_path", [looks, *sys.meta_path])
    with pytest.raises(ModuleNotFoundError):
        exec(statement.format(name), {"__name__": module, "import_module": import_module})
    (stack,) = looks.seen
    assert ("_find_and_load" in stack) == ("importlib" in stack) == is_shown
    assert stack.endswith("(in nbray)") != is_shown
    assert "test_what_nbray_imports" in stack


STACKS = st.dictionaries(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=6).map(";".join), st.integers(1, 1000),
    max_size=30,
)  # fmt: skip


@given(STACKS)
def test_boxes_stand_inside_the_box_that_called_them(counts: dict[str, int]) -> None:
    laid = laid_out(counts, 0.0, 10_000)
    assert sum(own_counts(counts).values()) == sum(counts.values()) == tree(counts).count
    for box in laid.boxes:
        above = [
            other
            for other in laid.boxes
            if other.depth == box.depth - 1
            and other.left <= box.left + 1e-9
            and box.left + box.width <= other.left + other.width + 1e-9
        ]
        assert box.depth == 0 or above


@given(STACKS)
def test_what_is_not_drawn_is_counted(counts: dict[str, int]) -> None:
    whole, part = laid_out(counts, 0.0, 10_000), laid_out(counts, 0.1, 5)
    assert len(part.boxes) <= 5
    assert bool(part.left_out) == (len(part.boxes) < len(whole.boxes))
