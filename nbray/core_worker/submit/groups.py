"""Placement groups, as one process knows them: asked for, waited for, removed.

A group is asked for without waiting, unless it has a name; the raylet passes many on at once. What
became of those that this process asked for or waits for is kept until it removes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbray.common.ids import return_id
from nbray.core_worker.values.serialization import serialize
from nbray.exceptions import NbraySystemError, TaskPlacementGroupRemoved
from nbray.object_ref import ObjectRef
from nbray.wire.connection import Connection
from nbray.wire.messages import CreateGroup, GroupState, RemoveGroup, WatchGroup
from nbray.wire.records import GroupSpec, Value
from nbray.wire.waiting import Waiter

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker


class PlacementGroups:
    """The groups of one process; public methods from any thread."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._decided: dict[bytes, str] = {}
        self._asked: set[bytes] = set()
        self._waiters: dict[bytes, list[Waiter]] = {}
        self._refs: dict[bytes, list[tuple[bytes, Value]]] = {}
        core.peers.handlers[GroupState] = self._on_state

    def create(self, spec: GroupSpec) -> None:
        """Ask for a group; one with a name is registered when this returns.

        Raises:
            NbraySystemError: the name is taken.
        """
        core = self._core
        if spec.name:
            reply: GroupState = core.peers.request(
                ("group", spec.group_id), CreateGroup(spec), core.peers.gcs_patience_s
            )
            if reply.error:
                raise NbraySystemError(reply.error)
            return

        def act() -> None:
            self._asked.add(spec.group_id)
            core.peers.raylet.send(CreateGroup(spec))

        core.reactor.post(act)

    def remove(self, group_id: bytes) -> None:
        """Have a group removed; what is asked of the cluster later finds it removed."""

        self._decided.pop(group_id, None)

        def act() -> None:
            self._decide(group_id, "REMOVED")
            self._decided.pop(group_id, None)
            self._asked.discard(group_id)
            self._core.peers.raylet.send(RemoveGroup(group_id))

        self._core.reactor.post(act)

    def wait(self, group_id: bytes, timeout: float | None) -> bool:
        """Whether the group is created within ``timeout`` seconds.

        Raises:
            NbraySystemError: it was removed.
        """
        if self._decided.get(group_id) == "CREATED":
            return True
        waiter = Waiter()

        def act() -> None:
            if group_id in self._decided:
                waiter.complete_one()
                return
            self._waiters.setdefault(group_id, []).append(waiter)
            self._ask(group_id)

        self._core.reactor.post(act)
        done = self._core.reactor.wait(waiter, timeout)
        if done and self._decided.get(group_id) != "CREATED":
            raise NbraySystemError(
                f"Placement group {group_id.hex()} does not exist: it was removed."
            )
        return done

    def ready_ref(self, group_id: bytes, value: object) -> ObjectRef:
        """A ref that becomes ``value`` when the group is created, an error if it is removed."""
        core = self._core
        object_id = return_id(core.new_task_id(), 0)
        core.table.add_owned(object_id)
        ready = Value(serialize(value).to_bytes())

        def act() -> None:
            state = self._decided.get(group_id)
            if state is not None:
                core.table.complete(object_id, _outcome(state, ready))
                return
            self._refs.setdefault(group_id, []).append((object_id, ready))
            self._ask(group_id)

        core.reactor.post(act)
        return ObjectRef(object_id, core.address, core)

    def _ask(self, group_id: bytes) -> None:
        if group_id not in self._asked:
            self._asked.add(group_id)
            self._core.peers.raylet.send(WatchGroup(group_id))

    def _on_state(self, _raylet: Connection, message: GroupState) -> None:
        self._core.peers.answer(("group", message.group_id), message)
        if message.state in ("CREATED", "REMOVED"):
            self._asked.discard(message.group_id)
            self._decide(message.group_id, message.state)

    def _decide(self, group_id: bytes, state: str) -> None:
        if state == "CREATED":
            self._decided[group_id] = state
        for waiter in self._waiters.pop(group_id, ()):
            waiter.complete_one()
        for object_id, ready in self._refs.pop(group_id, ()):
            self._core.table.complete(object_id, _outcome(state, ready))


def _outcome(state: str, ready: Value) -> Value:
    if state == "CREATED":
        return ready
    return Value(serialize(TaskPlacementGroupRemoved()).to_bytes(), None, True)
