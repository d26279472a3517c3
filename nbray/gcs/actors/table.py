"""All actors of the cluster: placed, restarted, found by name, waited for, ended.

What an actor may go through is decided in `actor_life`. Here it is carried out, so that a GCS
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
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from nbray.common.background import Background
from nbray.gcs.actors.life import ActorLife, State
from nbray.gcs.actors.owners import ActorOwners
from nbray.gcs.actors.placement import ActorPlacement, demand_of
from nbray.gcs.actors.processes import ActorProcesses
from nbray.gcs.actors.rows import actor_rows, unplaced_rows
from nbray.gcs.storage import StorageError, Store, Table
from nbray.scheduling.explain import infeasible_text
from nbray.scheduling.policy import Choice, Verdict
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.gcs_messages import (
    ActorReadyRequest,
    ActorStarted,
    CreateActorRequest,
    FoundActor,
    KillActorRequest,
    NamedActor,
    Outcome,
    StartActor,
    WorkerDied,
)
from nbray.wire.grpc_service import GrpcClient
from nbray.wire.messages import ActorState
from nbray.wire.records import ActorSpec, Address, JobConfig, NodeInfo
from nbray.wire.state_messages import ActorRow, DemandRow
from nbray.wire.strategies import InGroup

logger = logging.getLogger(__name__)

_NOT_WANTED = Cause(CauseKind.SUPERSEDED, "it was not wanted any more when it had started")
_OWNER_DIED = Cause(CauseKind.OWNER_DIED, "its owner has died")
_JOB_ENDED = Cause(CauseKind.JOB_ENDED, "its driver has ended")
_AWAY = Cause(CauseKind.ENDED, "its worker ended while the GCS was away")
_UNKNOWN = Cause(CauseKind.UNKNOWN_ACTOR, "it is not known to the cluster")
_DEAD_KEPT = 1000
_RETRY_S = 0.2
_KNOWN_WITHIN_S = 5.0
_LONGEST_WAIT_S = 5.0


@dataclass
class Actor:
    """One actor: what it is made of, its life, and who is at work for it."""

    spec: ActorSpec
    job: JobConfig
    life: ActorLife
    unplaced_since: float = 0.0
    placer: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class ActorTable:
    """All actors of the cluster.

    ``nodes`` gives the node rows, ``raylet`` the client of a node, ``job_ended`` whether a job is
    over; ``warn`` shows a driver why something of its job waits.
    """

    def __init__(
        self,
        nodes: Callable[[], list[NodeInfo]],
        raylet: Callable[[NodeInfo], GrpcClient],
        store: Store,
        job_ended: Callable[[bytes], bool],
        warn: Callable[[JobConfig, str], Awaitable[None]],
    ) -> None:
        self.placement = ActorPlacement(nodes, random.Random())
        self._processes = ActorProcesses(nodes, raylet, self.placement)
        self._warn = warn
        self._nodes = nodes
        self._store = store
        self._job_ended = job_ended
        self._lives = Table(store, "actors", ActorLife)
        self._specs = Table(store, "actor_specs", CreateActorRequest)
        self._actors: dict[bytes, Actor] = {}
        self._names: dict[tuple[str, str], bytes] = {}
        self._dead: deque[bytes] = deque()
        self._owners = ActorOwners()
        self._background = Background()
        self.on_failed: Callable[[ActorSpec, bytes, Cause], None] = lambda spec, node_id, cause: (
            None
        )
        self.on_dead: Callable[[bytes], None] = lambda actor_id: None
        self.on_restart: Callable[[bytes], None] = lambda actor_id: None
        self.group_is_removed: Callable[[bytes], bool | None] = lambda group_id: None
        self._load()

    def _load(self) -> None:
        specs = self._specs.all()
        lives = [life for life in self._lives.all().values() if life.actor_id in specs]
        for life in sorted(lives, key=lambda life: life.ended):
            made = specs[life.actor_id]
            self._actors[life.actor_id] = Actor(made.spec, made.job, life)
            options = made.spec.options
            if life.state is State.DEAD:
                self._dead.append(life.actor_id)
                continue
            self._owners.add(made.spec, life)
            if options.name:
                self._names[(options.namespace, options.name)] = life.actor_id

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
                self._place_soon(actor)

    # --- created --------------------

    async def create(self, request: CreateActorRequest) -> Outcome:
        """Register an actor and start to place it; a second time, only the answer is given."""
        outcome = self._create(request)
        await self._store.durable()
        return outcome

    def _create(self, request: CreateActorRequest) -> Outcome:
        spec = request.spec
        options = spec.options
        key = (options.namespace, options.name)
        if spec.actor_id in self._actors:
            return Outcome()
        if self._job_ended(spec.job_id) and not (options.detached or self._is_actor(spec.owner)):
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
        state = State.DEPENDENCIES_UNREADY if request.waits else State.PENDING
        life = ActorLife(spec.actor_id, options.max_restarts, state)
        actor = self._actors[spec.actor_id] = Actor(spec, request.job, life)
        self._owners.add(spec, life)
        self._specs.put(spec.actor_id, request)
        self._lives.put(spec.actor_id, life)
        if life.unplaced:
            self._place_soon(actor)
        return Outcome()

    async def ready(self, request: ActorReadyRequest) -> None:
        """The arguments of its constructor are there: an actor is placed."""
        actor = self._actors.get(request.actor_id)
        if actor is not None and actor.life.state is State.DEPENDENCIES_UNREADY:
            actor.spec.dependencies = request.dependencies
            self._specs.put(request.actor_id, CreateActorRequest(actor.spec, actor.job))
            actor.life.ready(time.time())
            self._owners.ready(actor.spec)
            self._changed(actor)
            self._place_soon(actor)
        await self._store.durable()

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

    def _is_group_gone(self, actor: Actor, strategy: InGroup) -> bool:
        """Whether its group was removed; one that nobody knows may be about to be registered."""
        removed = self.group_is_removed(strategy.group_id)
        waited = time.monotonic() - actor.unplaced_since if actor.unplaced_since else 0.0
        return waited > _KNOWN_WITHIN_S if removed is None else removed

    async def group_removed(self, group_id: bytes) -> None:
        """A placement group was removed: its actors end."""
        for actor in list(self._actors.values()):
            strategy = actor.spec.options.strategy
            if (
                isinstance(strategy, InGroup)
                and strategy.group_id == group_id
                and actor.life.state is not State.DEAD
            ):
                self._end_with_group(actor)

    def _end_with_group(self, actor: Actor) -> None:
        alive = actor.life.state is State.ALIVE
        kind = CauseKind.ENDED_WITH_GROUP if alive else CauseKind.GROUP_REMOVED
        self._end_with_process(actor, Cause(kind, "its placement group was removed"))

    def _owner_died(self, worker_id: bytes) -> None:
        for actor_id in self._owners.made_by(worker_id):
            self._end_with_process(self._actors[actor_id], _OWNER_DIED)

    def _end_with_process(self, actor: Actor, cause: Cause) -> None:
        life = actor.life
        node_id, attempt = life.node_id(), life.restarts
        self._end(actor, cause)
        if node_id:
            self._background.start(self._processes.end(node_id, life.actor_id, attempt, cause))

    # --- placed --------------------

    def _place_soon(self, actor: Actor, after: Coroutine[Any, Any, None] | None = None) -> None:
        """Place it, ``after`` something has happened."""
        if actor.placer is None or actor.placer.done():
            placing = self._place_or_end(actor, after)
            actor.placer = asyncio.get_running_loop().create_task(placing)
        elif after is not None:
            self._background.start(after)

    async def _place_or_end(self, actor: Actor, after: Coroutine[Any, Any, None] | None) -> None:
        """Place an actor; an error of ours ends it, so that its callers hear why."""
        try:
            if after is not None:
                await after
            await self._place(actor)
        except Exception as error:
            logger.exception("Actor %s was not placed", actor.spec.class_name)
            if actor.life.unplaced:
                text = f"the GCS could not place it: {error!r}"
                self._end(actor, Cause(CauseKind.FAULT, text))

    async def _place(self, actor: Actor) -> None:
        life = actor.life
        busy: set[bytes] = set()
        began = time.monotonic()
        warned = False
        while life.unplaced:
            attempt = life.restarts
            strategy = actor.spec.options.strategy
            if isinstance(strategy, InGroup) and self._is_group_gone(actor, strategy):
                self._end_with_group(actor)
                return
            choice = self._choose(actor, busy)
            node = choice.node
            if choice.cause is not None:
                self._end(actor, choice.cause)
                return
            if node is None:
                actor.unplaced_since = actor.unplaced_since or time.monotonic()
                if not warned and not isinstance(strategy, InGroup):
                    warned = True
                    await self._warn_infeasible(actor)
                await self.placement.wait_for_change(_LONGEST_WAIT_S)
                continue
            actor.unplaced_since = 0.0
            if life.placing != node.node_id:
                life.placing = node.node_id
                self._lives.put(life.actor_id, life)
                try:
                    await self._store.durable()
                except StorageError:
                    return  # the GCS leaves
                if not life.unplaced or life.restarts != attempt:
                    continue
            waited_s = time.monotonic() - began
            request = StartActor(actor.spec, actor.job, attempt, self.placement.wait_s, waited_s)
            started = await self._processes.start(choice, request)
            if started is None:
                await asyncio.sleep(_RETRY_S)
            elif not life.unplaced or life.restarts != attempt:
                await self._processes.end(node.node_id, life.actor_id, attempt, _NOT_WANTED)
            elif started.busy:
                life.placing = b""
                busy.add(node.node_id)
            else:
                self._on_answer(actor, started)

    def _choose(self, actor: Actor, busy: set[bytes]) -> Choice:
        """The node that was asked for this attempt, as long as it lives; else a new choice."""
        for node in self._nodes():
            if node.alive and node.node_id == actor.life.placing:
                return Choice(Verdict.LATER, node)
        return self.placement.choose(actor.life.actor_id, actor.spec.options, busy)

    async def _warn_infeasible(self, actor: Actor) -> None:
        demand = demand_of(actor.spec.options)
        text = infeasible_text(demand, [n for n in self._nodes() if n.alive])
        await self._warn(actor.job, f"Actor {actor.spec.class_name}: {text}")

    def _on_answer(self, actor: Actor, started: ActorStarted) -> None:
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
            self._end(actor, cause)
            if cause.kind is not CauseKind.LEFT:
                self.on_failed(actor.spec, b"", cause)

    # --- lost and ended --------------------

    def _changed(self, actor: Actor) -> None:
        """Store a new state and tell those who wait for it."""
        life = actor.life
        self._lives.put(life.actor_id, life)
        if not life.node_id():
            self.placement.left(life.actor_id)
        actor.changed.set()
        actor.changed = asyncio.Event()
        if life.state is not State.DEAD:
            return
        self.on_dead(life.actor_id)
        self._owners.forget(actor.spec)
        options = actor.spec.options
        if self._names.get((options.namespace, options.name)) == life.actor_id:
            del self._names[(options.namespace, options.name)]
        # Of the dead, only what is shown is kept.
        actor.spec = structs.replace(
            actor.spec, class_pickle=b"", args=b"", dependencies=[], contained=[], methods={}
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
            self.on_restart(life.actor_id)
            self._place_soon(actor, ending)
        else:
            if ending is not None:
                self._background.start(ending)
            self.on_failed(actor.spec, node_id, cause)

    def _end(self, actor: Actor, cause: Cause) -> None:
        actor.life.end(cause, time.time())
        self._changed(actor)

    async def worker_died(self, request: WorkerDied) -> None:
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

    async def kill(self, request: KillActorRequest) -> None:
        """End an actor's process; with ``no_restart``, for good."""
        actor = await self._known(request.actor_id)
        if actor is None or actor.life.state is State.DEAD:
            return
        life = actor.life
        if request.request_id and life.last_kill == request.request_id:
            await self._store.durable()
            return
        life.last_kill = request.request_id
        node_id, attempt = life.node_id(), life.restarts
        if request.no_restart:
            self._end(actor, request.cause)
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
                self.kill(KillActorRequest(actor.spec.actor_id, True, _JOB_ENDED))
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
                await self._processes.end(node.node_id, row.actor_id, row.attempt, _NOT_WANTED)
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

    async def wait(self, actor_id: bytes, after: int) -> ActorState:
        """The state, once it is newer than ``after``."""
        actor = await self._known(actor_id)
        if actor is None:
            return ActorState(actor_id, 1 << 30, "DEAD", None, _UNKNOWN)
        life = actor.life
        waits = (State.DEPENDENCIES_UNREADY, State.PENDING)
        while life.version <= after or life.state in waits:
            await actor.changed.wait()
        answer = ActorState(actor_id, life.version, life.state, life.address, life.cause)
        await self._store.durable()
        return answer

    async def find(self, request: NamedActor) -> FoundActor:
        """The actor of a name."""
        actor_id = self._names.get((request.namespace, request.name))
        if actor_id is None:
            return FoundActor(b"")
        spec = self._actors[actor_id].spec
        options = spec.options
        return FoundActor(
            actor_id, spec.class_name, spec.methods, options.max_task_retries,
            options.max_pending_calls,
        )  # fmt: skip

    # --- the state API --------------------

    def rows(self) -> list[ActorRow]:
        """All actors: those that live, and the newest that died."""
        return actor_rows(self._actors.values(), self._nodes())

    def unplaced(self) -> list[DemandRow]:
        """The actors for which no node has the resources at all, by shape."""
        return unplaced_rows(self._actors.values())
