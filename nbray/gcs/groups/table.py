"""The edge of placement groups: requests and reports in, the machine's decisions carried out.

All that is decided is decided in `nbray.gcs.groups.machine`. Here are the clocks, the store, the
raylets, and those that wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from nbray.common.background import Background
from nbray.gcs.groups import decisions as d
from nbray.gcs.groups.life import GroupLife, State
from nbray.gcs.groups.machine import Groups, Now
from nbray.gcs.storage import StorageError, Store, Table
from nbray.wire import gcs_messages as g
from nbray.wire.group_messages import GroupState
from nbray.wire.grpc_service import GrpcClient, Handler, RpcError
from nbray.wire.records import GroupSpec, JobConfig, NodeInfo
from nbray.wire.scaling_messages import WaitingGroup

logger = logging.getLogger(__name__)

_LONGEST_WAIT_S = 1.0
_RETRY_S = 0.2
_KNOWN_WITHIN_S = 5.0


class Surroundings(Protocol):
    """What the table of groups asks and tells of jobs and actors."""

    def job_is_over(self, job_id: bytes) -> bool:
        """Whether the driver of a job has gone."""

    def may_live(self, actor_id: bytes) -> bool:
        """Whether an actor is not dead."""

    def group_created(self) -> None:
        """Groups can be used: actors that wait for one are placed."""

    def group_removed(self, group_id: bytes) -> None:
        """The actors of a group end."""

    async def warn(self, job: JobConfig, text: str, origin: int) -> None:
        """Show a driver why something of its job, which has that origin, waits."""


class GroupTable:
    """All placement groups, and the GCS methods about them.

    ``nodes`` gives the rows of nodes that may be asked, ``raylet`` the client of one.
    """

    def __init__(
        self,
        nodes: Callable[[], list[NodeInfo]],
        raylet: Callable[[NodeInfo], GrpcClient],
        store: Store,
        around: Surroundings,
    ) -> None:
        self._nodes = nodes
        self._raylet = raylet
        self._store = store
        self._around = around
        self._table = Table(store, "placement_groups", GroupLife)
        self._groups = Groups(self._table.all().values())
        self._kicked = asyncio.Event()
        self._changed: dict[bytes, asyncio.Event] = {}
        self._background = Background()

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The methods, for the gRPC server."""
        return {
            "ChangeGroups": (g.ChangeGroups, self._background.wholly(self._change)),
            "WaitGroups": (g.WaitGroups, self._wait),
            "FindGroups": (g.NamedGroup, self._find),
        }

    def resume(self) -> None:
        """Begin to place groups."""
        self._background.start(self._run())
        self.nodes_changed()

    def nodes_changed(self) -> None:
        """Resources may have become free."""
        if self._groups.any_waits:
            self._kicked.set()

    def is_removed(self, group_id: bytes) -> bool | None:
        """Whether nothing can run in the group any more; None if it is not known."""
        life = self._groups.get(group_id)
        return None if life is None else life.removed

    # --- requests --------------------

    async def _change(self, request: g.ChangeGroups) -> g.GroupStates:
        """Register and remove groups; a second time, only the answer is given.

        A name is free for a new group as soon as the one that had it was to be removed.
        """
        new = {spec.group_id for spec in request.create}
        await self._remove([one for one in request.remove if one not in new], "it was removed")
        states = []
        for spec in request.create:
            state, decisions = self._groups.register(spec, self._is_over(spec), _now())
            states.append(state)
            await self._act(decisions)
        await self._remove([one for one in request.remove if one in new], "it was removed")
        if request.create:
            self._kicked.set()
            await self._store.durable()
        return g.GroupStates(states)

    def _is_over(self, spec: GroupSpec) -> bool:
        if spec.detached:
            return False
        if spec.creator:
            return not self._around.may_live(spec.creator)
        return self._around.job_is_over(spec.job.job_id)

    async def _wait(self, request: g.WaitGroups) -> g.GroupStates:
        """The states of those that are created or removed, once any is."""
        deadline = time.monotonic() + _KNOWN_WITHIN_S
        while True:
            now = time.monotonic()
            states, unknown = [], False
            for group_id in request.group_ids:
                life = self._groups.get(group_id)
                unknown |= life is None
                if life is not None and not life.waits:
                    states.append(GroupState(group_id, life.state))
                elif life is None and now > deadline:
                    states.append(GroupState(group_id, State.REMOVED))
                    self._changed.pop(group_id, None)  # nothing will ever be decided of it
            if states:
                await self._store.durable()
                return g.GroupStates(states)
            await self._any_decided(request.group_ids, 0.1 if unknown else None)

    async def _any_decided(self, group_ids: Iterable[bytes], timeout: float | None) -> None:
        events = [self._changed.setdefault(one, asyncio.Event()) for one in group_ids]
        waits = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=timeout)
        finally:
            for wait in waits:
                wait.cancel()

    async def _find(self, request: g.NamedGroup) -> g.Groups:
        """The groups of an id or name; all, without either."""
        await self._store.durable()
        group_id = request.group_id
        if request.name:
            group_id = self._groups.find(request.name, request.namespace) or b""
        elif not group_id:
            rows = self._nodes()
            return g.Groups([self._groups.row(life, rows) for life in self._groups.all()])
        life = self._groups.get(group_id)
        return g.Groups([] if life is None else [self._groups.row(life, self._nodes())])

    def without_place(self, before: float) -> list[WaitingGroup]:
        """Those for whose bundles there is no room, of those that were created before."""
        return self._groups.without_place(before)

    # --- what happens around them --------------------

    async def _remove(self, group_ids: list[bytes], cause: str) -> None:
        await self._act(self._groups.remove(group_ids, cause, _now()))

    async def finish_job(self, job_id: bytes) -> None:
        """A driver left: the groups that it and its tasks made end, but for the detached."""
        made = self._groups.made_by(lambda spec: spec.job.job_id == job_id and not spec.creator)
        await self._remove(made, "its job has ended")

    def actor_lost(self, actor_id: bytes, restarts: bool) -> None:
        """An actor lost its process: the groups that it made end, but for the detached.

        Of one that ``restarts``, as Ray's do: only once its job has ended.
        """
        over = self._around.job_is_over
        made = self._groups.made_by(
            lambda spec: spec.creator == actor_id and not (restarts and not over(spec.job.job_id))
        )
        if made:
            self._background.start(self._remove(made, "the actor that made it has ended"))

    def node_died(self, node_id: bytes) -> None:
        """The bundles that were there are placed anew."""
        self._act_soon(self._groups.node_died(node_id, _now()))

    def node_back(self, node: NodeInfo) -> None:
        """A node that was known from the store reports for the first time."""
        self._act_soon(self._groups.node_back(node))
        self.nodes_changed()

    def reported(self, node: NodeInfo) -> None:
        """A node says what it holds."""
        if node.bundles:
            self._act_soon(self._groups.reported(node))

    # --- decisions --------------------

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LONGEST_WAIT_S):
                    await self._kicked.wait()
            except TimeoutError:
                if not self._groups.any_waits:
                    continue
            self._kicked.clear()
            try:
                await self._act(self._groups.look(self._nodes(), _now()))
            except StorageError:
                return  # the GCS leaves
            except Exception:  # the next round may do without what raised it
                logger.exception("Placement groups were not placed")
                await asyncio.sleep(_LONGEST_WAIT_S)

    def _act_soon(self, decisions: list[d.Decision]) -> None:
        if decisions:
            self._background.start(self._act(decisions))

    async def _act(self, decisions: list[d.Decision]) -> None:
        """Do what was decided, in that order."""
        for decision in decisions:
            match decision:
                case d.Keep(life):
                    self._table.put(life.spec.group_id, life)
                case d.Forget(group_id):
                    self._table.delete(group_id)
                case d.Durable():
                    await self._store.durable()
                case d.Reserve():
                    self._background.start(self._reserve(decision))
                case d.Commit():
                    self._background.start(self._commit(decision))
                case d.Release():
                    self._background.start(self._release(decision))
                case d.Decided(group_id):
                    event = self._changed.pop(group_id, None)
                    if event is not None:
                        event.set()
                case d.Created():
                    self._around.group_created()
                case d.EndActors(group_id):
                    self._around.group_removed(group_id)
                case d.Warn(job, text, origin):
                    self._background.start(self._around.warn(job, text, origin))
                case d.LookAgain(after_s):
                    asyncio.get_running_loop().call_later(after_s, self.nodes_changed)

    async def _reserve(self, asked: d.Reserve) -> None:
        request = g.ChangeBundles(reserve=list(asked.bundles), patient=list(asked.patient))
        answer = await self._ask(asked.node_id, request)
        refused = None if answer is None else answer.refused
        await self._act(self._groups.answered(asked, refused, _now()))

    async def _commit(self, asked: d.Commit) -> None:
        await self._ask_surely(asked.node_id, g.ChangeBundles(commit=list(asked.keys)))
        await self._act(self._groups.committed(asked, _now()))

    async def _release(self, asked: d.Release) -> None:
        await self._ask_surely(asked.node_id, g.ChangeBundles(release=list(asked.keys)))
        await self._act(self._groups.released(asked))

    async def _ask_surely(self, node_id: bytes, request: g.ChangeBundles) -> None:
        """Returns when the node has done it, or is dead."""
        while any(row.node_id == node_id for row in self._nodes()):
            if await self._ask(node_id, request) is not None:
                return
            await asyncio.sleep(_RETRY_S)

    async def _ask(self, node_id: bytes, request: g.ChangeBundles) -> g.BundlesChanged | None:
        """Change a node's bundles; its row is brought up to date by the answer."""
        node = next((row for row in self._nodes() if row.node_id == node_id), None)
        if node is None:
            return None
        try:
            answer = await self._raylet(node).call("ChangeBundles", request, g.BundlesChanged)
        except RpcError as error:
            logger.warning("Node %s did not change bundles: %s", node_id.hex()[:8], error)
            return None
        keys = [*request.release, *request.commit, *(bundle.key for bundle in request.reserve)]
        named = {key.group_id for key in keys}
        for row in self._nodes():
            if row.node_id == node_id:
                row.available = answer.available
                others = [bundle for bundle in row.bundles if bundle.group_id not in named]
                row.bundles = others + answer.bundles
        return answer


def _now() -> Now:
    return Now(time.monotonic(), time.time())
