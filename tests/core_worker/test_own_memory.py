"""Memory that was read in place, made one's own: it may be written, and nobody else sees that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nbray
from nbray.driver.own_memory import OwnMemory
from nbray.object_store import private_pages

SIZE = 1_000_000


def _own(array: np.ndarray, memory: OwnMemory) -> np.ndarray:
    return np.frombuffer(memory.writable(memoryview(array)), array.dtype)


def test_only_the_owner_of_private_pages_sees_what_it_writes(cluster: Path) -> None:
    ref = nbray.put(np.arange(SIZE))
    read, memory = nbray.get(ref), OwnMemory()
    own, other = _own(read, memory), _own(read, OwnMemory())
    assert not read.flags.writeable and own.flags.writeable
    before = memory.mark(memoryview(own).cast("B"))
    own[SIZE // 2] = -1
    assert own[SIZE // 2] == -1
    assert read[SIZE // 2] == other[SIZE // 2] == nbray.get(ref)[SIZE // 2] == SIZE // 2
    assert memory.mark(memoryview(own).cast("B")) != before
    own[SIZE // 2] = SIZE // 2  # the same bytes are no change
    assert memory.mark(memoryview(own).cast("B")) == before


def test_each_byte_of_private_pages_is_watched(cluster: Path) -> None:
    read = nbray.get(nbray.put(np.zeros(SIZE, np.uint8)))
    for place in (0, 1, 4095, SIZE // 2, SIZE - 1):
        memory = OwnMemory()
        own = _own(read, memory)
        before = memory.mark(memoryview(own))
        own[place] = 1
        assert memory.mark(memoryview(own)) != before


def test_private_pages_keep_what_they_show(cluster: Path) -> None:
    ref = nbray.put(np.full(SIZE, 7))
    own = _own(nbray.get(ref), OwnMemory())
    own[0] = 8
    del ref
    for number in range(30):  # 240 MB through a store of 200
        nbray.put(np.full(SIZE, number))
    assert own[0] == 8 and (own[1:] == 7).all()


def test_memory_of_other_places_is_copied_and_watched(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = np.zeros(10)
    small.flags.writeable = False
    memory = OwnMemory()
    own = _own(small, memory)
    before = memory.mark(memoryview(own).cast("B"))
    own[3] = 1
    assert memory.mark(memoryview(own).cast("B")) != before and not small[3]
    mine = np.zeros(10)
    assert np.shares_memory(_own(mine, memory), mine)
    large = nbray.get(nbray.put(np.zeros(SIZE)))
    monkeypatch.setattr(private_pages, "_PAGEMAP", "/nowhere")  # a kernel that does not tell
    own = _own(large, memory)
    before = memory.mark(memoryview(own).cast("B"))
    own[5] = 1
    assert memory.mark(memoryview(own).cast("B")) != before
