"""Which nodes have a copy of a large value: kept by its owner, asked for by its borrowers.

The owner notes the node on which the value was made (the primary copy, the first of
`Stored.node_ids`), and hears from raylets that pull or evict a copy (`CopiesChanged`). When the
primary's node dies, the first of the others becomes the primary, and its raylet is told to keep
it; when there is no other, the value is lost, and whoever needs it from then on waits until it has
been made again (see `lineage`). A process whose raylet finds no copy asks the owner, who names
another or makes the value again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nbray.core_worker.own.counting import owner_died
from nbray.wire import object_messages as om
from nbray.wire.connection import Connection
from nbray.wire.records import Address, Stored, Value
from nbray.wire.waiting import Waiter

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker


class Locations:
    """The copies of this process's objects, and the way to the owners of others."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        peers = core.peers
        peers.handlers[om.CopiesChanged] = self._on_copies_changed
        peers.handlers[om.RequestLocations] = self._serve
        peers.handlers[om.Locations] = lambda _peer, reply: peers.answer(
            ("locations", reply.request_id), reply
        )
        peers.on_node_died.append(self._on_node_died)
        peers.on_closed.append(self._on_closed)
        self._dying: dict[bytes, list[om.CopiesChanged]] = {}

    # --- the owner, under the baton --------------------

    def _stored(self, object_id: bytes) -> Stored | None:
        entry = self._core.table.get(object_id)
        return None if entry is None or entry.value is None else entry.value.stored

    def _on_copies_changed(self, _raylet: Connection, message: om.CopiesChanged) -> None:
        if message.maker:
            self._on_maker_died(message)
            return
        freed = []
        for object_id in message.object_ids:
            stored = self._stored(object_id)
            if stored is None:
                freed.append(object_id)
            elif message.added and message.node_id not in stored.node_ids:
                stored.node_ids.append(message.node_id)
            elif not message.added and message.node_id in stored.node_ids:
                stored.node_ids.remove(message.node_id)
        if freed and message.added:  # the copy was made while the object ended
            self._core.peers.raylet.send(om.FreeObjects(freed, [message.node_id]))

    def _on_maker_died(self, message: om.CopiesChanged) -> None:
        """What it told of before it died is all read once its connection has ended."""
        connection = self._core.peers.find(message.maker)
        if connection is None or connection.closed:
            self._drop_unknown(message)
        else:
            self._dying.setdefault(message.maker, []).append(message)

    def _on_closed(self, connection: Connection) -> None:
        peer = connection.state
        if isinstance(peer, Address):
            for message in self._dying.pop(peer.worker_id, ()):
                self._drop_unknown(message)

    def _drop_unknown(self, message: om.CopiesChanged) -> None:
        unknown = []
        for object_id in message.object_ids:
            stored = self._stored(object_id)
            if stored is None or message.node_id not in stored.node_ids:
                unknown.append(object_id)
        if unknown:
            raylet = self._core.peers.raylet
            raylet.send(om.FreeObjects(unknown, [message.node_id], message.maker))

    def _serve(self, connection: Connection, message: om.RequestLocations) -> None:
        self._current(
            message.object_id,
            message.tried,
            lambda value: connection.send(om.Locations(message.request_id, value)),
        )

    def _current(
        self, object_id: bytes, tried: list[bytes], then: Callable[[Value | None], None]
    ) -> None:
        """``then`` gets a value that has a copy on another node than ``tried``, made if need be."""
        entry = self._core.table.get(object_id)
        if entry is None:
            then(None)
            return
        value = entry.value
        if value is not None and value.stored is not None:
            if not set(value.stored.node_ids).difference(tried):
                self._core.lineage.recover(object_id, entry)
        else:
            self._core.references.fetch(object_id, entry)
        entry.when_complete(lambda: then(entry.value))

    def _on_node_died(self, node_id: bytes) -> None:
        core = self._core
        heirs: dict[bytes, list[bytes]] = {}
        any_lost = False
        for object_id, stored in core.table.in_arenas():
            if node_id not in stored.node_ids:
                continue
            was_primary = stored.node_ids[0] == node_id
            stored.node_ids.remove(node_id)
            if not stored.node_ids:
                core.lineage.lose(core.table[object_id])
                any_lost = True
            elif was_primary:
                heirs.setdefault(stored.node_ids[0], []).append(object_id)
        if any_lost:
            core.submitter.await_lost_arguments()
        for heir, object_ids in heirs.items():
            self._core.peers.raylet.send(om.KeepCopies(object_ids, heir))

    # --- whoever needs the value --------------------

    def find(
        self, object_id: bytes, owner: Address, tried: list[bytes],
        then: Callable[[Value | None], None],
    ) -> None:  # fmt: skip
        """``then`` gets the value as its owner knows it: no node of ``tried`` has it any more.

        Or the error that says so when the owner is gone, or None when it does not know the object.
        Under the baton; it may take as long as the value takes to be made again.
        """
        core, peers = self._core, self._core.peers

        def on_value(value: Value | None) -> None:
            entry = core.table.get(object_id)
            if entry is not None and entry.owner is not None:
                entry.value = value
            then(value)

        if owner.worker_id == core.worker_id:
            self._current(object_id, tried, on_value)
            return
        request_id = peers.next_request()
        peers.ask(
            peers.connect(owner), ("locations", request_id),
            om.RequestLocations(request_id, object_id, tried),
            lambda reply: on_value(owner_died(object_id) if reply is None else reply.value),
        )  # fmt: skip

    def newer(
        self, object_id: bytes, owner: Address, tried: set[bytes], deadline: float | None
    ) -> Value | None:
        """The value that `find` finds, None also at the ``deadline``; from any thread."""
        core = self._core
        waiter = Waiter()
        answer: list[Value | None] = []

        def on_value(value: Value | None) -> None:
            answer.append(value)
            waiter.complete_one()

        nodes = list(tried)
        core.reactor.inbox.append(lambda: self.find(object_id, owner, nodes, on_value))
        left = None if deadline is None else max(0.001, deadline - time.monotonic())
        return answer[0] if core.values.block_on(waiter, left) else None
