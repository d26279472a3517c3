"""Placement groups for the threads of a program: asked for, waited for, removed.

A group is asked for without waiting, unless it has a name; the raylet passes many on at once.
"""

from __future__ import annotations

from typing import Protocol

from nbray.common.ids import return_id
from nbray.core_worker.identity import Identity
from nbray.core_worker.own.errors import error_value
from nbray.core_worker.own.table import OwnershipTable
from nbray.core_worker.ports import Inbox, RayletRequests
from nbray.core_worker.submit.groups import Groups
from nbray.core_worker.values.blocking import Waits
from nbray.core_worker.values.serialization import serialize
from nbray.exceptions import NbraySystemError, TaskPlacementGroupRemoved
from nbray.object_ref import ObjectRef, RefHome, make_ref
from nbray.wire.group_messages import CreateGroup, GroupState
from nbray.wire.records import GroupSpec, Value
from nbray.wire.waiting import Waiter


class Turns(Inbox, Waits, Protocol):
    """Work for the holder of the baton, and waits for it."""


class PlacementGroups:
    """The groups of one process; from any thread."""

    def __init__(
        self, me: Identity, home: RefHome, table: OwnershipTable, groups: Groups, turns: Turns,
        requests: RayletRequests, patience_s: float,
    ) -> None:  # fmt: skip
        """By ``patience_s`` the raylet has answered what it has to ask the GCS."""
        self._me = me
        self._home = home
        self._table = table
        self._groups = groups
        self._turns = turns
        self._requests = requests
        self._patience_s = patience_s

    def create(self, spec: GroupSpec) -> None:
        """Ask for a group; one with a name is registered when this returns.

        Raises:
            NbraySystemError: the name is taken.
        """
        if not spec.name:
            self._turns.post(lambda: self._groups.create(spec))
            return
        reply: GroupState = self._requests.request(
            ("group", spec.group_id), CreateGroup(spec), self._patience_s
        )
        if reply.error:
            raise NbraySystemError(reply.error)

    def remove(self, group_id: bytes) -> None:
        """Have a group removed; what is asked of the cluster later finds it removed."""
        self._groups.forget(group_id)
        self._turns.post(lambda: self._groups.remove(group_id))

    def wait(self, group_id: bytes, timeout: float | None) -> bool:
        """Whether the group is created within ``timeout`` seconds.

        Raises:
            NbraySystemError: it was removed.
        """
        if self._groups.is_created(group_id):
            return True
        waiter = Waiter()
        decided: list[bool] = []

        def on_decided(is_created: bool) -> None:
            decided.append(is_created)
            waiter.complete_one()

        self._turns.post(lambda: self._groups.when_decided(group_id, on_decided))
        done = self._turns.wait(waiter, timeout)
        if done and not decided[0]:
            raise NbraySystemError(
                f"Placement group {group_id.hex()} does not exist: it was removed."
            )
        return done

    def ready_ref(self, group_id: bytes, value: object) -> ObjectRef:
        """A ref that becomes ``value`` when the group is created, an error if it is removed."""
        object_id = return_id(self._me.new_task_id(), 0)
        self._table.add_owned(object_id)
        ready = Value(serialize(value).to_bytes())

        def on_decided(is_created: bool) -> None:
            outcome = ready if is_created else error_value(TaskPlacementGroupRemoved())
            self._table.complete(object_id, outcome)

        self._turns.post(lambda: self._groups.when_decided(group_id, on_decided))
        return make_ref(object_id, self._home.kin)
