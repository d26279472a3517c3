"""How the workers and drivers of a node ended: with Ray's kinds of ends, the newest of them.

Whoever ends a process says why, and the first word counts: a worker that was asked to leave and
then killed left as it was asked to. What nobody meant is told by the process's exit status.
"""

from __future__ import annotations

import signal
from typing import NamedTuple

from nbray.wire.causes import Cause, CauseKind


class Exit(NamedTuple):
    """Why a process ends: one of Ray's kinds, and a sentence."""

    kind: str
    detail: str


IDLE = Exit("INTENDED_SYSTEM_EXIT", "The worker was ended because it was idle.")
JOB_OVER = Exit("INTENDED_SYSTEM_EXIT", "The worker was ended because its job has ended.")
GROUP_REMOVED = Exit(
    "INTENDED_SYSTEM_EXIT", "The worker was ended because its placement group was removed."
)
OWNER_GONE = Exit(
    "INTENDED_SYSTEM_EXIT", "The worker was ended because the owner of what ran in it has gone."
)
PLACED_ANEW = Exit(
    "INTENDED_SYSTEM_EXIT", "The worker was ended because its actor is created anew elsewhere."
)
WORN_OUT = Exit("INTENDED_USER_EXIT", "The worker left because a function reached its `max_calls`.")


def of_constructor(cause: Cause) -> Exit:
    """An actor's constructor ended it, or raised; the last line of its error says what."""
    if cause.kind is CauseKind.LEFT:
        return Exit("INTENDED_USER_EXIT", f"The actor left: {cause}.")
    last = cause.text.strip().rpartition("\n")[2]
    return Exit(
        "USER_ERROR",
        "The worker was ended because there was an exception in the initialization method of its "
        f"actor: {last}",
    )


def of_worker(meant: Exit | None, cause: Cause) -> Exit:
    """How a worker ended: as somebody ``meant`` it to, if anybody did, or as its parent knows."""
    if cause.kind is CauseKind.OUT_OF_MEMORY:
        return Exit("NODE_OUT_OF_MEMORY", cause.text)
    if meant is not None:
        return meant
    if cause.signal:
        name = signal.Signals(cause.signal).name
        killed = " Perhaps the system's OOM killer ended it." if name == "SIGKILL" else ""
        return Exit("SYSTEM_ERROR", f"The process was ended by the signal {name}.{killed}")
    code = cause.exit_status
    if code is None:
        return Exit("SYSTEM_ERROR", "The process ended, and nobody can say how.")
    kind = "SYSTEM_ERROR" if code else "INTENDED_USER_EXIT"
    return Exit(kind, f"The process ended by itself, with exit code {code}.")
