"""The allocator, the object table and resource arithmetic: pure parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.common.resources import from_units, to_units
from nbray.object_store.allocator import Allocator
from nbray.raylet.objects.table import ObjectTable


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5000)), max_size=80))
def test_blocks_never_overlap_and_all_room_comes_back(steps: list[tuple[bool, int]]) -> None:
    allocator = Allocator(20_000)
    blocks: dict[int, int] = {}
    for take, number in steps:
        if take or not blocks:
            offset = allocator.allocate(number)
            if offset is None:
                continue
            assert offset % 64 == 0
            assert offset + number <= allocator.capacity
            for other, size in blocks.items():
                assert offset + number <= other or other + size <= offset
            blocks[offset] = number
        else:
            offset = list(blocks)[number % len(blocks)]
            del blocks[offset]
            allocator.free(offset)
    for offset in blocks:
        allocator.free(offset)
    assert allocator.used == 0
    assert allocator.allocate(allocator.capacity) == 0


def test_freed_room_is_used_before_untouched_room() -> None:
    allocator = Allocator(1 << 20)
    first = allocator.allocate(1000)
    allocator.allocate(1000)
    assert first is not None
    allocator.free(first)
    assert allocator.allocate(500) == first


def test_a_freed_object_keeps_its_block_until_the_last_pin_has_gone() -> None:
    table = ObjectTable(1024)
    assert table.create(b"a", 1024, b"owner") == 0
    table.seal(b"a")
    pinned = table.pin(b"a", "reader")
    assert pinned is not None and (pinned.block, pinned.size) == (0, 1024)
    table.free(b"a")
    assert table.create(b"b", 64, b"owner") is None
    table.unpin(b"a", "reader")
    assert table.create(b"b", 64, b"owner") == 0


def test_a_dead_process_gives_back_its_pins_and_its_objects() -> None:
    table = ObjectTable(1024)
    table.create(b"a", 512, b"dead")
    table.seal(b"a")
    table.pin(b"a", "dead connection")
    table.process_gone("dead connection")
    table.owner_gone(b"dead")
    assert len(table) == 0
    assert table.allocator.used == 0


def test_fractions_add_up_exactly() -> None:
    assert from_units(to_units({"CPU": 0.1})) == {"CPU": 0.1}
    assert 10 * to_units({"CPU": 0.1})["CPU"] == to_units({"CPU": 1})["CPU"]
    with pytest.raises(ValueError, match="negative"):
        to_units({"CPU": -1})
    with pytest.raises(ValueError, match="precision"):
        to_units({"CPU": 0.00001})
