"""Which nodes have a copy of a large value: kept by its owner, asked for by its borrowers.

The owner notes the node on which the value was made (the primary copy, the first of
`Stored.node_ids`), and hears from raylets that pull or evict a copy (`CopiesChanged`). When the
primary's node dies, the first of the others becomes the primary, and its raylet is told to keep
it; when there is no other, the value is lost, and whoever needs it from then on waits until it has
been made again (see `lineage`). A process whose raylet finds no copy asks the owner, who names
another or makes the value again.
"""

from __future__ import annotations

from collections.abc import Callable

from nbray.core_worker.identity import Identity
from nbray.core_worker.own.borrowing import Borrowing
from nbray.core_worker.own.errors import lost, owner_died
from nbray.core_worker.own.freeing import Freeing
from nbray.core_worker.own.lineage import Lineage
from nbray.core_worker.own.table import OwnershipTable, add_copies, drop_copy
from nbray.core_worker.ports import Mail
from nbray.wire import object_messages as om
from nbray.wire.records import Address, Stored, Value

Then = Callable[[Value | None], None]


class Locations:
    """The copies of this process's objects, and the way to the owners of others."""

    def __init__(
        self, me: Identity, table: OwnershipTable, freeing: Freeing, lineage: Lineage,
        borrowing: Borrowing, mail: Mail,
    ) -> None:  # fmt: skip
        self._me = me
        self._table = table
        self._freeing = freeing
        self._lineage = lineage
        self._borrowing = borrowing
        self._mail = mail
        self._dying: dict[bytes, list[om.CopiesChanged]] = {}

    # --- the owner --------------------

    def _stored(self, object_id: bytes) -> Stored | None:
        entry = self._table.get(object_id)
        return None if entry is None or entry.value is None else entry.value.stored

    def on_copies_changed(self, message: om.CopiesChanged, maker_here: bool) -> None:
        """A raylet has a copy more, or less; ``maker_here``: its maker is still connected."""
        if message.maker:
            # What it told of before it died is all read once its connection has ended.
            if maker_here:
                self._dying.setdefault(message.maker, []).append(message)
            else:
                self._drop_unknown(message)
            return
        freed = []
        for object_id in message.object_ids:
            entry = self._table.get(object_id)
            value = None if entry is None else entry.value
            if value is None or value.stored is None:
                freed.append(object_id)
            elif message.added:
                add_copies(value, [message.node_id])
            else:
                drop_copy(value, message.node_id)
        if freed and message.added:  # the copy was made while the object ended
            self._freeing.free_copies(freed, message.node_id)

    def process_gone(self, worker_id: bytes) -> None:
        """A process has ended: of what it made, nobody else will tell."""
        for message in self._dying.pop(worker_id, ()):
            self._drop_unknown(message)

    def _drop_unknown(self, message: om.CopiesChanged) -> None:
        unknown = []
        for object_id in message.object_ids:
            stored = self._stored(object_id)
            if stored is None or message.node_id not in stored.node_ids:
                unknown.append(object_id)
        if unknown:
            self._freeing.free_copies(unknown, message.node_id, message.maker)

    def serve(self, worker: bytes, message: om.RequestLocations) -> None:
        """A process finds no copy, and asks the owner."""
        self._current(
            message.object_id,
            message.tried,
            lambda value: self._mail.answer(worker, om.Locations(message.request_id, value)),
        )

    def _current(self, object_id: bytes, tried: list[bytes], then: Then) -> None:
        """``then`` gets a value that has a copy on another node than ``tried``, made if need be."""
        entry = self._table.get(object_id)
        if entry is None:
            then(None)
            return
        value = entry.value
        if value is not None and value.stored is not None:
            if not set(value.stored.node_ids).difference(tried):
                self._lineage.recover(object_id, entry)
        else:
            self._borrowing.fetch(object_id, entry)
        entry.when_complete(lambda: then(entry.value))

    def node_died(self, node_id: bytes) -> tuple[bool, dict[bytes, list[bytes]]]:
        """A node has ended, with the copies on it.

        Returns:
            Whether values were lost, and the new primaries by their nodes, which are to keep them.
        """
        new_primaries: dict[bytes, list[bytes]] = {}
        any_lost = False
        for object_id, value, stored in self._table.in_arenas():
            if node_id not in stored.node_ids:
                continue
            drop_copy(value, node_id)
            left = [other for other in stored.node_ids if other != node_id]
            if not left:
                self._lineage.lose(self._table[object_id])
                any_lost = True
            elif stored.node_ids[0] == node_id:
                new_primaries.setdefault(left[0], []).append(object_id)
        return any_lost, new_primaries

    # --- whoever needs the value --------------------

    def find(self, object_id: bytes, owner: Address, tried: list[bytes], then: Then) -> None:
        """``then`` gets the value as its owner knows it: no node of ``tried`` has it any more.

        Or the error that says so when the owner is gone, or None when it does not know the object.
        It may take as long as the value takes to be made again.
        """

        def on_value(value: Value | None) -> None:
            entry = self._table.get(object_id)
            if entry is not None and entry.owner is not None:
                now = value or lost(object_id)
                if entry.value is None:  # others may wait for it, too
                    self._table.complete(object_id, now)
                else:
                    entry.value = now
            then(value)

        def on_reply(reply: om.Locations | None) -> None:
            on_value(owner_died(object_id) if reply is None else reply.value)

        if owner.worker_id == self._me.worker_id:
            self._current(object_id, tried, on_value)
        else:
            self._mail.ask(owner, om.RequestLocations(0, object_id, tried), on_reply)
