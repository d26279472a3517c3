"""The life of a node, as a table."""

from __future__ import annotations

import pytest

from nbray.common.life import IllegalTransition, walk
from nbray.gcs.nodes.life import TRANSITIONS, Event, NodeLife, State
from nbray.wire.records import NodeInfo


def row(alive: bool = True) -> NodeInfo:
    return NodeInfo(b"\x05" * 28, "host", 1, 2, "name", False, alive, {}, {})


def test_the_table_is_all_that_happens() -> None:
    steps = {
        Event.RESTARTED: lambda life: life.restart(0.0),
        Event.REPORTED: lambda life: life._move(Event.REPORTED, 0.0, "it reports"),
        Event.DRAINED: lambda life: life._move(Event.DRAINED, 0.0, "it is idle"),
        Event.LEFT: lambda life: life.leave(row(alive=False), 0.0),
        Event.DIED: lambda life: life.die("nothing listens there", 0.0),
    }
    walk(TRANSITIONS, lambda state: NodeLife(row(), state), steps, lambda life: life.state)


def test_a_row_keeps_its_meaning() -> None:
    first = row()
    first.started = 1.0
    life = NodeLife(first)
    assert not life.report(row(), 2.0), "that is news only after the GCS was started again"
    life.restart(3.0)
    assert life.awaited and life.row.alive and life.row.started == 1.0
    assert life.report(row(), 4.0) and not life.awaited
    life.die("nothing listens there", 5.0)
    assert (life.row.alive, life.row.death_cause) == (False, "nothing listens there")
    assert (life.row.started, life.row.ended) == (1.0, 5.0)


def test_a_drain_is_for_ever() -> None:
    life = NodeLife(row())
    life.drain("it is idle", 1.0)
    life.drain("it is idle", 2.0)
    assert life.state is State.DRAINING and not life.row.takes_work
    life.report(row(), 3.0)  # it was on its way when the raylet began to drain
    assert life.row.draining == "it is idle" and not life.row.takes_work
    life.restart(4.0)
    assert life.report(row(), 5.0) and life.state is State.DRAINING
    life.leave(life.row, 6.0)
    assert life.story[-1].endswith("DRAINING -> LEFT, left: it is idle")


def test_an_illegal_step_tells_the_story() -> None:
    life = NodeLife(row())
    life.restart(1.0)
    life.report(row(), 2.0)
    life.leave(row(alive=False), 3.0)
    assert not life.row.alive and life.row.death_cause == ""
    with pytest.raises(IllegalTransition) as raised:
        life.die("it answered no health check", 4.0)
    told = str(raised.value)
    assert f"Node {'05' * 28} is LEFT and cannot be declared dead (it answered no" in told
    assert "00:00:01 ALIVE -> AWAITED, awaited by a new GCS" in told
    assert "00:00:02 AWAITED -> ALIVE, heard of again" in told
    assert told.endswith("00:00:03 ALIVE -> LEFT, left: its raylet was stopped")
