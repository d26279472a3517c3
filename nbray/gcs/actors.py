"""The life of every actor: placed, alive, restarted, dead."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nbray.common.resources import fits
from nbray.wire.gcs_messages import (
    ActorStarted,
    CreateActorRequest,
    Empty,
    FoundActor,
    KillWorker,
    NamedActor,
    Outcome,
    StartActor,
)
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.messages import ActorSpec, ActorState, Address, JobConfig, NodeInfo
from nbray.wire.state_messages import ActorRow, DemandRow

logger = logging.getLogger(__name__)

_DEAD_KEPT = 1000
TRANSITIONS = {
    "PENDING": {"ALIVE", "RESTARTING", "DEAD"},
    "ALIVE": {"RESTARTING", "DEAD"},
    "RESTARTING": {"ALIVE", "RESTARTING", "DEAD"},
    "DEAD": set(),
}


@dataclass
class _Actor:
    spec: ActorSpec
    job: JobConfig
    restarts_left: int
    state: str = "PENDING"
    version: int = 0
    address: Address | None = None
    cause: str = ""
    pid: int = 0
    restarts: int = 0
    started: float = 0.0
    unplaced_since: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class ActorTable:
    """All actors of the cluster.

    ``nodes`` gives the node rows, ``raylet`` the client of a node.
    """

    def __init__(
        self,
        nodes: Callable[[], list[NodeInfo]],
        raylet: Callable[[NodeInfo], GrpcClient],
    ) -> None:
        self._nodes = nodes
        self._raylet = raylet
        self._actors: dict[bytes, _Actor] = {}
        self._names: dict[tuple[str, str], bytes] = {}
        self._dead: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_failed: Callable[[ActorSpec, bytes, str], None] = lambda spec, node_id, cause: None

    async def create(self, request: CreateActorRequest) -> Outcome:
        """Register an actor and start to place it."""
        spec = request.spec
        options = spec.options
        key = (options.namespace, options.name)
        if options.name:
            if key in self._names:
                return Outcome(
                    f"The name {options.name} (namespace={options.namespace}) is already taken. "
                    "Please use a different name or get the existing actor using "
                    f"ray.get_actor('{options.name}', namespace='{options.namespace}')"
                )
            self._names[key] = spec.actor_id
        actor = _Actor(spec, request.job, options.max_restarts)
        self._actors[spec.actor_id] = actor
        self._spawn_place(actor)
        return Outcome()

    def _spawn_place(self, actor: _Actor) -> None:
        task = asyncio.get_running_loop().create_task(self._place(actor))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _move(self, actor: _Actor, state: str, cause: str = "") -> None:
        if state not in TRANSITIONS[actor.state]:
            raise ValueError(f"An actor does not go from {actor.state} to {state}.")
        actor.state, actor.cause = state, cause
        actor.version += 1
        actor.changed.set()
        actor.changed = asyncio.Event()
        if state == "DEAD":
            options = actor.spec.options
            if self._names.get((options.namespace, options.name)) == actor.spec.actor_id:
                del self._names[(options.namespace, options.name)]
            self._dead.append(actor.spec.actor_id)
            if len(self._dead) > _DEAD_KEPT:
                self._actors.pop(self._dead.pop(0), None)

    async def _place(self, actor: _Actor) -> None:
        while actor.state in ("PENDING", "RESTARTING"):
            demand = actor.spec.options.resources
            able = [n for n in self._nodes() if n.alive and fits(demand, n.total)]
            able.sort(key=lambda node: not fits(demand, node.available))
            if not able:
                actor.unplaced_since = actor.unplaced_since or time.monotonic()
                await asyncio.sleep(0.2)
                continue
            actor.unplaced_since = 0.0
            try:
                started = await self._raylet(able[0]).call(
                    "StartActor", StartActor(actor.spec, actor.job), ActorStarted, 3600.0
                )
            except RpcError as error:
                logger.warning("Actor %s was not started: %s", actor.spec.class_name, error)
                await asyncio.sleep(0.2)
                continue
            if actor.state == "DEAD":
                if started.address is not None:
                    await self._kill(started.address)
            elif started.address is not None:
                actor.address, actor.pid = started.address, started.pid
                actor.started = time.time()
                self._move(actor, "ALIVE")
            elif not started.retriable:
                self._move(actor, "DEAD", started.error)
                self.on_failed(actor.spec, b"", started.error)
            elif not self._restart(actor, started.error):
                return

    def _restart(self, actor: _Actor, cause: str) -> bool:
        node_id = actor.address.node_id if actor.address is not None else b""
        actor.address = None
        if actor.restarts_left == 0:
            self._move(actor, "DEAD", cause)
            self.on_failed(actor.spec, node_id, cause)
            return False
        actor.restarts_left -= actor.restarts_left > 0
        actor.restarts += 1
        self._move(actor, "RESTARTING", cause)
        return True

    def worker_died(self, worker_id: bytes, cause: str) -> None:
        """Restart or bury the actor of a dead worker."""
        for actor in list(self._actors.values()):
            if actor.address is None or actor.address.worker_id != worker_id:
                continue
            if actor.state == "ALIVE" and self._restart(actor, cause):
                self._spawn_place(actor)

    async def node_died(self, node_id: bytes, cause: str) -> None:
        """All workers of a node are gone."""
        for actor in list(self._actors.values()):
            if actor.address is not None and actor.address.node_id == node_id:
                self.worker_died(actor.address.worker_id, cause)

    async def kill(self, actor_id: bytes, no_restart: bool, cause: str) -> None:
        """End an actor's process; with ``no_restart``, for good."""
        actor = self._actors.get(actor_id)
        if actor is None or actor.state == "DEAD":
            return
        address, actor.address = actor.address, None
        if no_restart:
            self._move(actor, "DEAD", cause)
        elif actor.state == "ALIVE" and self._restart(actor, cause):
            self._spawn_place(actor)
        if address is not None:
            await self._kill(address)

    async def _kill(self, address: Address) -> None:
        for node in self._nodes():
            if node.node_id == address.node_id and node.alive:
                try:
                    await self._raylet(node).call(
                        "KillWorker", KillWorker(address.worker_id), Empty
                    )
                except RpcError as error:
                    logger.warning("A worker was not killed: %s", error)

    async def finish_job(self, job_id: bytes) -> None:
        """The driver left: its actors end, but for the detached."""
        for actor in list(self._actors.values()):
            if actor.spec.job_id == job_id and not actor.spec.options.detached:
                await self.kill(actor.spec.actor_id, True, "its driver has ended")

    async def wait(self, actor_id: bytes, after: int) -> ActorState:
        """The state, once it is newer than ``after``."""
        deadline = asyncio.get_running_loop().time() + 5.0
        while actor_id not in self._actors and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.005)  # a handle may arrive before the registration
        actor = self._actors.get(actor_id)
        if actor is None:
            return ActorState(actor_id, 1 << 30, "DEAD", None, "it is not known to the cluster")
        while actor.version <= after or actor.state == "PENDING":
            await actor.changed.wait()
        return ActorState(actor_id, actor.version, actor.state, actor.address, actor.cause)

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
        return [
            ActorRow(
                a.spec.actor_id, a.spec.job_id, a.spec.class_name, a.spec.options.name,
                a.spec.options.namespace, a.spec.options.detached, a.state,
                a.address.node_id if a.address else b"",
                a.address.worker_id if a.address else b"",
                a.pid, a.restarts, a.spec.options.resources, a.cause, a.started,
            )
            for a in self._actors.values()
        ]  # fmt: skip

    def unplaced(self) -> list[DemandRow]:
        """The actors for which no node has the resources at all, by shape."""
        rows: dict[tuple[tuple[str, int], ...], DemandRow] = {}
        now = time.monotonic()
        for actor in self._actors.values():
            if not actor.unplaced_since or actor.state not in ("PENDING", "RESTARTING"):
                continue
            demand = actor.spec.options.resources
            row = rows.setdefault(
                tuple(sorted(demand.items())), DemandRow(demand, 0, 0.0, True, b"")
            )
            row.count += 1
            row.waiting_s = max(row.waiting_s, now - actor.unplaced_since)
        return list(rows.values())
