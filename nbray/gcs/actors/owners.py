"""Which processes have created which actors: those end with them."""

from __future__ import annotations

from nbray.gcs.actors.life import ActorLife, State
from nbray.wire.records import ActorSpec


class ActorOwners:
    """The actors of each process that end with it.

    A detached one is among them only as long as it waits for arguments: nobody else knows them.
    """

    def __init__(self) -> None:
        self._made_by: dict[bytes, set[bytes]] = {}

    def add(self, spec: ActorSpec, life: ActorLife) -> None:
        """An actor was registered."""
        if not spec.options.detached or life.state is State.DEPENDENCIES_UNREADY:
            self._made_by.setdefault(spec.owner.worker_id, set()).add(spec.actor_id)

    def ready(self, spec: ActorSpec) -> None:
        """It has its arguments."""
        if spec.options.detached:
            self.forget(spec)

    def forget(self, spec: ActorSpec) -> None:
        """It is dead, or stays when its creator has gone."""
        owner = spec.owner.worker_id
        actors = self._made_by.get(owner, set())
        actors.discard(spec.actor_id)
        if not actors:
            self._made_by.pop(owner, None)

    def made_by(self, worker_id: bytes) -> list[bytes]:
        """The actors that end with that process."""
        return list(self._made_by.get(worker_id, ()))
