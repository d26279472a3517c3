"""What the state API shows that no table has: what nodes report, and what they are asked for.

Nothing here is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec

from nbray.gcs.kv.space import KeyValueSpace
from nbray.gcs.loads import NodeLoads
from nbray.scheduling.explain import feasible, infeasible_text, why_pending
from nbray.scheduling.policy import Demand
from nbray.wire import state_messages as s
from nbray.wire.gcs_messages import Empty
from nbray.wire.grpc_service import GrpcClient, Handler, RpcError
from nbray.wire.records import NodeInfo

logger = logging.getLogger(__name__)
T = TypeVar("T")

_ASK_RAYLET_S = 3.0
_PROFILE_S = 20.0
_SILENT_S = 2.0
_OWN_NAMESPACE = b"_nbray"
_DASHBOARD_KEY = b"dashboard"


class Actors(Protocol):
    """What is shown of actors."""

    def rows(self) -> list[s.ActorRow]:
        """All actors: those that live, and the newest that died."""

    def unplaced(self) -> list[s.DemandRow]:
        """The actors for which no node has the resources at all, by shape."""


class StateTables:
    """Answers the state API. ``silence_s`` says for how long a node has been silent.

    ``coming`` has sentences on nodes that are being started.
    """

    def __init__(
        self,
        nodes: Callable[[], list[NodeInfo]],
        actors: Actors,
        loads: NodeLoads,
        raylet: Callable[[NodeInfo], GrpcClient],
        kv: KeyValueSpace,
        silence_s: Callable[[bytes], float],
        coming: Callable[[], list[str]],
    ) -> None:
        self._coming = coming
        self._silence_s = silence_s
        self._nodes = nodes
        self._actors = actors
        self._loads = loads
        self._raylet = raylet
        self._kv = kv

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The methods, for the gRPC server."""
        return {
            "ListActors": (Empty, self._list_actors),
            "ListWorkers": (Empty, self._list_workers),
            "ListTasks": (s.TasksRequest, self._list_tasks),
            "ListObjects": (s.ObjectsRequest, self._list_objects),
            "Metrics": (Empty, self._metrics),
            "ListLogs": (s.LogsRequest, self._list_logs),
            "ReadLog": (s.ReadLog, self._read_log),
            "Profile": (s.ProfileRequest, self._profile),
            "Demand": (Empty, self._demand),
            "TaskTotals": (Empty, self._task_totals),
            "SetDashboard": (s.DashboardAddress, self._set_dashboard),
            "GetDashboard": (Empty, self._get_dashboard),
        }

    # --- what is asked --------------------

    async def _list_actors(self, _request: Empty) -> s.Actors:
        rows = self._actors.rows()
        nodes = {node.node_id: node for node in self._nodes()}
        for row in rows:
            node = nodes.get(row.placing)
            if node is not None:
                row.waits_for = self._why_it_starts(row.actor_id, node)
        return s.Actors(rows)

    def _why_it_starts(self, actor_id: bytes, node: NodeInfo) -> str:
        """What an actor waits for that was given to a node."""
        load = self._loads.get(node.node_id)
        known = load.actors.get(actor_id, "") if load is not None else ""
        begun = f"Node {node.node_id.hex()[:8]} on {node.host} starts it."
        return " ".join(text for text in (known or begun, self._silence(node)) if text)

    def _silence(self, node: NodeInfo) -> str:
        """A sentence on a node that does not report, whose word may be of old."""
        seconds = self._silence_s(node.node_id)
        if seconds < _SILENT_S:
            return ""
        name = f"{node.node_id.hex()[:8]} on {node.host}"
        return f"Node {name} has been silent for {seconds:.0f} s: what waits there goes on with it."

    async def _list_workers(self, _request: Empty) -> s.Workers:
        reply = s.Workers([])
        for node, answer in await self._ask_all("ListWorkers", Empty(), s.Workers):
            if answer is None:
                reply.unreachable.append(node.node_id)
            else:
                reply.rows += answer.rows
        return reply

    async def _list_tasks(self, request: s.TasksRequest) -> s.Tasks:
        reply = s.Tasks([], [])
        for node, answer in await self._ask_all("ListTasks", request, s.Tasks):
            if answer is None:
                reply.unreachable.append(node.node_id)
                continue
            before = len(reply.sources)
            reply.sources += answer.sources
            reply.rows += [(before + number, event) for number, event in answer.rows]
            reply.dropped += answer.dropped
            reply.silent += answer.silent
            for name, count in answer.unfinished.items():
                reply.unfinished[name] = reply.unfinished.get(name, 0) + count
        return reply

    async def _list_objects(self, request: s.ObjectsRequest) -> s.Objects:
        reply = s.Objects([])
        for node, answer in await self._ask_all("ListObjects", request, s.Objects):
            if answer is None:
                reply.unreachable.append(node.node_id)
            else:
                reply.holders += answer.holders
                reply.silent += answer.silent
        return reply

    async def _metrics(self, request: Empty) -> s.Metrics:
        answers = await self._ask_all("Metrics", request, s.NodeMetrics)
        return s.Metrics([answer for _node, answer in answers if answer is not None])

    async def _list_logs(self, request: s.LogsRequest) -> s.LogFiles:
        return await self._ask_one(request.node_id, "ListLogs", request, s.LogFiles)

    async def _read_log(self, request: s.ReadLog) -> s.LogPart:
        return await self._ask_one(request.node_id, "ReadLog", request, s.LogPart)

    async def _profile(self, request: s.ProfileRequest) -> s.Profile:
        patience = request.seconds + _PROFILE_S
        return await self._ask_one(request.node_id, "Profile", request, s.Profile, patience)

    async def _ask_one(
        self, node_id: bytes, method: str, request: Any, reply: type[T],
        patience: float = _ASK_RAYLET_S,
    ) -> T:  # fmt: skip
        for node in self._nodes():
            if node.node_id == node_id and node.alive:
                return await self._raylet(node).call(method, request, reply, patience)
        raise ValueError(f"No node that is alive has the id {node_id.hex()}.")

    async def _ask_all(
        self, method: str, request: Any, reply: type[T]
    ) -> list[tuple[NodeInfo, T | None]]:
        """The answers of the raylets of all nodes that are alive; None where there is none."""

        async def ask(node: NodeInfo) -> T | None:
            try:
                return await self._raylet(node).call(method, request, reply, _ASK_RAYLET_S)
            except RpcError as error:
                who = node.node_id.hex()[:8]
                logger.warning("Node %s did not answer %s: %s", who, method, error)
                return None

        alive = [node for node in self._nodes() if node.alive]
        answers = await asyncio.gather(*(ask(node) for node in alive))
        return list(zip(alive, answers, strict=True))

    async def _demand(self, _request: Empty) -> s.Demand:
        alive = [node for node in self._nodes() if node.alive]
        rows = [
            s.DemandRow(
                w.resources,
                w.count,
                w.waiting_s,
                w.for_actor,
                node.node_id,
                "",
                w.strategy,
                w.selector,
                [w.why] if w.why else [],
            )
            for node in alive
            if (load := self._loads.get(node.node_id)) is not None
            for w in load.waiting
        ]
        rows += self._actors.unplaced()
        for row in rows:
            if row.lacking:
                continue
            demand = Demand(row.resources, row.strategy, row.selector)
            if alive and not feasible(demand, alive):
                row.reason = infeasible_text(demand, alive)
            else:
                row.lacking = why_pending(demand, alive)
        for row in rows:
            row.lacking += [text for text in map(self._silence, alive) if text]
            row.lacking += self._coming()
        return s.Demand(rows)

    async def _task_totals(self, _request: Empty) -> s.TaskTotals:
        return self._loads.totals()

    async def _set_dashboard(self, request: s.DashboardAddress) -> Empty:
        self._kv.put(_OWN_NAMESPACE, _DASHBOARD_KEY, msgspec.msgpack.encode(request))
        await self._kv.durable()
        return Empty()

    async def _get_dashboard(self, _request: Empty) -> s.DashboardAddress:
        known = self._kv.get(_OWN_NAMESPACE, _DASHBOARD_KEY)
        if known is None:
            return s.DashboardAddress("")
        return msgspec.msgpack.decode(known, type=s.DashboardAddress)
