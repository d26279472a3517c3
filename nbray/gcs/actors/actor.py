"""One actor, in memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeVar

from nbray.gcs.actors.life import ActorLife
from nbray.wire.gcs_messages import CreateActorRequest
from nbray.wire.records import ActorSpec, JobConfig


@dataclass(slots=True)
class Actor:
    """One actor: what it is made of, its life, and who is at work for it.

    ``refused``: a node that was asked for it had no room.
    """

    spec: ActorSpec
    job: JobConfig
    life: ActorLife
    unplaced_since: float = 0.0
    refused: bool = False
    placer: asyncio.Task[None] | None = None
    _changed: asyncio.Event | None = None

    def changes(self) -> asyncio.Event:
        """It is set at the next change of its state."""
        if self._changed is None:
            self._changed = asyncio.Event()
        return self._changed

    def has_changed(self) -> None:
        """Those that wait for a change go on."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None


_Part = TypeVar("_Part")


def _same(former: _Part, part: _Part) -> _Part:
    return former if former == part else part


class Alike:
    """What an actor has in common with the one before it, for all that a program makes in a row.

    Each comes with a whole description, of which little is its own: ten thousand of a class have
    its pickle, the module path of their program and their options once.
    """

    def __init__(self) -> None:
        self._last: CreateActorRequest | None = None

    def share(self, request: CreateActorRequest) -> CreateActorRequest:
        """The same, of the parts of the last one where they are equal; nobody changes those."""
        last, self._last = self._last, request
        if last is not None:
            request.job = _same(last.job, request.job)
            before, spec = last.spec, request.spec
            spec.job_id = _same(before.job_id, spec.job_id)
            spec.class_name = _same(before.class_name, spec.class_name)
            spec.class_pickle = _same(before.class_pickle, spec.class_pickle)
            spec.args = _same(before.args, spec.args)
            spec.methods = _same(before.methods, spec.methods)
            spec.options = _same(before.options, spec.options)
            spec.owner = _same(before.owner, spec.owner)
        return request
