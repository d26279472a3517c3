"""Why something failed: a kind and facts, the same on every wire.

Whoever sees an end makes a `Cause`; whoever decides reads its kind and its facts, never its text,
which is for people. What becomes of it for a user is in one table, `nbray.core_worker.failures`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from nbray.wire.records import Size


class CauseKind(StrEnum):
    """What happened."""

    # to a process
    ENDED = "ended"  # nobody of the cluster ended it
    OUT_OF_MEMORY = "out_of_memory"  # its raylet ended it, before memory ran out
    NODE_DIED = "node_died"
    UNREACHABLE = "unreachable"  # it may live, but not for us
    # to an actor
    KILLED = "killed"  # by `nbray.kill`
    LEFT = "left"  # it wished to end
    NO_HANDLES = "no_handles"
    CONSTRUCTOR_RAISED = "constructor_raised"
    OWNER_DIED = "owner_died"
    JOB_ENDED = "job_ended"
    ENDED_WITH_GROUP = "ended_with_group"  # it ran in a placement group that was removed
    UNKNOWN_ACTOR = "unknown_actor"
    # to what was to start
    RUNTIME_ENV = "runtime_env"
    NO_WORKER = "no_worker"
    UNSCHEDULABLE = "unschedulable"
    GROUP_REMOVED = "group_removed"
    SUPERSEDED = "superseded"  # it is not wanted any more, or is started elsewhere
    # to an object
    STORE_FULL = "store_full"
    DISK_FULL = "disk_full"
    LOST = "lost"
    # to a part of nbray
    FAULT = "fault"


class Cause(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """Why something failed.

    Attributes:
        kind: what happened.
        text: the same for people, with what only people read.
        pid: of the process that ended, if one did.
        node_id: where it was.
        signal: what ended it; 0 if it was none.
        exit_status: with what it ended by itself; None if it did not, or nobody can say.
        peak_bytes: the most memory that it had.
        last_lines: what it wrote last to stderr.
        again: whether what failed may be tried once more.
    """

    kind: CauseKind
    text: str
    pid: int = 0
    node_id: bytes = b""
    signal: int = 0
    exit_status: int | None = None
    peak_bytes: Size = 0
    last_lines: str = ""
    again: bool = False

    def __str__(self) -> str:
        lines = self.last_lines.strip()
        if not lines:
            return self.text
        return f"{self.text.rstrip('.')}; its last lines of stderr:\n{lines}"
