"""The actors that this process creates: registered at once, made when their arguments are there.

A handle exists, can be called and can be found by its name before the refs among the constructor's
arguments have values; the GCS gives the actor no place until this process says that they have.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nbray.exceptions import NbraySystemError
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.frames import UnsendableError
from nbray.wire.messages import ActorReady, ActorRegistered, CreateActor
from nbray.wire.records import ActorSpec

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker

logger = logging.getLogger(__name__)


class PendingActor:
    """An actor whose constructor's arguments are not all there."""

    __slots__ = ("spec", "unresolved")

    def __init__(self, spec: ActorSpec) -> None:
        self.spec = spec
        self.unresolved = 0


class ActorCreations:
    """Registers actors at the GCS, through the raylet."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        core.peers.handlers[ActorRegistered] = lambda _peer, reply: core.peers.answer(
            ("actor", reply.actor_id), reply
        )

    def create(self, spec: ActorSpec) -> str:
        """Register an actor; if it has a name, only return once the GCS has it. From any thread.

        Returns:
            who has its name, as a sentence, if that is taken; the actor is not there then.

        Raises:
            NbraySystemError: it cannot be registered.
        """
        core = self._core
        if not spec.options.name:
            core.reactor.post(lambda: self._register(spec))
            return ""
        core.references.count_soon()
        waits = bool(spec.dependencies)
        reply: ActorRegistered = core.peers.request(
            ("actor", spec.actor_id),
            CreateActor(spec, core.job, waits),
            core.peers.gcs_patience_s,
        )
        if reply.error and not reply.taken:
            raise NbraySystemError(reply.error)
        if waits and not reply.error:
            core.reactor.post(lambda: self._resolve_registered(spec))
        return reply.error

    def _register(self, spec: ActorSpec) -> None:
        pending = PendingActor(spec)
        there = self._core.dependencies.resolve_actor(pending, lambda: self._ready(spec))
        self._send(spec, CreateActor(spec, self._core.job, not there))

    def _resolve_registered(self, spec: ActorSpec) -> None:
        pending = PendingActor(spec)
        if self._core.dependencies.resolve_actor(pending, lambda: self._ready(spec)):
            self._ready(spec)

    def _ready(self, spec: ActorSpec) -> None:
        """The last argument is there; of an actor that has ended meanwhile, nobody minds."""
        self._send(spec, ActorReady(spec.actor_id, spec.dependencies))

    def _send(self, spec: ActorSpec, message: CreateActor | ActorReady) -> None:
        try:
            self._core.peers.raylet.send(message)
        except UnsendableError as error:
            self._core.actor_calls.never_made(spec.actor_id, Cause(CauseKind.FAULT, str(error)))
