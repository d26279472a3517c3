"""The reading side of streams, as the generators that a program iterates over have it."""

from __future__ import annotations

import threading
from typing import Literal

from nbray.core_worker.identity import Identity
from nbray.core_worker.own.streams import END, Stream, Streams
from nbray.core_worker.own.table import ObjectEntry, OwnershipTable
from nbray.core_worker.ports import Inbox
from nbray.core_worker.values.reading import Values
from nbray.object_ref import ObjectRef, RefHome, make_ref


class Readers:
    """The reading side of all streams of this process. From any thread."""

    def __init__(
        self, me: Identity, home: RefHome, table: OwnershipTable, streams: Streams, values: Values,
        inbox: Inbox,
    ) -> None:  # fmt: skip
        self._me = me
        self._home = home
        self._table = table
        self._streams = streams
        self.values = values
        self.inbox = inbox
        self._taking = threading.RLock()  # a signal handler may read, too

    def ref(self, object_id: bytes) -> ObjectRef:
        """A ref of an item, or of nothing."""
        return make_ref(object_id, self._home.kin)

    def abandon(self, stream: Stream) -> None:
        """The reader has gone."""
        self.inbox.inbox.append(lambda: self._streams.abandon(stream))

    def peek(self, stream: Stream) -> tuple[bytes, ObjectEntry]:
        """The next object, which may be the end."""
        with self._taking:  # one that is taken meanwhile may have ended, and must not begin anew
            object_id = stream.item_id(stream.taken)
            entry = self._table.ensure_owned(object_id)
        # Again after the entry exists: the end may have come in between.
        if stream.length is not None and stream.taken >= stream.length:
            self._table.complete(object_id, END)
        return object_id, entry

    def take(
        self, stream: Stream, object_id: bytes, entry: ObjectEntry
    ) -> ObjectRef | Literal[False] | None:
        """The ref of the completed next object: None when it is the end, False if it has gone.

        Each item has one reader, in whatever threads and coroutines they are.
        """
        with self._taking:
            if object_id != stream.item_id(stream.taken):
                return False
            if entry.value is END:
                if not stream.read:
                    self._table.released.append((object_id, -1))
                stream.read = True
                return None
            stream.taken += 1
        if stream.backpressure:
            taken = stream.taken
            self.inbox.post(lambda: self._streams.took(stream, taken))
        return self.ref(object_id)
