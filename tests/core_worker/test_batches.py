"""Refs that one reading of a value makes are counted together: as exactly as one by one."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.simulation import Network

from nbray.core_worker.own.batch import Batch
from nbray.wire.records import ids_in

INNER = 4


class Batches(RuleBasedStateMachine):
    """An owner reads a value with refs in it, as often as it likes, and drops what it read.

    Some readings are batches and others not; the value itself goes at some time. Each object has to
    be known exactly as long as the value, or a ref, holds it, whenever a turn has passed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = Network(2)
        self.owner = self.network.processes[0]
        self.inner = [self.owner.put([], stored=True) for _ in range(INNER)]
        self.outer: bytes | None = self.owner.put(self.inner, stored=True)
        for object_id in self.inner:
            self.owner.drop(object_id)
        self.alive: list[tuple[bytes, Batch | None]] = []

    @rule(as_batch=st.booleans())
    def read(self, as_batch: bool) -> None:
        if self.outer is None:
            return
        value = self.owner.table[self.outer].value
        assert value is not None
        object_ids = ids_in(value.contained)
        batch = None
        if as_batch:
            batch = Batch(object_ids, self.owner.table.batches, self.owner.reactor)
        assert not self.owner.counting.refer_all(self.outer, value.contained, batch)
        self.alive += [(object_id, batch) for object_id in object_ids]

    @rule(data=st.data(), count=st.integers(1, 2 * INNER))
    def drop(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.alive))):
            index = data.draw(st.integers(0, len(self.alive) - 1))
            object_id, batch = self.alive.pop(index)
            if batch is None:
                self.owner.table.died.append(object_id)
                continue
            batch.died.append(object_id)
            if not batch.nudged:
                batch.nudge()

    @rule()
    def drop_all_but_one(self) -> None:
        while len(self.alive) > 1:
            object_id, batch = self.alive.pop(0)
            if batch is None:
                self.owner.table.died.append(object_id)
            else:
                batch.died.append(object_id)
                if not batch.nudged:
                    batch.nudge()

    @rule()
    def end_the_value(self) -> None:
        if self.outer is not None:
            self.owner.drop(self.outer)
            self.outer = None

    @rule()
    def look(self) -> None:
        """A reporter wants exact counts."""
        self.network.settle()
        self.owner.counting.count_all()
        for object_id in self.inner:
            entry = self.owner.table.get(object_id)
            refs = [one for one, _ in self.alive].count(object_id)
            assert (entry.local if entry else 0) == refs + (self.outer is not None)

    @rule()
    def turn(self) -> None:
        self.network.settle()
        self.known_are_those_that_are_held()

    @invariant()
    def nothing_is_freed_that_is_held(self) -> None:
        for object_id, _ in self.alive:
            assert self.owner.table.get(object_id) is not None
            assert object_id not in self.owner.raylet.freed

    def known_are_those_that_are_held(self) -> None:
        held = set(self.inner) if self.outer is not None else {one for one, _ in self.alive}
        for object_id in self.inner:
            assert (self.owner.table.get(object_id) is not None) == (object_id in held)
            assert (object_id in self.owner.raylet.freed) == (object_id not in held)

    def teardown(self) -> None:
        self.end_the_value()
        while self.alive:
            self.drop_all_but_one()
            object_id, batch = self.alive.pop()
            (batch.died if batch else self.owner.table.died).append(object_id)
            if batch and not batch.nudged:
                batch.nudge()
        self.network.settle()
        assert len(self.owner.table) == 0


TestBatches = Batches.TestCase
TestBatches.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_refs_that_all_die_before_anything_may_end_are_never_counted() -> None:
    network = Network(1)
    (owner,) = network.processes
    inner = [owner.put([], stored=True) for _ in range(3)]
    outer = owner.put(inner, stored=True)
    network.settle()
    value = owner.table[outer].value
    assert value is not None
    batch = Batch(tuple(inner), owner.table.batches, owner.reactor)
    owner.counting.refer_all(outer, value.contained, batch)
    network.settle()
    assert [owner.table[one].local for one in inner] == [2, 2, 2]
    for object_id in inner:
        batch.died.append(object_id)
        if not batch.nudged:
            batch.nudge()
    network.settle()
    assert [owner.table[one].local for one in inner] == [2, 2, 2]
    assert not batch.died and batch.counted
