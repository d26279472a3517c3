"""Lives as tables: the states of a thing, what happens to it, and what that makes of it.

A life is one value of `Transitions`, which reads like the table that it is and is checked when it
is defined: every state is reached, an end has no way out, from every other state an end is
reached, and no event is declared in vain. What the table does not have is our own bug and raises
`IllegalTransition`; ``TRANSITIONS[state, event]`` is the state that comes next.

A thing that lives long, as an actor, keeps its story: `Transitions.move` changes its ``state``,
adds a line to its ``story``, and tells the story when an event cannot be. A thing that lives for
microseconds, as a task, takes the row of one event once, when its module is imported, and pays
one lookup in a dict and nothing else::

    _PUSHED = TRANSITIONS.on(Event.PUSHED)
    ...
    task.state = _PUSHED[task.state]

There, compare with names of the module as well (``_RUNNING = State.RUNNING``): to get a member
of an enum by its class costs more than the lookup, in Python 3.11 ten times as much.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from itertools import product
from typing import Generic, Protocol, TypeVar

_STORY_KEPT = 12

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")


class IllegalTransition(Exception):
    """Our own bug: that does not happen in this state. The text tells the story, if one is kept."""


class HasStory(Protocol[S]):
    """A thing with its state and its last events, the newest last."""

    state: S
    story: list[str]


class Step(dict[S, S]):
    """What one event makes of each state; an event that cannot be raises `IllegalTransition`."""

    def __init__(self, noun: str, event: StrEnum, after: Mapping[S, S]) -> None:
        super().__init__(after)
        self._noun = noun
        self._event = event

    def __missing__(self, state: S) -> S:
        raise IllegalTransition(f"{self._noun} is {state} and cannot be {self._event}.")


class Transitions(dict[tuple[S, E], S], Generic[S, E]):
    """The life of one kind of thing; see the head of this module.

    Args:
        noun: of whom errors speak, as "An actor".
        table: the next state, by state and event.
        begins: the states in which a thing may begin.
        ends: the states that nothing leaves; none for a thing that is for ever.

    Raises:
        ValueError: the table is no life; the text says where.
    """

    def __init__(
        self, noun: str, table: Mapping[tuple[S, E], S], begins: Collection[S], ends: Collection[S]
    ) -> None:
        super().__init__(table)
        self._noun = noun
        self.states: tuple[S, ...] = tuple(type(next(iter(begins))))
        self.events: tuple[E, ...] = tuple(type(next(iter(table))[1]))
        self._steps = {
            event: Step(noun, event, {s: after for (s, e), after in table.items() if e is event})
            for event in self.events
        }
        self._check(begins, ends)

    def _check(self, begins: Collection[S], ends: Collection[S]) -> None:
        forth: dict[S, set[S]] = {state: set() for state in self.states}
        back: dict[S, set[S]] = {state: set() for state in self.states}
        for (before, _event), after in self.items():
            forth[before].add(after)
            back[after].add(before)
        wrong = [f"{state} is never reached" for state in _missed(forth, begins)]
        wrong += [f"{state} is an end, and is left" for state in ends if forth[state]]
        if ends:
            wrong += [f"no end is reached from {state}" for state in _missed(back, ends)]
        wrong += [f"it is never {event}" for event, step in self._steps.items() if not step]
        if wrong:
            raise ValueError(f"{self._noun}: {'; '.join(wrong)}.")

    def __missing__(self, key: tuple[S, E]) -> S:
        state, event = key
        return self._steps[event][state]

    def on(self, event: E) -> Step[S]:
        """What ``event`` makes of each state, for a path on which every lookup counts."""
        return self._steps[event]

    def move(
        self, thing: HasStory[S], event: E, now: float, detail: str, name: str, at: str = ""
    ) -> None:
        """Change the state of a thing that keeps its story, and tell the story of a wrong event.

        Args:
            thing: whose ``state`` changes, and whose ``story`` has a line more.
            event: what happened.
            now: when, in seconds since the epoch.
            detail: what more is to be said of it.
            name: the thing's own, as "Actor 1f", for the error.
            at: where in its life it is, as "attempt 2".

        Raises:
            IllegalTransition: this does not happen in the thing's state, which stays.
        """
        before = thing.state
        after = self.get((before, event))
        if after is None:
            raise IllegalTransition(
                f"{name} is {before} and cannot be {event} ({detail}). Its story:\n"
                + "\n".join(thing.story)
            )
        line = f"{_clock(int(now))} {before} -> {after}, {at}{', ' if at else ''}{event}: {detail}"
        thing.story = [*thing.story, line][-_STORY_KEPT:]
        thing.state = after

    def product(self) -> Iterator[tuple[S, E, S | None]]:
        """Every state with every event, and the next state; None where it is illegal."""
        for state, event in product(self.states, self.events):
            yield state, event, self.get((state, event))


@lru_cache(maxsize=1)
def _clock(second: int) -> str:
    """The time of day; what happens comes in bursts."""
    return time.strftime("%H:%M:%S", time.gmtime(second))


def _missed(ways: Mapping[S, set[S]], begins: Collection[S]) -> list[S]:
    """The states to which no way leads from ``begins``."""
    reached, found = set(begins), list(begins)
    while found:
        new = ways[found.pop()] - reached
        reached |= new
        found += new
    return [state for state in ways if state not in reached]


def walk(
    transitions: Transitions[S, E],
    make: Callable[[S], T],
    steps: Mapping[E, Callable[[T], object]],
    state_of: Callable[[T], S],
) -> None:
    """Try every event in every state, for tests: what is legal happens, nothing else does.

    Args:
        transitions: the table.
        make: returns a new thing in a state.
        steps: how each event is brought about.
        state_of: the state of a thing.

    Raises:
        AssertionError: a thing did otherwise than its table says; the text names state and event.
    """
    for state, event, after in transitions.product():
        thing = make(state)
        try:
            steps[event](thing)
            illegal = False
        except IllegalTransition:
            illegal = True
        found = state_of(thing)
        if illegal != (after is None) or found is not (state if after is None else after):
            raise AssertionError(
                f"{state} and {event}: the table says {after or 'illegal'}, the thing is {found}"
                f"{' after an IllegalTransition' if illegal else ''}."
            )
