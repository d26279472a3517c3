"""All actors of the cluster: placed, restarted, found by name, waited for, ended.

What an actor may go through is decided in `life`. Here it is carried out, so that a GCS
killed at any moment changes nothing: the node that is asked to start an attempt is stored before
it is asked, and asked again by a GCS that comes back. The raylet makes one process for an attempt,
however often it is asked, and answers for it. What it has and should not have, it is told to end
when it first reports to a GCS that came back (`reconcile`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import structs

from nbray.common.background import Background
from nbray.gcs.actors import placer
from nbray.gcs.actors.actor import Actor, Alike
from nbray.gcs.actors.life import ActorLife, State
from nbray.gcs.actors.owners import ActorOwners
from nbray.gcs.actors.placement import ActorPlacement, shape_of
from nbray.gcs.actors.placer import Placer
from nbray.gcs.actors.processes import NOT_WANTED, ActorProcesses
from nbray.gcs.actors.rows import actor_rows, unplaced_rows
from nbray.gcs.storage import Store, Table
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.gcs_messages import (
    ActorReadyRequest,
    ActorStarted,
    CreateActorRequest,
    Empty,
    FoundActor,
    KillActorRequest,
    NamedActor,
    Outcome,
    WaitActor,
    WorkerDied,
)
from nbray.wire.grpc_service import GrpcClient, Handler
from nbray.wire.messages import ActorState
from nbray.wire.records import ActorSpec, Address, NodeInfo
from nbray.wire.state_messages import ActorRow, DemandRow
from nbray.wire.strategies import InGroup, Shape

logger = logging.getLogger(__name__)

_OWNER_DIED = Cause(CauseKind.OWNER_DIED, "its owner has died")
_JOB_ENDED = Cause(CauseKind.JOB_ENDED, "its driver has ended")
_AWAY = Cause(CauseKind.ENDED, "its worker ended while the GCS was away")
_UNKNOWN = Cause(CauseKind.UNKNOWN_ACTOR, "it is not known to the cluster")
_DEAD_KEPT = 1000
_KNOWN_WITHIN_S = 5.0


class Surroundings(placer.Surroundings, Protocol):
    """What the table of actors asks and tells of jobs and groups."""

    def job_is_over(self, job_id: bytes) -> bool:
        """Whether the driver of a job has gone."""

    def actor_lost(self, actor_id: bytes, restarts: bool) -> None:
        """An actor lost its process, and has another or none."""

    def name_changed(self, name: NamedActor, found: FoundActor) -> None:
        """An actor has a name, or nobody has it: told before anybody can know of it."""


class ActorTable:
    """All actors of the cluster, and the GCS methods about them.

    ``nodes`` gives the node rows, ``raylet`` the client of a node; ``failed`` is called with an
    actor that died without being told to, its node, and why.
    """

    def __init__(
        self,
        nodes: Callable[[], list[NodeInfo]],
        raylet: Callable[[NodeInfo], GrpcClient],
        store: Store,
        around: Surroundings,
        failed: Callable[[ActorSpec, bytes, Cause], None],
    ) -> None:
        self.placement = ActorPlacement(nodes, random.Random())
        self._processes = ActorProcesses(nodes, raylet)
        self._nodes = nodes
        self._store = store
        self._around = around
        self._failed = failed
        self._lives = Table(store, "actors", ActorLife)
        self._specs = Table(store, "actor_specs", CreateActorRequest)
        self._placer = Placer(
            nodes, self.placement, self._processes, store, self._lives, around, self
        )
        self._actors: dict[bytes, Actor] = {}
        self._alike = Alike()
        self._names: dict[tuple[str, str], bytes] = {}
        self._dead: deque[bytes] = deque()
        self._owners = ActorOwners()
        self._background = Background()
        self._load()

    def _load(self) -> None:
        specs = self._specs.all()
        lives = [life for life in self._lives.all().values() if life.actor_id in specs]
        for life in sorted(lives, key=lambda life: life.ended):
            made = self._alike.share(specs[life.actor_id])
            self._actors[life.actor_id] = Actor(made.spec, made.job, life)
            options = made.spec.options
            if life.state is State.DEAD:
                self._dead.append(life.actor_id)
                continue
            self._owners.add(made.spec, life)
            if options.name:
                self._names[(options.namespace, options.name)] = life.actor_id

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The methods, for the gRPC server."""
        return {
            "CreateActor": (CreateActorRequest, self._create),
            "WaitActor": (WaitActor, self._wait),
            "KillActor": (KillActorRequest, self._background.wholly(self._kill_on_request)),
            "ActorReady": (ActorReadyRequest, self._ready),
            "FindActor": (NamedActor, self._find),
            "WorkerDied": (WorkerDied, self._worker_died),
        }

    def living_jobs(self) -> set[bytes]:
        """The jobs of which an actor lives, or may again."""
        actors = self._actors.values()
        return {actor.spec.job_id for actor in actors if actor.life.state is not State.DEAD}

    def resume(self) -> None:
        """Go on after a restart: what waited for a process, and what was lost meanwhile."""
        alive = {node.node_id for node in self._nodes() if node.alive}
        for actor in list(self._actors.values()):
            life = actor.life
            if actor.spec.options.placing and life.node_id():
                self.placement.stands(life.actor_id, life.node_id())
            if life.state is State.ALIVE and life.node_id() not in alive:
                died = Cause(CauseKind.NODE_DIED, "its node died", node_id=life.node_id())
                self._lost(actor, died)
            elif life.unplaced:
                self._placer.place_soon(actor)

    # --- created --------------------

    async def _create(self, request: CreateActorRequest) -> Outcome:
        """Register an actor and start to place it; a second time, only the answer is given."""
        outcome = self._register(request)
        await self._store.durable()
        return outcome

    def _register(self, request: CreateActorRequest) -> Outcome:
        spec = request.spec
        options = spec.options
        key = (options.namespace, options.name)
        if spec.actor_id in self._actors:
            return Outcome()
        if self._around.job_is_over(spec.job_id) and not (
            options.detached or self._is_actor(spec.owner)
        ):
            return Outcome("Its job has ended.")
        if options.name:
            if key in self._names:
                return Outcome(
                    f"The name {options.name} (namespace={options.namespace}) is already taken. "
                    "Please use a different name or get the existing actor using "
                    f"ray.get_actor('{options.name}', namespace='{options.namespace}')",
                    taken=True,
                )
            self._names[key] = spec.actor_id
            self._around.name_changed(NamedActor(options.name, options.namespace), _found(spec))
        state = State.DEPENDENCIES_UNREADY if request.waits else State.PENDING
        life = ActorLife(spec.actor_id, options.max_restarts, state)
        self._alike.share(request)
        actor = self._actors[spec.actor_id] = Actor(spec, request.job, life)
        self._owners.add(spec, life)
        self._specs.put(spec.actor_id, request)
        self._lives.put(spec.actor_id, life)
        if life.unplaced:
            self._placer.place_soon(actor)
        return Outcome()

    async def _ready(self, request: ActorReadyRequest) -> Empty:
        """The arguments of its constructor are there: an actor is placed."""
        actor = self._actors.get(request.actor_id)
        if actor is not None and actor.life.state is State.DEPENDENCIES_UNREADY:
            actor.spec.dependencies = request.dependencies
            self._specs.put(request.actor_id, CreateActorRequest(actor.spec, actor.job))
            actor.life.ready(time.time())
            self._owners.ready(actor.spec)
            self._changed(actor)
            self._placer.place_soon(actor)
        await self._store.durable()
        return Empty()

    def _is_actor(self, owner: Address) -> bool:
        """Whether an actor lives there; a detached one may create actors when its job is over."""
        return any(
            actor.life.address is not None and actor.life.address.worker_id == owner.worker_id
            for actor in self._actors.values()
        )

    def may_live(self, actor_id: bytes) -> bool:
        """Whether an actor is not dead."""
        actor = self._actors.get(actor_id)
        return actor is not None and actor.life.state is not State.DEAD

    def group_removed(self, group_id: bytes) -> None:
        """A placement group was removed: its actors end."""
        for actor in list(self._actors.values()):
            strategy = actor.spec.options.strategy
            if (
                isinstance(strategy, InGroup)
                and strategy.group_id == group_id
                and actor.life.state is not State.DEAD
            ):
                self.group_is_gone(actor)

    def group_is_gone(self, actor: Actor) -> None:
        """Its placement group was removed."""
        alive = actor.life.state is State.ALIVE
        kind = CauseKind.ENDED_WITH_GROUP if alive else CauseKind.GROUP_REMOVED
        self._end_with_process(actor, Cause(kind, "its placement group was removed"))

    def _owner_died(self, worker_id: bytes) -> None:
        for actor_id in self._owners.made_by(worker_id):
            self._end_with_process(self._actors[actor_id], _OWNER_DIED)

    def _end_with_process(self, actor: Actor, cause: Cause) -> None:
        life = actor.life
        node_id, attempt = life.node_id(), life.restarts
        self.end(actor, cause)
        if node_id:
            self._background.start(self._processes.end(node_id, life.actor_id, attempt, cause))

    def answered(self, actor: Actor, started: ActorStarted) -> None:
        """The node that was asked for a process has made it, or has not."""
        actor.refused = False
        if started.address is not None:
            actor.life.start(started.address, started.pid, time.time())
            actor.life.shown = started.shown
            self._changed(actor)
            return
        cause = started.cause
        assert cause is not None
        if cause.again:
            self._lost(actor, cause)
        else:
            self.end(actor, cause)
            if cause.kind is not CauseKind.LEFT:
                self._failed(actor.spec, b"", cause)

    # --- lost and ended --------------------

    def _changed(self, actor: Actor) -> None:
        """Store a new state and tell those who wait for it."""
        life = actor.life
        self._lives.put(life.actor_id, life)
        if not life.node_id():
            self.placement.left(life.actor_id)
        actor.has_changed()
        if life.state is not State.DEAD:
            return
        self._around.actor_lost(life.actor_id, restarts=False)
        self._owners.forget(actor.spec)
        options = actor.spec.options
        if self._names.get((options.namespace, options.name)) == life.actor_id:
            del self._names[(options.namespace, options.name)]
            name = NamedActor(options.name, options.namespace)
            self._around.name_changed(name, FoundActor(b""))
        # Of the dead, only what is shown is kept.
        actor.spec = structs.replace(
            actor.spec, class_pickle=b"", args=b"", dependencies=(), contained=(), methods={}
        )
        self._specs.put(life.actor_id, CreateActorRequest(actor.spec, actor.job))
        self._dead.append(life.actor_id)
        if len(self._dead) > _DEAD_KEPT:
            oldest = self._dead.popleft()
            self._actors.pop(oldest, None)
            self._lives.delete(oldest)
            self._specs.delete(oldest)

    def _lost(self, actor: Actor, cause: Cause, process_lives: bool = False) -> None:
        """Its process is lost: it has another, once this one has ended, or it is dead."""
        life = actor.life
        node_id, attempt = life.node_id(), life.restarts
        again = life.lose(cause, time.time())
        self._changed(actor)
        ending = None
        if process_lives:
            ending = self._processes.end_surely(node_id, life.actor_id, attempt, cause)
        if again:
            self._around.actor_lost(life.actor_id, restarts=True)
            self._placer.place_soon(actor, ending)
        else:
            if ending is not None:
                self._background.start(ending)
            self._failed(actor.spec, node_id, cause)

    def end(self, actor: Actor, cause: Cause) -> None:
        """It does not come back."""
        actor.life.end(cause, time.time())
        self._changed(actor)

    async def _worker_died(self, request: WorkerDied) -> Empty:
        """Restart or bury the actor of a dead worker, and end those that it created."""
        self._owner_died(request.worker_id)
        actor = self._actors.get(request.actor_id)
        if (
            actor is not None
            and actor.life.restarts == request.attempt
            and actor.life.state is not State.DEAD
        ):
            self._lost(actor, request.cause)
        await self._store.durable()
        return Empty()

    async def node_died(self, node_id: bytes, cause: Cause) -> None:
        """All workers of a node are gone."""
        self._processes.node_died(node_id)
        for actor in list(self._actors.values()):
            life = actor.life
            if life.address is not None and life.address.node_id == node_id:
                self._lost(actor, cause)
            elif life.placing == node_id:
                life.placing = b""
                self._lives.put(life.actor_id, life)
        owners = {a.spec.owner for a in self._actors.values() if a.spec.owner.node_id == node_id}
        for owner in owners:
            self._owner_died(owner.worker_id)

    async def _kill_on_request(self, request: KillActorRequest) -> Empty:
        await self._kill(request)
        return Empty()

    async def _kill(self, request: KillActorRequest) -> None:
        """End an actor's process; with ``no_restart``, for good."""
        actor = await self._known(request.actor_id)
        if actor is None or actor.life.state is State.DEAD:
            return
        life = actor.life
        if not life.note_kill(request.request_id):
            await self._store.durable()
            return
        node_id, attempt = life.node_id(), life.restarts
        if request.no_restart:
            self.end(actor, request.cause)
        elif life.state is State.ALIVE:
            self._lost(actor, request.cause, process_lives=True)
        else:
            return
        await self._store.durable()
        if node_id and request.no_restart:
            await self._processes.end(
                node_id, life.actor_id, attempt, request.cause, request.graceful
            )

    async def finish_job(self, job_id: bytes) -> None:
        """The driver left: its actors end, but for the detached."""
        await asyncio.gather(
            *(
                self._kill(KillActorRequest(actor.spec.actor_id, True, _JOB_ENDED))
                for actor in list(self._actors.values())
                if actor.spec.job_id == job_id and not self._outlives_job(actor)
            )
        )

    def _outlives_job(self, actor: Actor) -> bool:
        """Whether it is detached, and waits for no arguments of the driver that has left."""
        waits = actor.life.state is State.DEPENDENCIES_UNREADY
        return actor.spec.options.detached and not (waits and actor.spec.owner == actor.job.driver)

    async def reconcile(self, node: NodeInfo) -> None:
        """Compare a node with the table, once after a restart."""
        expected = [
            (actor, actor.life.restarts)
            for actor in self._actors.values()
            if actor.life.address is not None and actor.life.address.node_id == node.node_id
        ]
        here = await self._processes.on(node)
        if here is None:
            return
        found = {(row.actor_id, row.attempt) for row in here.rows if not row.ended}
        causes = {(row.actor_id, row.attempt): row.ended for row in here.rows if row.ended}
        for row in here.rows:
            if row.ended:
                continue
            actor = self._actors.get(row.actor_id)
            if (
                actor is None
                or actor.life.restarts != row.attempt
                or actor.life.node_id() != node.node_id
            ):
                logger.warning("Actor %s should not be there any more.", row.actor_id.hex())
                await self._processes.end(node.node_id, row.actor_id, row.attempt, NOT_WANTED)
        for actor, attempt in expected:
            life = actor.life
            missing = (life.actor_id, attempt) not in found
            if missing and life.state is State.ALIVE and life.restarts == attempt:
                self._lost(actor, causes.get((life.actor_id, attempt), _AWAY))

    # --- asked --------------------

    async def _known(self, actor_id: bytes) -> Actor | None:
        """An actor; a handle may arrive before the registration."""
        deadline = time.monotonic() + _KNOWN_WITHIN_S
        while actor_id not in self._actors and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        return self._actors.get(actor_id)

    async def _wait(self, request: WaitActor) -> ActorState:
        """The state, once it is newer than what is known."""
        actor_id = request.actor_id
        actor = await self._known(actor_id)
        if actor is None:
            return ActorState(actor_id, 1 << 30, "DEAD", None, _UNKNOWN)
        life = actor.life
        waits = (State.DEPENDENCIES_UNREADY, State.PENDING)
        while life.version <= request.after or life.state in waits:
            await actor.changes().wait()
        answer = ActorState(actor_id, life.version, life.state, life.address, life.cause)
        await self._store.durable()
        return answer

    def _find(self, request: NamedActor) -> FoundActor:
        """The actor of a name."""
        actor_id = self._names.get((request.namespace, request.name))
        if actor_id is None:
            return FoundActor(b"")
        return _found(self._actors[actor_id].spec)

    # --- the state API --------------------

    def rows(self) -> list[ActorRow]:
        """All actors: those that live, and the newest that died."""
        return actor_rows(self._actors.values(), self._nodes())

    def unplaced(self) -> list[DemandRow]:
        """The actors for which no node has the resources at all, by shape."""
        return unplaced_rows(self._actors.values())

    def refused(self) -> Counter[Shape]:
        """How many actors were refused by a node that had no room, and have no process yet."""
        return Counter(
            shape_of(actor.spec.options)
            for actor in self._actors.values()
            if actor.refused and actor.life.unplaced
        )


def _found(spec: ActorSpec) -> FoundActor:
    """What is told of an actor that is asked for by its name."""
    return FoundActor(
        spec.actor_id, spec.class_name, spec.methods, spec.options.max_task_retries,
        spec.options.max_pending_calls,
    )  # fmt: skip
