"""The actors that this process creates: registered at once, made when their arguments are there.

A handle exists, can be called and can be found by its name before the refs among the constructor's
arguments have values; the GCS gives the actor no place until this process says that they have.
"""

from __future__ import annotations

from collections.abc import Callable

from nbray.core_worker.dependencies import Dependencies
from nbray.core_worker.identity import Identity
from nbray.core_worker.ports import Inbox, Raylet, RayletRequests
from nbray.exceptions import NbraySystemError
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.frames import UnsendableError
from nbray.wire.messages import ActorReady, ActorRegistered, CreateActor
from nbray.wire.records import ActorSpec, Dependency


class PendingActor:
    """An actor whose constructor's arguments are not all there."""

    __slots__ = ("spec", "unresolved")

    def __init__(self, spec: ActorSpec) -> None:
        self.spec = spec
        self.unresolved = 0

    @property
    def dependencies(self) -> tuple[Dependency, ...]:
        """Its ref arguments."""
        return self.spec.dependencies


class ActorCreations:
    """Registers actors at the GCS, through the raylet."""

    def __init__(
        self, me: Identity, inbox: Inbox, raylet: Raylet, requests: RayletRequests,
        dependencies: Dependencies, count: Callable[[], None],
        never_made: Callable[[bytes, Cause], None], patience_s: float,
    ) -> None:  # fmt: skip
        """``count`` counts the refs that died; ``never_made`` fails the calls of an actor.

        By ``patience_s`` the raylet has answered what it has to ask the GCS.
        """
        self._me = me
        self._inbox = inbox
        self._raylet = raylet
        self._requests = requests
        self._dependencies = dependencies
        self._count = count
        self._never_made = never_made
        self._patience_s = patience_s

    def create(self, spec: ActorSpec) -> str:
        """Register an actor; if it has a name, only return once the GCS has it. From any thread.

        Returns:
            who has its name, as a sentence, if that is taken; the actor is not there then.

        Raises:
            NbraySystemError: it cannot be registered.
        """
        if not spec.options.name:
            self._inbox.post(lambda: self._register(spec))
            return ""
        self._inbox.post(self._count)
        waits = bool(spec.dependencies)
        reply: ActorRegistered = self._requests.request(
            ("actor", spec.actor_id),
            CreateActor(spec, self._me.job, waits),
            self._patience_s,
        )
        if reply.error and not reply.taken:
            raise NbraySystemError(reply.error)
        if waits and not reply.error:
            self._inbox.post(lambda: self._resolve_registered(spec))
        return reply.error

    def _register(self, spec: ActorSpec) -> None:
        pending = PendingActor(spec)
        there = self._dependencies.resolve(pending, lambda: self._ready(spec))
        self._send(spec, CreateActor(spec, self._me.job, not there))

    def _resolve_registered(self, spec: ActorSpec) -> None:
        pending = PendingActor(spec)
        if self._dependencies.resolve(pending, lambda: self._ready(spec)):
            self._ready(spec)

    def _ready(self, spec: ActorSpec) -> None:
        """The last argument is there; of an actor that has ended meanwhile, nobody minds."""
        self._send(spec, ActorReady(spec.actor_id, spec.dependencies))

    def _send(self, spec: ActorSpec, message: CreateActor | ActorReady) -> None:
        try:
            self._raylet.to_raylet(message)
        except UnsendableError as error:
            self._never_made(spec.actor_id, Cause(CauseKind.FAULT, str(error)))
