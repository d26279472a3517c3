"""Lives as tables: what is checked when one is defined, and what an event costs and tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import pytest

from nbray.common.life import IllegalTransition, Transitions, walk


class Door(StrEnum):
    OPEN = "OPEN"
    SHUT = "SHUT"
    GONE = "GONE"


class Push(StrEnum):
    PUSHED = "pushed"
    PULLED = "pulled"
    BURNT = "burnt"


TABLE = {
    (Door.OPEN, Push.PUSHED): Door.SHUT,
    (Door.SHUT, Push.PULLED): Door.OPEN,
    (Door.SHUT, Push.BURNT): Door.GONE,
}
LIFE = Transitions("A door", TABLE, begins={Door.OPEN}, ends={Door.GONE})


@dataclass
class Kept:
    state: Door = Door.OPEN
    story: list[str] = field(default_factory=list)

    def move(self, event: Push) -> None:
        LIFE.move(self, event, 61.0, "by hand", "Door 7", "hour 1")


def test_a_table_is_read_by_state_and_event() -> None:
    assert LIFE[Door.OPEN, Push.PUSHED] is Door.SHUT
    assert LIFE.on(Push.PULLED)[Door.SHUT] is Door.OPEN
    assert (Door.OPEN, Push.BURNT) not in LIFE
    assert len(list(LIFE.product())) == 9


@pytest.mark.parametrize(
    "ask", [lambda: LIFE[Door.OPEN, Push.BURNT], lambda: LIFE.on(Push.BURNT)[Door.OPEN]]
)
def test_an_event_that_cannot_be_says_so(ask) -> None:
    with pytest.raises(IllegalTransition, match=r"^A door is OPEN and cannot be burnt\.$"):
        ask()


def test_who_keeps_a_story_is_told_it() -> None:
    door = Kept()
    for _ in range(10):
        door.move(Push.PUSHED)
        door.move(Push.PULLED)
    assert door.story[-1] == "00:01:01 SHUT -> OPEN, hour 1, pulled: by hand"
    assert len(door.story) == 12
    with pytest.raises(IllegalTransition) as raised:
        door.move(Push.BURNT)
    assert str(raised.value).startswith("Door 7 is OPEN and cannot be burnt (by hand). Its story:")
    assert str(raised.value).endswith(door.story[-1])
    assert door.state is Door.OPEN and len(door.story) == 12


@pytest.mark.parametrize(
    ("without", "more", "says"),
    [
        ((Door.SHUT, Push.PULLED), {}, "it is never pulled"),
        ((Door.OPEN, Push.PUSHED), {}, "SHUT is never reached; GONE is never reached"),
        ((Door.SHUT, Push.BURNT), {(Door.OPEN, Push.BURNT): Door.OPEN}, "no end is reached from"),
        (None, {(Door.GONE, Push.PULLED): Door.OPEN}, "GONE is an end, and is left"),
    ],
)
def test_what_is_no_life_is_refused_when_it_is_defined(without, more, says) -> None:
    table = {key: after for key, after in (TABLE | more).items() if key != without}
    with pytest.raises(ValueError, match=f"^A door: .*{says}"):
        Transitions("A door", table, begins={Door.OPEN}, ends={Door.GONE})


def test_a_thing_that_is_for_ever_has_no_end() -> None:
    table = {(Door.OPEN, Push.PUSHED): Door.SHUT, (Door.SHUT, Push.PULLED): Door.OPEN}
    with pytest.raises(ValueError, match="GONE is never reached"):
        Transitions("A door", table, begins={Door.OPEN}, ends=())


def test_the_walk_finds_what_is_not_as_the_table_says() -> None:
    steps = {event: (lambda door, event=event: door.move(event)) for event in Push}
    walk(LIFE, Kept, steps, lambda door: door.state)
    steps[Push.BURNT] = lambda door: None
    with pytest.raises(AssertionError, match="OPEN and burnt: the table says illegal"):
        walk(LIFE, Kept, steps, lambda door: door.state)
    steps[Push.BURNT] = lambda door: door.move(Push.PULLED)
    with pytest.raises(AssertionError, match=r"SHUT and burnt: the table says GONE, .* OPEN"):
        walk(LIFE, Kept, steps, lambda door: door.state)
