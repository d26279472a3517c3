"""What a raylet answers when its handling of a message raised: that one fails, and says why."""

from __future__ import annotations

import logging

from nbray.raylet.process import Process
from nbray.wire import group_messages as gm
from nbray.wire import messages as m
from nbray.wire import object_messages as om
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.lease_messages import AskAssigned, Assigned

logger = logging.getLogger(__name__)


def fail(process: Process, message: m.Message, error: Exception) -> None:
    """Log it with the message's kind and its sender, and answer what waits for an answer."""
    kind = type(message).__name__
    who = f"pid {process.pid}" if process.pid else process.connection.peer
    logger.error("%s of %s could not be handled.", kind, who, exc_info=error)
    text = f"The raylet could not handle {kind}: {error!r}. See raylet.log."
    answer = _answer(message, text, Cause(CauseKind.FAULT, text))
    if answer is not None:
        process.send(answer)
    elif isinstance(message, m.RegisterWorker):
        process.connection.close(f"it could not be registered: {error!r}")


def _answer(message: m.Message, text: str, cause: Cause) -> m.Message | None:
    match message:
        case m.RequestLease():
            return m.LeaseRefused(message.request_id, cause)
        case m.RegisterDriver():
            return m.DriverRegistered(b"", b"", "", "", 0, text)
        case m.CreateActor():
            return m.ActorRegistered(message.spec.actor_id, text)
        case gm.CreateGroup():
            return gm.GroupState(message.spec.group_id, "REMOVED", text)
        case m.GcsRequest():
            return m.GcsReply(message.request_id, b"", text)
        case AskAssigned():
            return Assigned(message.request_id, {})
        case om.CreateObject():
            return om.ObjectCreated(message.object_id, 0, cause)
        case om.GetObject():
            return om.ObjectPinned(message.object_id, 0, 0, Cause(CauseKind.LOST, text))
        case om.RequestBuffer():
            return om.BufferLent(0, 0)
        case _:
            return None
