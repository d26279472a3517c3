"""Results that a worker writes into room which its raylet lent it, and tells of when they are done.

Their owner is another process, which may have freed them before the raylet has heard of them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.nodes import join_here

import nbray
from nbray.driver.driver import current_core
from nbray.exceptions import WorkerCrashedError
from nbray.raylet.objects.table import ObjectTable
from nbray.testing import wait_until

SIZE = 200_000


def used() -> float:
    return float(sum(row["Stats"]["store_used"] for row in nbray.nodes() if row["Alive"]))


def has_room() -> bool:
    return bool(current_core().stored.room._blocks)


@nbray.remote
def make(number: int) -> np.ndarray:
    return np.full(SIZE, number % 251, np.uint8)


@nbray.remote
def with_room(number: int) -> tuple[np.ndarray, bool]:
    return np.full(SIZE, number % 251, np.uint8), has_room()


@nbray.remote
def stream(count: int, path: str, dies: bool = False) -> Iterator[np.ndarray]:
    for number in range(count):
        yield np.full(SIZE, number % 251, np.uint8)
    wait_until(has_room, "room to be lent")
    Path(path).write_text(str(os.getpid()))
    if dies:
        time.sleep(3600)


def is_right(value: np.ndarray, number: int) -> bool:
    return len(value) == SIZE and bool((value == number % 251).all())


# --- the table --------------------


def lent() -> tuple[ObjectTable, int]:
    table = ObjectTable(1 << 20)
    offset = table.lend_buffer(1 << 16, "worker")
    assert offset is not None
    return table, offset


def test_a_free_that_comes_before_the_object_ends_it_when_it_comes() -> None:
    table, offset = lent()
    table.free(b"a", may_come=True)
    table.free(b"b")
    assert table.add_written(b"a", offset, 64, b"owner", "worker", "", b"node")
    assert table.add_written(b"b", offset + 64, 64, b"owner", "worker", "", b"node")
    assert table.locate(b"a") is None
    assert table.locate(b"b") is not None
    assert table.allocator.used == (1 << 16) - 64
    assert table.add_written(b"a", offset + 128, 64, b"owner", "worker", "", b"node")
    assert table.locate(b"a") is not None, "a free counts once"


def test_frees_of_what_nobody_writes_are_forgotten_with_the_last_room() -> None:
    table, offset = lent()
    table.free(b"a", may_come=True)
    assert table.return_buffer(offset, 1 << 16, "worker")
    offset = table.lend_buffer(1 << 16, "worker") or 0
    assert table.add_written(b"a", offset, 64, b"owner", "worker", "")
    assert table.locate(b"a") is not None


def test_a_value_that_two_have_made_does_not_end_with_the_first_of_them() -> None:
    table, offset = lent()
    other = table.lend_buffer(1 << 16, "other") or 0
    assert table.add_written(b"a", offset, 64, b"owner", "worker", "")
    assert table.add_written(b"a", other, 64, b"owner", "other", "")
    table.discard(b"a", "worker")
    assert table.locate(b"a") is not None
    table.discard(b"a", "other")
    assert table.locate(b"a") is None


# --- clusters --------------------


def test_a_burst_of_results_is_right_and_leaves_nothing_whoever_frees_it(
    cluster: Path, tmp_path: Path
) -> None:
    found = nbray.get([with_room.remote(number) for number in range(60)])
    assert all(is_right(value, number) for number, (value, _) in enumerate(found))
    assert any(room for _, room in found), "no room was lent"
    for number in range(60):
        make.remote(number)  # nobody keeps the ref
    kept = [make.remote(number) for number in range(60)]
    assert all(is_right(value, number) for number, value in enumerate(nbray.get(kept)))
    items = stream.options(num_returns="streaming").remote(40, str(tmp_path / "done"))
    first = next(items)
    del items  # the other items come to nobody
    assert is_right(nbray.get(first), 0)
    del found, kept, first
    wait_until(lambda: used() == 0, "the end of all values")


def test_a_worker_that_is_killed_leaves_what_it_had_announced_and_no_room(
    cluster: Path, tmp_path: Path
) -> None:
    path = tmp_path / "done"
    dying = stream.options(num_returns="streaming", max_retries=0)
    items = dying.remote(40, str(path), dies=True)
    wait_until(lambda: path.exists() and path.read_text(), "all items")
    refs = [next(items) for _ in range(40)]
    os.kill(int(path.read_text()), signal.SIGKILL)
    with pytest.raises(WorkerCrashedError):
        nbray.get(next(items))
    assert all(is_right(value, number) for number, value in enumerate(nbray.get(refs)))
    del refs, items
    wait_until(lambda: used() == 0, "the end of all values")


def test_a_loop_of_large_values_writes_them_all_at_one_place(cluster: Path) -> None:
    value = np.ones(30_000_000, np.uint8)

    def place(before: int) -> int:
        for _ in range(before):
            nbray.put(value)
        return int(nbray.get(nbray.put(value)).__array_interface__["data"][0])

    assert len({place(before) for before in range(4)}) == 1


@pytest.mark.slow
def test_ten_thousand_results_pass_through_a_store_that_holds_few_of_them(cluster: Path) -> None:
    for begin in range(0, 10_000, 500):
        values = nbray.get([make.remote(begin + i) for i in range(500)])
        assert all(is_right(value, begin + i) for i, value in enumerate(values))
        del values
    for number in range(2000):
        make.remote(number)
    wait_until(lambda: used() == 0, "the end of all values", 60)


@pytest.mark.slow
def test_a_raylet_that_stands_still_meanwhile_keeps_nothing_and_loses_nothing(
    cluster: Path,
) -> None:
    node = join_here({"there": 1})
    makes = make.options(resources={"there": 0.01})
    nbray.get([makes.remote(number) for number in range(40)])
    raylet = psutil.Process(node.children[-1].pid)
    for _ in range(3):
        for number in range(100):
            makes.remote(number)  # freed by an owner whose raylet goes on
        kept = [makes.remote(number) for number in range(100)]
        raylet.suspend()
        time.sleep(1.5)
        raylet.resume()
        assert all(is_right(value, number) for number, value in enumerate(nbray.get(kept)))
        del kept
    wait_until(lambda: used() == 0, "the end of all values", 60)
    node.stop()
