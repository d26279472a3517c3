"""Placement groups, as one process knows them: which it has asked for, and what became of them.

What became of those that this process asked for or waits for is kept until it removes them. Pure:
messages for the raylet are appended to ``decisions``.
"""

from __future__ import annotations

from collections.abc import Callable

from nbray.core_worker.decisions import Decisions, ToRaylet
from nbray.core_worker.identity import Identity
from nbray.wire.group_messages import CreateGroup, GroupState, RemoveGroup, WatchGroup
from nbray.wire.records import GroupSpec

Then = Callable[[bool], None]


class Groups:
    """The groups of one process. Under the baton, but for `is_created` and `forget`."""

    def __init__(self, me: Identity, decisions: Decisions) -> None:
        self._me = me
        self._decisions = decisions
        self._created: set[bytes] = set()
        self._asked: set[bytes] = set()
        self._waiting: dict[bytes, list[Then]] = {}

    def is_created(self, group_id: bytes) -> bool:
        """Whether it is known to be there; from any thread."""
        return group_id in self._created

    def forget(self, group_id: bytes) -> None:
        """It is about to be removed; from any thread."""
        self._created.discard(group_id)

    def create(self, spec: GroupSpec) -> None:
        """Ask for a group without waiting."""
        self._asked.add(spec.group_id)
        self._tell(CreateGroup(spec))

    def remove(self, group_id: bytes) -> None:
        """Have a group removed; what is asked of the cluster later finds it removed."""
        self._decide(group_id, False)
        self._asked.discard(group_id)
        self._tell(RemoveGroup(group_id))

    def when_decided(self, group_id: bytes, then: Then) -> None:
        """Call ``then`` with whether the group was created, or removed, now or later."""
        if group_id in self._created:
            then(True)
            return
        self._waiting.setdefault(group_id, []).append(then)
        if group_id not in self._asked:
            self._asked.add(group_id)
            self._tell(WatchGroup(group_id))

    def told(self, message: GroupState) -> None:
        """The raylet has news of a group."""
        if message.state in ("CREATED", "REMOVED"):
            self._asked.discard(message.group_id)
            self._decide(message.group_id, message.state == "CREATED")

    def _decide(self, group_id: bytes, is_created: bool) -> None:
        if is_created:
            self._created.add(group_id)
        else:
            self._created.discard(group_id)
        for then in self._waiting.pop(group_id, ()):
            then(is_created)

    def _tell(self, message: CreateGroup | RemoveGroup | WatchGroup) -> None:
        self._decisions.append(ToRaylet(self._me.address.node_id, message))
