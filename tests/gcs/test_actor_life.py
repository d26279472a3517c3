"""The life of an actor, as a table."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.common.life import IllegalTransition
from nbray.gcs.actors.life import TRANSITIONS, ActorLife, Event, State
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.records import Address

HOME = Address(b"w", b"\x01" * 28, "", "host", 1)
NODE_DIED = Cause(CauseKind.NODE_DIED, "its node died")
KILLED = Cause(CauseKind.KILLED, "nbray.kill ended it")
STEPS = {
    Event.READY: lambda life: life.ready(0.0),
    Event.STARTED: lambda life: life.start(HOME, 7, 0.0),
    Event.LOST: lambda life: life.lose(NODE_DIED, 0.0),
    Event.ENDED: lambda life: life.end(KILLED, 0.0),
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_the_table_is_all_that_happens(state: State, event: Event) -> None:
    life = ActorLife(b"a", -1, state)
    if (state, event) in TRANSITIONS:
        STEPS[event](life)
        assert life.state is TRANSITIONS[(state, event)]
        assert life.version == 1
    else:
        with pytest.raises(IllegalTransition):
            STEPS[event](life)
        assert life.state is state


def test_an_illegal_step_tells_the_story() -> None:
    life = ActorLife(b"a", 1)
    life.start(HOME, 7, 0.0)
    life.lose(NODE_DIED, 1.0)
    life.end(KILLED, 2.0)
    with pytest.raises(IllegalTransition) as raised:
        life.start(HOME, 8, 3.0)
    assert "61 is DEAD and cannot be started (pid 8 on node 01010101)" in str(raised.value)
    assert "00:00:00 PENDING -> ALIVE, attempt 0, started: pid 7" in str(raised.value)
    assert "00:00:01 ALIVE -> RESTARTING, attempt 0, lost: its node died" in str(raised.value)
    assert "00:00:02 RESTARTING -> DEAD, attempt 1, ended: nbray.kill" in str(raised.value)


@given(restarts=st.integers(-1, 4), steps=st.lists(st.sampled_from([Event.STARTED, Event.LOST])))
def test_it_restarts_as_often_as_it_may(restarts: int, steps: list[Event]) -> None:
    life = ActorLife(b"a", restarts)
    for number, event in enumerate(steps):
        if (life.state, event) not in TRANSITIONS:
            continue
        version = life.version
        STEPS[event](life)
        assert life.version == version + 1
        assert (life.address is not None) == (life.state is State.ALIVE)
        assert len(life.story) == min(life.version, 12), number
    if restarts >= 0:
        assert life.restarts + life.restarts_left == restarts
        assert life.restarts <= restarts
    else:
        assert life.state is not State.DEAD
