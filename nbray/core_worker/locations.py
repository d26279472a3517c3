"""Which nodes have a copy of a large value: kept by its owner, asked for by its borrowers.

The owner notes the node on which the value was made (the primary copy, the first of
`Stored.node_ids`), and hears from raylets that pull or evict a copy (`CopiesChanged`). When the
primary's node dies, the first of the others becomes the primary, and its raylet is told to keep
it. A process whose raylet finds no copy asks the owner for newer locations before it gives up.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nbray.wire import messages as m
from nbray.wire.reactor import Connection, Waiter

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker

_ASK_TIMEOUT_S = 30.0


class Locations:
    """The copies of this process's objects, and the way to the owners of others."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        peers = core.peers
        peers.handlers[m.CopiesChanged] = self._on_copies_changed
        peers.handlers[m.RequestLocations] = self._serve
        peers.handlers[m.Locations] = lambda _peer, reply: peers.answer(
            ("locations", reply.request_id), reply
        )
        peers.on_node_died.append(self._on_node_died)

    # --- the owner, under the baton --------------------

    def _stored(self, object_id: bytes) -> m.Stored | None:
        entry = self._core.table.get(object_id)
        return None if entry is None or entry.value is None else entry.value.stored

    def _on_copies_changed(self, _raylet: Connection, message: m.CopiesChanged) -> None:
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
            self._core.peers.raylet.send(m.FreeObjects(freed, [message.node_id]))

    def _serve(self, connection: Connection, message: m.RequestLocations) -> None:
        connection.send(m.Locations(message.request_id, self._stored(message.object_id)))

    def _on_node_died(self, node_id: bytes) -> None:
        heirs: dict[bytes, list[bytes]] = {}
        for object_id, stored in self._core.table.in_arenas():
            if node_id not in stored.node_ids:
                continue
            was_primary = stored.node_ids[0] == node_id
            stored.node_ids.remove(node_id)
            if was_primary and stored.node_ids:
                heirs.setdefault(stored.node_ids[0], []).append(object_id)
        for heir, object_ids in heirs.items():
            self._core.peers.raylet.send(m.KeepCopies(object_ids, heir))

    # --- the borrower, any thread --------------------

    def newer(
        self, object_id: bytes, owner: m.Address, tried: set[bytes], deadline: float | None
    ) -> m.Stored | None:
        """Where the object is, if its owner knows of a node that is not in ``tried``."""
        core = self._core
        if owner.worker_id == core.worker_id:
            stored = self._stored(object_id)
        else:
            stored = self._ask(object_id, owner, deadline)
        return stored if stored is not None and set(stored.node_ids) - tried else None

    def _ask(self, object_id: bytes, owner: m.Address, deadline: float | None) -> m.Stored | None:
        peers = self._core.peers
        waiter = Waiter()
        answer: list[m.Locations | None] = []

        def on_reply(reply: m.Locations | None) -> None:
            answer.append(reply)
            waiter.complete_one()

        def ask() -> None:
            request_id = peers.next_request()
            peers.ask(
                peers.connect(owner), ("locations", request_id),
                m.RequestLocations(request_id, object_id), on_reply,
            )  # fmt: skip

        peers.reactor.post(ask)
        left = _ASK_TIMEOUT_S if deadline is None else max(0.001, deadline - time.monotonic())
        if not peers.reactor.wait(waiter, min(left, _ASK_TIMEOUT_S)) or answer[0] is None:
            return None
        return answer[0].stored
