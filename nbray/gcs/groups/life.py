"""The life of one placement group: a table of transitions over the row that is stored."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from nbray.common.life import Transitions
from nbray.scheduling.bundles import Bundle
from nbray.wire.records import GroupSpec


class State(StrEnum):
    """Where a group is; the names are those of the messages."""

    PENDING = "PENDING"
    CREATED = "CREATED"
    RESCHEDULING = "RESCHEDULING"
    REMOVED = "REMOVED"


class Event(StrEnum):
    """What happens to a group."""

    CREATED = "created"  # every bundle has a place, and may be used
    LOST = "rescheduled"  # a node with bundles of it has died
    REMOVED = "removed"  # its user, or the end of what made it, removed it


TRANSITIONS = Transitions(
    "A placement group",
    {
        (State.PENDING, Event.CREATED): State.CREATED,
        (State.PENDING, Event.LOST): State.RESCHEDULING,
        (State.PENDING, Event.REMOVED): State.REMOVED,
        (State.CREATED, Event.LOST): State.RESCHEDULING,
        (State.CREATED, Event.REMOVED): State.REMOVED,
        (State.RESCHEDULING, Event.CREATED): State.CREATED,
        (State.RESCHEDULING, Event.LOST): State.RESCHEDULING,
        (State.RESCHEDULING, Event.REMOVED): State.REMOVED,
    },
    begins={State.PENDING},
    ends={State.REMOVED},
)


class GroupLife(msgspec.Struct, array_like=True):
    """The row of a group. Times are in seconds since the epoch.

    Attributes:
        placed: the node of each bundle that has one; once it is stored, a promise.
        attempts: how often a place was looked for.
        placed_s: how long it took until it was ``created``.
        chosen_s: how much of that since a place was first looked for.
        story: the last events, the newest last.
    """

    spec: GroupSpec
    created: float
    state: State = State.PENDING
    placed: dict[int, bytes] = {}
    attempts: int = 0
    placed_s: float = 0.0
    chosen_s: float = 0.0
    story: list[str] = []

    @property
    def waits(self) -> bool:
        """Whether bundles of it have no place yet, or may not be used yet."""
        return self.state in (State.PENDING, State.RESCHEDULING)

    @property
    def removed(self) -> bool:
        """Whether nothing can run in it any more."""
        return self.state is State.REMOVED

    def bundles(self) -> dict[int, Bundle]:
        """What it reserves, by index."""
        return {
            index: Bundle(bundle.resources, bundle.selector)
            for index, bundle in enumerate(self.spec.bundles)
        }

    def missing(self) -> dict[int, Bundle]:
        """The bundles without a place."""
        return {i: bundle for i, bundle in self.bundles().items() if i not in self.placed}

    def create(self, now: float) -> None:
        """All its bundles have a place, and may be used."""
        nodes = sorted({node_id.hex()[:8] for node_id in self.placed.values()})
        shown = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
        self._move(Event.CREATED, now, f"{len(self.placed)} bundles on {shown}")

    def lose(self, node_id: bytes, now: float) -> bool:
        """A node died; returns whether bundles were there, which are to be placed anew."""
        lost = [index for index, where in self.placed.items() if where == node_id]
        if not lost or self.removed:
            return False
        self._move(Event.LOST, now, f"node {node_id.hex()[:8]} died with {len(lost)} bundles")
        for index in lost:
            del self.placed[index]
        return True

    def remove(self, cause: str, now: float) -> None:
        """Nothing can run in it any more."""
        self._move(Event.REMOVED, now, cause)

    def _move(self, event: Event, now: float, detail: str) -> None:
        name = f"Placement group {self.spec.group_id.hex()}"
        TRANSITIONS.move(self, event, now, detail, name, f"attempt {self.attempts}")
