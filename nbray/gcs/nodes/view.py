"""What changed in the node table since a raylet looked last: sequences of versions.

A table of a thousand rows that each of a thousand raylets is sent twice a second is a million rows
a second. So a raylet is told what is new to it: a change gives its row the next version, and a
raylet says which version it has. Members, which change when a node joins or goes, and their room,
which changes with every lease, are two sequences: of the second a raylet is told the oldest news
first and a bounded number at once, so that a busy cluster's news of room wait for each other, and
never those of a death.

Pure: no clock, no connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MOST_ROOMS = 128
"""Of so many nodes a raylet is told the room at once."""


class Versions:
    """Which keys changed, in the order of their last change."""

    def __init__(self) -> None:
        self.version = 0
        self._last: dict[bytes, int] = {}
        self._forgotten = 0

    def changed(self, key: bytes) -> None:
        """A row is new, or has changed."""
        self.version += 1
        self._last.pop(key, None)
        self._last[key] = self.version

    def forget(self, key: bytes) -> None:
        """A row is no more, without anybody being told."""
        self._forgotten = max(self._forgotten, self._last.pop(key, 0))

    def covers(self, version: int) -> bool:
        """Whether whoever has seen ``version`` can be told by `since` alone."""
        return self._forgotten <= version <= self.version

    def since(self, version: int, most: int | None = None) -> tuple[list[bytes], int]:
        """The keys that changed after ``version``, and the version that one has with them.

        Of more than ``most``, those whose last change is oldest.
        """
        newer = []
        for key, at in reversed(self._last.items()):
            if at <= version:
                break
            newer.append(key)
        newer.reverse()
        if most is None or len(newer) <= most:
            return newer, self.version
        newer = newer[:most]
        return newer, self._last[newer[-1]]


@dataclass(frozen=True)
class Seen:
    """What a raylet has of the two sequences."""

    members: int
    rooms: int


@dataclass(frozen=True)
class News:
    """What it lacks: rows of members, rows' room, and what it has `seen` with them.

    Attributes:
        complete: the members are all there are; others that it knows are gone.
    """

    members: list[bytes]
    rooms: list[bytes]
    seen: Seen
    complete: bool = False


class NodeView:
    """The two sequences of one table."""

    def __init__(self) -> None:
        self._members = Versions()
        self._rooms = Versions()

    @property
    def seen(self) -> Seen:
        """What one has who has seen all."""
        return Seen(self._members.version, self._rooms.version)

    def member_changed(self, node_id: bytes) -> None:
        """A node joined, or is dead."""
        self._members.changed(node_id)

    def room_changed(self, node_id: bytes) -> None:
        """What is free on a node has changed."""
        self._rooms.changed(node_id)

    def room_gone(self, node_id: bytes) -> None:
        """A node is dead: nobody asks what is free there."""
        self._rooms.forget(node_id)

    def forget(self, node_id: bytes) -> None:
        """The row of a node that died long ago is dropped."""
        self._members.forget(node_id)

    def news(self, seen: Seen | None, alive: Iterable[bytes]) -> News | None:
        """What a raylet is to be told; None: nothing.

        Args:
            seen: what it has; None if it never asked this GCS.
            alive: the nodes that are alive now.
        """
        if seen is None or not self._members.covers(seen.members):
            return News(list(alive), [], self.seen, complete=True)
        members, at = self._members.since(seen.members)
        rooms, rooms_at = self._rooms.since(seen.rooms, MOST_ROOMS)
        if not members and not rooms:
            return None
        whole = set(members)
        return News(members, [n for n in rooms if n not in whole], Seen(at, rooms_at))
