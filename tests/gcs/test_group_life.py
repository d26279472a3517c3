"""The life of a placement group, as a table."""

from __future__ import annotations

import pytest

from nbray.common.life import IllegalTransition, walk
from nbray.gcs.groups.life import TRANSITIONS, Event, GroupLife, State
from nbray.wire.records import Address, BundleSpec, GroupSpec, JobConfig

NODE = b"\x01" * 28
JOB = JobConfig(b"job1", "ns", Address(b"w", NODE, "", "host", 1), [], "/")


def group(state: State = State.PENDING) -> GroupLife:
    spec = GroupSpec(b"\x07" * 18, [BundleSpec({"CPU": 1}), BundleSpec({"CPU": 1})], "PACK", JOB)
    return GroupLife(spec, 0.0, state, {0: NODE})


def test_the_table_is_all_that_happens() -> None:
    steps = {
        Event.CREATED: lambda life: life.create(0.0),
        Event.LOST: lambda life: life.lose(NODE, 0.0) or life._move(Event.LOST, 0.0, "again"),
        Event.REMOVED: lambda life: life.remove("it was removed", 0.0),
    }
    walk(TRANSITIONS, group, steps, lambda life: life.state)


def test_an_illegal_step_tells_the_story() -> None:
    life = group()
    life.placed[1] = b"\x02" * 28
    life.create(1.0)
    life.attempts = 1
    assert not life.lose(b"\x03" * 28, 2.0)
    assert life.lose(NODE, 2.0) and life.placed == {1: b"\x02" * 28}
    life.remove("its job has ended", 3.0)
    assert not life.lose(b"\x02" * 28, 4.0), "what is removed has no place to lose"
    with pytest.raises(IllegalTransition) as raised:
        life.create(5.0)
    told = str(raised.value)
    assert f"Placement group {'07' * 18} is REMOVED and cannot be created" in told
    assert (
        "00:00:01 PENDING -> CREATED, attempt 0, created: 2 bundles on 01010101, 02020202" in told
    )
    assert (
        "00:00:02 CREATED -> RESCHEDULING, attempt 1, rescheduled: "
        "node 01010101 died with 1 bundles" in told
    )
    assert told.endswith("00:00:03 RESCHEDULING -> REMOVED, attempt 1, removed: its job has ended")
