"""The instances of the autoscaler: a durable state machine each. Pure: the caller acts and stores.

What is decided is stored before it is done, and everything may be done twice. So the state that is
stored says what may have happened, never what has: an instance that is QUEUED may have been asked
for by a process that was killed at that moment, and is asked for again, which changes nothing if it
was. What has happened the provider's list and the node table say, at every look:

- a node with the instance's label has joined: it is RUNNING; that node has gone: it is over;
- the provider lists it: STARTING, or still REQUESTED while it waits for a machine;
- the provider does not list it, in an answer that was asked for after it was created: it is over,
  unless its node is alive: a node table is not wrong about that, a provider may be.

One that is over, whyever, is TERMINATING until the provider does not list it any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from nbray.autoscaler.providers.base import Instance, Stage
from nbray.common.life import Transitions

_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 300.0
_FAILURES_KEPT = 20
_TERMINATE_AGAIN_S = 10.0


class State(StrEnum):
    """Where an instance is."""

    QUEUED = "QUEUED"  # it is decided; the provider is being asked, or is to be
    REQUESTED = "REQUESTED"  # the provider has taken the request
    STARTING = "STARTING"  # there is a machine
    RUNNING = "RUNNING"  # its node is in the cluster
    DRAINING = "DRAINING"  # its node takes no new work
    TERMINATING = "TERMINATING"  # it is over, and the provider is to clear it away
    TERMINATED = "TERMINATED"


class Event(StrEnum):
    """What happens to an instance."""

    ASKED = "asked for"
    FOUND = "found to have a machine"
    JOINED = "joined by its node"
    DRAINED = "drained"
    OVER = "over"
    CLEARED = "cleared away"


TRANSITIONS = Transitions(
    "An instance",
    {
        (State.QUEUED, Event.ASKED): State.REQUESTED,
        (State.QUEUED, Event.FOUND): State.STARTING,
        (State.QUEUED, Event.JOINED): State.RUNNING,
        (State.QUEUED, Event.OVER): State.TERMINATING,
        (State.REQUESTED, Event.FOUND): State.STARTING,
        (State.REQUESTED, Event.JOINED): State.RUNNING,
        (State.REQUESTED, Event.OVER): State.TERMINATING,
        (State.STARTING, Event.JOINED): State.RUNNING,
        (State.STARTING, Event.OVER): State.TERMINATING,
        (State.RUNNING, Event.DRAINED): State.DRAINING,
        (State.RUNNING, Event.OVER): State.TERMINATING,
        (State.DRAINING, Event.OVER): State.TERMINATING,
        (State.TERMINATING, Event.CLEARED): State.TERMINATED,
    },
    begins={State.QUEUED},
    ends={State.TERMINATED},
)
_ON_THEIR_WAY = (State.QUEUED, State.REQUESTED, State.STARTING)


class Life(msgspec.Struct, array_like=True):
    """One instance, as it is stored; times in seconds since the epoch.

    Attributes:
        since: when its state began.
        deadline: of a drain: then it is terminated, left or not; 0: never.
        failed: why its node never came to be.
    """

    id: str
    type: str
    why: str
    state: State = State.QUEUED
    since: float = 0.0
    node_id: bytes = b""
    deadline: float = 0.0
    failed: str = ""
    story: list[str] = []

    @property
    def on_its_way(self) -> bool:
        """Whether its node may still join for the first time."""
        return self.state in _ON_THEIR_WAY

    def move(self, event: Event, now: float, detail: str) -> None:
        """Something happened to it."""
        TRANSITIONS.move(self, event, now, detail, f"Instance {self.id}")
        self.since = now


class Failure(msgspec.Struct, array_like=True):
    """A node that did not come to be, and what it said last."""

    id: str
    type: str
    when: float
    why: str
    lines: str = ""


@dataclass(frozen=True)
class Joined:
    """A node of the cluster that is an instance."""

    node_id: bytes
    draining: str = ""


@dataclass(frozen=True)
class Limits:
    """How long is waited; seconds."""

    start_s: float = 900.0
    drained_s: float = 60.0
    stable_s: float = 30.0


@dataclass
class Look:
    """What follows from a look at the provider and the cluster.

    Attributes:
        changed: instances that are to be stored.
        gone: instances that are to be forgotten.
        terminate: ids that the provider is to end.
        failed: instances whose node did not come to be, of which logs are to be kept.
    """

    changed: list[Life] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    terminate: list[str] = field(default_factory=list)
    failed: list[Life] = field(default_factory=list)


class Instances:
    """All instances that are not TERMINATED, and how the last ones of each type fared."""

    def __init__(self, stored: Iterable[Life] = (), limits: Limits = Limits()) -> None:
        self._limits = limits
        self._lives = {life.id: life for life in stored}
        self._asked: dict[str, float] = {}
        self._listed: dict[str, Instance] = {}
        self._terminated: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self.failures: list[Failure] = []

    # --- asked --------------------

    def all(self) -> list[Life]:
        """All of them, in the order of their beginning."""
        return list(self._lives.values())

    def get(self, id: str) -> Life | None:
        """One of them."""
        return self._lives.get(id)

    def seen(self, id: str) -> Instance | None:
        """What the provider said last of one."""
        return self._listed.get(id)

    def by_others(self) -> list[Instance]:
        """Those that somebody else starts, whose nodes have not joined."""
        return [one for id, one in self._listed.items() if one.by_others and id not in self._lives]

    def queued(self) -> list[Life]:
        """Those for which the provider is to be asked."""
        return [life for life in self._lives.values() if life.state is State.QUEUED]

    @property
    def not_before(self) -> Mapping[str, float]:
        """When a node of a type may be started again whose last ones failed."""
        return self._not_before

    # --- decided --------------------

    def add(self, life: Life, now: float) -> None:
        """A new one, which is to be stored before anything is done."""
        life.since = now
        self._lives[life.id] = life

    def asked(self, id: str, asked_at: float, now: float) -> Life | None:
        """The provider has taken a request: an answer that was asked for later lists it."""
        life = self._lives.get(id)
        self._asked[id] = asked_at
        if life is None or life.state is not State.QUEUED:
            return None
        life.move(Event.ASKED, now, "the provider has taken the request")
        return life

    def refused(self, id: str, why: str, now: float) -> Life | None:
        """The provider will not make it."""
        life = self._lives.get(id)
        if life is None or not life.on_its_way:
            return None
        self._fail(life, why, now)
        return life

    def drains(self, id: str, why: str, deadline: float, now: float) -> Life | None:
        """Its node takes no new work any more, and leaves."""
        life = self._lives.get(id)
        if life is None or life.state is not State.RUNNING:
            return None
        life.deadline = deadline
        life.move(Event.DRAINED, now, why)
        return life

    def give_up(self, id: str, why: str, now: float) -> Life | None:
        """It is not wanted any more, before its node has come."""
        life = self._lives.get(id)
        if life is None or not life.on_its_way:
            return None
        life.move(Event.OVER, now, why)
        return life

    # --- seen --------------------

    def look(
        self, listed: Sequence[Instance] | None, listed_at: float,
        nodes: Mapping[str, Joined], now: float, all_nodes: bool = True,
    ) -> Look:  # fmt: skip
        """Take in what there is.

        Args:
            listed: the provider's list; None: it gave none.
            listed_at: when that was asked for.
            nodes: the nodes that are alive, by the instances that they are.
            now: seconds since the epoch.
            all_nodes: False: the GCS has just come back, and may not know all of them yet.
        """
        found = Look()
        if listed is not None:
            self._listed = {one.id: one for one in listed}
        for life in list(self._lives.values()):
            before = life.state
            node = nodes.get(life.id)
            if node is not None or all_nodes:
                self._node(life, node, now)
            if listed is not None:
                self._place(life, listed_at, node, now)
            self._in_time(life, now)
            if life.state is State.TERMINATED:
                self._forget(life.id)
                found.gone.append(life.id)
            elif life.state is not before:
                found.changed.append(life)
            if life.failed and before is not life.state is State.TERMINATING:
                found.failed.append(life)
        wanted = [life.id for life in self._lives.values() if life.state is State.TERMINATING]
        # What nobody here has asked for is of a former cluster of that name.
        wanted += [
            id for id, one in self._listed.items()
            if id not in self._lives and id not in nodes and not one.by_others
        ]  # fmt: skip
        for id in wanted:
            if now - self._terminated.get(id, float("-inf")) >= _TERMINATE_AGAIN_S:
                self._terminated[id] = now
                found.terminate.append(id)
        return found

    def _node(self, life: Life, node: Joined | None, now: float) -> None:
        if node is not None:
            if life.on_its_way:
                life.node_id = node.node_id
                life.move(Event.JOINED, now, f"node {node.node_id.hex()[:8]}")
                self._pauses.pop(life.type, None)
                self._not_before.pop(life.type, None)
            if node.draining and life.state is State.RUNNING:
                life.move(Event.DRAINED, now, node.draining)
        elif life.state in (State.RUNNING, State.DRAINING):
            lived = now - life.since
            if life.state is State.DRAINING:
                life.move(Event.OVER, now, "its node has left")
            elif lived < self._limits.stable_s:  # the next one may fare no better
                self._fail(life, f"its node ended {lived:.0f} s after it had joined", now)
            else:
                life.move(Event.OVER, now, "its node has ended")

    def _place(self, life: Life, listed_at: float, node: Joined | None, now: float) -> None:
        """What the provider's list says of one; a node that is alive says more."""
        seen = self._listed.get(life.id)
        if life.state is State.TERMINATING:
            if seen is None and node is None and listed_at > self._terminated.get(life.id, now):
                life.move(Event.CLEARED, now, "the provider has it no more")
        elif not life.on_its_way:
            return
        elif seen is None:
            # Of one that was asked for by a process before this one, only a new request tells.
            if life.state is not State.QUEUED and listed_at > self._asked.get(life.id, 0.0):
                self._fail(life, "the provider does not have it any more", now)
        elif seen.stage is Stage.ENDED:
            self._fail(life, seen.why or "it ended before its node had joined", now)
        elif seen.stage in (Stage.STARTING, Stage.RUNNING) and life.state is not State.STARTING:
            life.move(Event.FOUND, now, seen.place or "there is a machine")
        elif life.state is State.QUEUED:
            life.move(Event.ASKED, now, "the provider has it")

    def _in_time(self, life: Life, now: float) -> None:
        waited = now - life.since
        if life.state is State.STARTING and waited > self._limits.start_s:
            self._fail(life, f"its node has not joined in {waited:.0f} s", now)
        late = life.state is State.DRAINING and life.deadline
        if late and now > life.deadline + self._limits.drained_s:
            life.move(Event.OVER, now, "it had not left at its deadline")

    def _fail(self, life: Life, why: str, now: float) -> None:
        life.failed = why
        life.move(Event.OVER, now, why)
        self.failures.append(Failure(life.id, life.type, now, why))
        del self.failures[:-_FAILURES_KEPT]
        # Those that were asked for together fail together, and count as one.
        if self._not_before.get(life.type, 0.0) <= now:
            pause = min(_LONGEST_PAUSE_S, 2 * self._pauses.get(life.type, _FIRST_PAUSE_S / 2))
            self._pauses[life.type] = pause
            self._not_before[life.type] = now + pause

    def said(self, id: str, lines: str) -> None:
        """The last lines of one that failed."""
        for failure in self.failures:
            if failure.id == id:
                failure.lines = lines

    def _forget(self, id: str) -> None:
        del self._lives[id]
        self._asked.pop(id, None)
        self._terminated.pop(id, None)
