"""Memory that has been freed goes back, and what is still there stays what it was."""

from __future__ import annotations

import sys
import threading

from hypothesis import given
from hypothesis import strategies as st

from nbray.common.giving_back import give_memory_back, shrink

_ROOM_OF_TEN = 352
"""Bytes of the smallest dict that is filled from another one."""


@given(st.integers(0, 5000), st.integers(0, 100))
def test_a_dict_that_is_shrunk_has_what_it_had_in_its_order(gone: int, kept: int) -> None:
    table = {number.to_bytes(4, "little"): number for number in range(gone + kept)}
    for number in range(gone):
        del table[number.to_bytes(4, "little")]
    bound = table.get
    before = sys.getsizeof(table)
    shrink(table)
    assert list(table.items()) == [
        (number.to_bytes(4, "little"), number) for number in range(gone, gone + kept)
    ]
    assert sys.getsizeof(table) <= max(before, _ROOM_OF_TEN)
    assert bound((gone + kept).to_bytes(4, "little")) is None
    if kept:
        assert bound(gone.to_bytes(4, "little")) == gone


def test_no_thread_misses_or_loses_anything_while_a_dict_is_shrunk() -> None:
    """Others enter and look up all the time, at the shortest turns that threads can have."""
    table: dict[bytes, int] = {b"always": 1}
    missed: list[str] = []
    entered = 0
    done = threading.Event()

    def enter() -> None:
        nonlocal entered
        while not done.is_set() or not entered:
            key = entered.to_bytes(8, "little")
            table[key] = entered
            if table.get(b"always") != 1 or table.get(key) != entered:
                missed.append(key.hex())
            del table[key]
            entered += 1

    thread = threading.Thread(target=enter)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for number in range(2000):
            table[b"own"] = number
            shrink(table)
            assert table[b"own"] == number
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not missed and entered
    assert table == {b"always": 1, b"own": 1999}


def test_memory_is_given_back_whatever_the_collector_is_told() -> None:
    import gc

    frozen = gc.get_freeze_count()
    give_memory_back()
    assert gc.get_freeze_count() == frozen
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        give_memory_back()
        assert gc.get_freeze_count() == count
    finally:
        gc.unfreeze()
