"""Records that many entries share, and that each entry changes for itself alone."""

from __future__ import annotations

from nbray.core_worker.own.table import OwnershipTable, add_copies, drop_copy
from nbray.wire.records import Stored, Value


def test_what_entries_share_is_told_of_each_alone() -> None:
    table = OwnershipTable()
    one, other = table.add_owned(b"1" * 28), table.add_owned(b"2" * 28)
    for entry in (one, other):
        entry.can_be_made()
    assert one.ties is other.ties  # what a million have costs nothing
    one.history().freed = True
    one.tied().pins += 1
    assert one.was_made() and one.is_freed()
    assert other.was_made() and not other.is_freed() and table.unneeded(b"2" * 28) is None
    other.local = 0
    assert table.unneeded(b"2" * 28) is other
    one.can_be_made()
    assert one.is_freed()  # its own is kept


def test_copies_of_one_value_are_not_those_of_another_that_says_the_same() -> None:
    one, other = Value(None, Stored(5, (b"a",))), Value(None, Stored(5, (b"a",)))
    for value in (one, other):
        add_copies(value, [b"a"])
        assert value.stored is not None and value.stored.node_ids == (b"a",)
    add_copies(one, [b"b", b"a"])
    assert one.stored is not None and one.stored.node_ids == (b"a", b"b")
    assert other.stored is not None and other.stored.node_ids == (b"a",)
    drop_copy(one, b"a")
    assert one.stored.node_ids == (b"b",) and other.stored.node_ids == (b"a",)
