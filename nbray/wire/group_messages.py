"""The messages about placement groups: a process and its raylet, which speaks to the GCS."""

from __future__ import annotations

import msgspec

from nbray.wire.records import GroupSpec


class CreateGroup(msgspec.Struct, array_like=True, tag=131):
    """Process to raylet. Answered by `GroupState`, at once if the name is taken."""

    spec: GroupSpec


class WatchGroup(msgspec.Struct, array_like=True, tag=132):
    """Process to raylet: answered by `GroupState` when it is created or removed."""

    group_id: bytes


class GroupState(msgspec.Struct, array_like=True, tag=133):
    """Raylet to process: PENDING (the GCS knows it), CREATED, REMOVED; or its ``error``."""

    group_id: bytes
    state: str
    error: str = ""


class RemoveGroup(msgspec.Struct, array_like=True, tag=134):
    """Process to raylet; what was asked before is done before."""

    group_id: bytes
