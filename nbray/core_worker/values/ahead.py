"""Large values are asked of the raylet before their turn to be read comes.

Each one may have to come from another node. One after the other they would take as many round trips
as there are; so some are on their way while the first is read, but not so many that their pins
fill the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from nbray.common.interrupts import finalizer
from nbray.wire import object_messages as om
from nbray.wire.records import Address, Stored
from nbray.wire.waiting import Waiter

_MOST = 32
_FEW = 16


class Pin:
    """The raylet's answer to a reader; what it pinned is unpinned once, at the latest with this."""

    __slots__ = ("_held", "_unpins", "reply")

    def __init__(self, reply: om.ObjectPinned, unpins: deque[bytes]) -> None:
        self.reply = reply
        self._unpins = unpins
        self._held: list[bytes | None] = [] if reply.cause else [None, reply.object_id]

    @finalizer
    def release(self) -> None:
        """The view has gone."""
        if self._held:
            # In one step: an interrupt that falls between two would lose the pin, or end it twice.
            self._unpins.extend(iter(self._held.pop, None))

    __del__ = release


class Asked:
    """A value that the raylet was asked for, as it was known then, and its answer.

    When nobody waits for the answer any more, the pin ends with this.
    """

    __slots__ = ("answers", "object_id", "owner", "stored", "waiter")

    def __init__(
        self, object_id: bytes, owner: Address, stored: Stored, waiter: Waiter | None = None
    ) -> None:
        self.object_id = object_id
        self.owner = owner
        self.stored = stored
        self.waiter = waiter or Waiter()
        self.answers: list[Pin | None] = []


Ask = Callable[[list[Asked]], None]


class Takes(Protocol):
    """Has what the raylet was asked about values before they are read."""

    def take(self, object_id: bytes, stored: Stored) -> Asked | None:
        """What the raylet was asked about this value, which is read now; None if nothing was."""


class Arrived:
    """Values that the raylet was asked for, and that are here."""

    def __init__(self) -> None:
        self._asked: dict[bytes, list[Asked]] = {}

    def keep(self, asked: Asked) -> None:
        """The raylet has answered."""
        self._asked.setdefault(asked.object_id, []).append(asked)

    def take(self, object_id: bytes, stored: Stored) -> Asked | None:
        """See `Takes`."""
        several = self._asked.get(object_id)
        asked = several.pop(0) if several else None
        return asked if asked is not None and asked.stored is stored else None


class Ahead:
    """Asks for values in the order in which they will be read.

    Args:
        wanted: those values.
        ask: asks the raylet.
        most_bytes: so many may be asked for ahead, and one.
    """

    def __init__(self, wanted: Iterable[Asked], ask: Ask, most_bytes: int) -> None:
        self._wanted = iter(wanted)
        self._ask = ask
        self._most_bytes = most_bytes
        self._asked: deque[Asked] = deque()
        self._bytes = 0

    def take(self, object_id: bytes, stored: Stored) -> Asked | None:
        """What the raylet was asked about this value, which is read now; None if nothing was."""
        if len(self._asked) <= _FEW:
            self._go_on()
        if all(asked.object_id != object_id for asked in self._asked):
            return None
        while True:  # those before it are not read: they have become errors, or are lost
            asked = self._asked.popleft()
            self._bytes -= asked.stored.size
            if asked.object_id == object_id:
                return asked if asked.stored is stored else None  # it may lie elsewhere by now

    def _go_on(self) -> None:
        fresh: list[Asked] = []
        while len(self._asked) < _MOST and self._bytes <= self._most_bytes:
            asked = next(self._wanted, None)
            if asked is None:
                break
            fresh.append(asked)
            self._asked.append(asked)
            self._bytes += asked.stored.size
        if fresh:
            self._ask(fresh)
