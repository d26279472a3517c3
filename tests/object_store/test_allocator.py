"""The allocator and the object table against models of what they promise."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.object_store.allocator import Allocator
from nbray.raylet.objects.table import ObjectTable

CAPACITY = 4096


class AllocatorMachine(RuleBasedStateMachine):
    """Blocks come and go in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = Allocator(CAPACITY)
        self.blocks: dict[int, int] = {}

    @rule(size=st.integers(1, CAPACITY))
    def allocate(self, size: int) -> None:
        rounded = -(-size // 64) * 64
        gaps, end = [], 0
        for offset in [*sorted(self.blocks), CAPACITY]:
            gaps.append((end, offset - end))
            end = offset + self.blocks.get(offset, 0)
        fitting = [start for start, length in gaps if length >= rounded]
        offset = self.allocator.allocate(size)
        # The lowest gap that fits: so gaps are joined, and warm pages come first.
        assert offset == (min(fitting) if fitting else None)
        if offset is not None:
            self.blocks[offset] = rounded

    @precondition(lambda self: bool(self.blocks))
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.blocks)))
        self.allocator.free(offset)
        del self.blocks[offset]

    @invariant()
    def used_is_the_sum_of_the_blocks(self) -> None:
        assert self.allocator.used == sum(self.blocks.values())

    def teardown(self) -> None:
        for offset in self.blocks:
            self.allocator.free(offset)
        assert self.allocator.allocate(CAPACITY) == 0


TestAllocator = AllocatorMachine.TestCase


def test_a_block_is_freed_once() -> None:
    allocator = Allocator(CAPACITY)
    offset = allocator.allocate(1)
    assert offset is not None
    allocator.free(offset)
    with pytest.raises(KeyError):
        allocator.free(offset)


def test_what_is_being_written_keeps_its_block_when_it_is_freed() -> None:
    table = ObjectTable(CAPACITY)
    table.create(b"a", CAPACITY, b"owner", creator="writer")
    table.free(b"a")
    assert table.create(b"b", 64, b"owner") is None
    table.seal(b"a")
    assert table.pin(b"a", "reader") is None
    assert table.create(b"b", 64, b"owner") == 0


def test_what_a_dead_process_was_writing_for_others_is_forgotten() -> None:
    table = ObjectTable(CAPACITY)
    table.create(b"half", 64, b"owner", creator="dead")
    table.create(b"whole", 64, b"owner", creator="dead")
    table.seal(b"whole")
    assert table.unfinished_by("dead") == [b"half"]
    table.process_gone("dead")
    assert table.pin(b"whole", "reader") is not None


def test_a_retried_task_makes_its_value_again_but_not_under_a_reader() -> None:
    table = ObjectTable(CAPACITY)
    table.create(b"a", 64, b"owner")
    assert table.create(b"a", 64, b"owner") is None
    table.seal(b"a")
    table.pin(b"a", "reader")
    assert table.create(b"a", 64, b"owner") is None
    table.unpin(b"a", "reader")
    assert table.create(b"a", 128, b"owner") == 0
    assert table.allocator.used == 128


def blocks(table: ObjectTable, object_id: bytes) -> int | None:
    stored = table.locate(object_id)
    return None if stored is None else stored.block


def test_unpinned_copies_make_room_and_originals_do_not() -> None:
    table = ObjectTable(CAPACITY)
    for name, secondary in ((b"original", False), (b"read", True), (b"copy", True)):
        table.create(name, 1024, b"owner", secondary=secondary)
        table.seal(name)
    table.pin(b"read", "reader")
    assert table.create(b"new", 2048, b"owner") == 2048
    assert table.locate(b"copy") is None
    assert table.create(b"more", 2048, b"owner") is None
    assert [blocks(table, name) for name in (b"original", b"read")] == [0, 1024]
