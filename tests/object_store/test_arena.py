"""The arena's memory: had ready before it is written, and read by neighbours of the machine."""

from __future__ import annotations

import os
import random
import resource
from dataclasses import replace

import pytest

from nbray.object_store.arena import Arena
from nbray.object_store.neighbour import Neighbour, place_of

MB = 1 << 20
SIZE = 9 * MB + 12_345


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_memory_that_was_made_ready_keeps_its_bytes_and_faults_no_more() -> None:
    arena, chance = Arena.create(SIZE), random.Random(1)
    whole = arena.view(0, SIZE)
    whole[: len(whole)] = data = chance.randbytes(SIZE)
    for _ in range(50):
        start = chance.randrange(SIZE)
        arena.touch(start, chance.randrange(SIZE - start + 1))
    assert whole == data

    fresh, block = Arena.create(SIZE), data[: 6 * MB]
    fresh.touch(3 * MB + 64, SIZE - 3 * MB - 64)
    before = faults()
    fresh.view(3 * MB, 6 * MB)[:] = block
    assert faults() - before < 6 * MB // os.sysconf("SC_PAGE_SIZE") // 10


def test_a_neighbour_copies_what_lies_there_and_nothing_beyond() -> None:
    arena = Arena.create(SIZE)
    arena.view(0, SIZE)[:] = data = random.Random(2).randbytes(SIZE)
    neighbour, target = Neighbour(place_of(arena, 7)), bytearray(SIZE - 7)
    neighbour.copy(7, memoryview(target))
    assert target == data[7:]
    for offset in (-1, 8, 1 << 62):
        with pytest.raises(ValueError, match="has no"):
            neighbour.copy(offset, memoryview(target))
    del arena  # its raylet has ended; what is mapped is there until it is let go
    neighbour.copy(7, memoryview(target))


def test_what_is_no_arena_any_more_is_refused() -> None:
    arena = Arena.create(SIZE)
    place = place_of(arena, 0)
    for wrong in (
        replace(place, inode=place.inode + 1), replace(place, size=1),
        replace(place, path="/proc/0/fd/1"),
    ):  # fmt: skip
        with pytest.raises(OSError):
            Neighbour(wrong)
