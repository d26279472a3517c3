"""The server of the GCS: its rooms, and what ends with what."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from nbray.common.background import Background
from nbray.common.config import Config
from nbray.gcs.actors.table import ActorTable
from nbray.gcs.failures import Failures
from nbray.gcs.groups.table import GroupTable
from nbray.gcs.jobs import JobTable
from nbray.gcs.kv.packages import PackageTable
from nbray.gcs.kv.space import KeyValueSpace
from nbray.gcs.loads import NodeLoads
from nbray.gcs.nodes.table import NodeTable
from nbray.gcs.receipts import Receipts
from nbray.gcs.scaling import ScalingTables
from nbray.gcs.series import Series
from nbray.gcs.state import StateTables
from nbray.gcs.storage import Store
from nbray.gcs.submissions.table import SubmissionTable
from nbray.wire import gcs_messages as g
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.grpc_service import Handler, RpcError
from nbray.wire.records import JobConfig, NodeInfo

logger = logging.getLogger(__name__)

_AGAIN_S = 1.0


class GcsServer:
    """The rooms of the GCS, and what ends with what.

    Every table is on the store, and read from it at the start: after a crash the cluster goes on
    where it was. What is acknowledged is durable. Every method may be repeated, since a raylet
    whose call broke off cannot know whether it was heard.

    The rooms do not know each other. They ask and tell this server, which says in this order:

    * a job ends: its actors, itself, actors that came meanwhile, its groups, its packages;
    * a node ends: the bundles and actors there, then the jobs of its drivers;
    * an actor ends, or restarts when its job has ended: the groups that it made;
    * a group is removed: the actors in it.

    Attributes:
        tell_near: tells the raylets of this machine something unasked, before all answers.
    """

    def __init__(
        self, token: bytes, config: Config, store: Store, calls_path: Callable[[str], str]
    ) -> None:
        """``calls_path``: where the raylet of a node, by its id, is called on this machine."""
        self.tell_near: Callable[[str, bytes], None] = lambda kind, body: None
        self._store = store
        self._background = Background()
        self._failures = Failures()
        self._jobs = JobTable(store)
        receipts = Receipts(store)
        self._submissions = SubmissionTable(store, receipts)
        self._kv = KeyValueSpace(store, receipts)
        self.packages = PackageTable(
            self._kv, store, self._job_lives, self._submissions.packages, config
        )
        self.nodes = NodeTable(token, config, store, self, self._failures.node, calls_path)
        rows, client = self.nodes.all, self.nodes.client
        self._actors = ActorTable(rows, client, store, self, self._failures.actor)
        self._groups = GroupTable(self.nodes.ready, client, store, self)
        self._loads = NodeLoads()
        self._state = StateTables(
            rows, self._actors, self._loads, client, self._kv, self.nodes.health.silence_s,
            lambda: self._scaling.coming(),
        )  # fmt: skip
        self._scaling = ScalingTables(
            self.nodes.alive, self._loads, self._actors, self._groups, self._kv
        )

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The methods of all rooms, for the gRPC server."""
        return {
            "FinishJob": (g.JobId, self._background.wholly(self._finish_job)),
            **self._jobs.services(),
            **self._submissions.services(),
            **self._kv.services(),
            **self.packages.services(),
            **self.nodes.services(),
            **self._actors.services(),
            **self._groups.services(),
            **self._failures.services(),
            **self._state.services(),
            **self._scaling.services(),
        }

    def series(self, folder: Path) -> Series:
        """The figures over time, kept in that folder."""
        return Series(folder, self.nodes.alive, self._loads.ended)

    async def resume(self) -> None:
        """Go on with what the store told of; called once, when raylets can call."""
        await self.nodes.resume()
        self._actors.resume()
        self._groups.resume()

    # --- jobs --------------------

    def job_is_over(self, job_id: bytes) -> bool:
        """Whether the driver of a job has gone."""
        return self._jobs.is_over(job_id)

    def _job_lives(self) -> Callable[[bytes], bool]:
        """Whether a job has its driver, or an actor, at this moment."""
        of_actors = self._actors.living_jobs()
        return lambda job_id: job_id in of_actors or not self._jobs.is_over(job_id)

    async def _finish_job(self, request: g.JobId) -> g.Empty:
        """Raylet to GCS: a driver has gone."""
        job_id = request.job_id
        await self._actors.finish_job(job_id)
        self._jobs.end(job_id)
        await self._actors.finish_job(job_id)  # those that came meanwhile
        await self._groups.finish_job(job_id)
        self.packages.look(time.monotonic())
        await self._store.durable()
        return g.Empty()

    async def warn(self, job: JobConfig, text: str, origin: int) -> None:
        """Show a driver why something of its job, which has that origin, waits.

        What waits is not kept by that: the driver's node may stand still, and hears it later.
        """
        logger.warning("%s", text)
        self._background.start(self._tell(job, g.WarnJob(job.job_id, text, origin)))

    async def _tell(self, job: JobConfig, warning: g.WarnJob) -> None:
        while not self._jobs.is_over(job.job_id):
            node = self.nodes.get(job.driver.node_id)
            if node is None or not node.alive:
                return
            try:
                await self.nodes.client(node).call("WarnJob", warning, g.Empty)
                return
            except RpcError as error:
                text = "The driver of job %s is not warned yet: %s"
                logger.warning(text, job.job_id.hex(), error)
            await asyncio.sleep(_AGAIN_S)

    # --- nodes --------------------

    def node_reported(self, report: g.Report) -> None:
        """A raylet's row and load."""
        if report.load is not None:
            self._loads.reported(report.node.node_id, report.load)
        self._groups.reported(report.node)

    def room_changed(self) -> None:
        """Some node has other resources free than before."""
        self._actors.placement.nodes_changed()
        self._groups.nodes_changed()

    def node_back(self, node: NodeInfo) -> None:
        """A node that was known from the store reports for the first time."""
        self._background.start(self._actors.reconcile(node))
        self._groups.node_back(node)

    async def node_gone(self, node_id: bytes, cause: str) -> None:
        """The actors of a node, and the jobs whose drivers were there, end with it."""
        self._loads.node_gone(node_id)
        self._groups.node_died(node_id)
        died = Cause(CauseKind.NODE_DIED, cause, node_id=node_id)
        await self._actors.node_died(node_id, died)
        for job in self._jobs.running():
            if job.node_id == node_id:
                await self._finish_job(g.JobId(job.job_id))

    def grows(self) -> bool:
        """Whether an autoscaler may start nodes."""
        return self._scaling.grows()

    # --- actors and groups --------------------

    def may_live(self, actor_id: bytes) -> bool:
        """Whether an actor is not dead."""
        return self._actors.may_live(actor_id)

    def actor_lost(self, actor_id: bytes, restarts: bool) -> None:
        """An actor lost its process; the groups that it made end."""
        self._groups.actor_lost(actor_id, restarts)

    def name_changed(self, name: g.NamedActor, found: g.FoundActor) -> None:
        """An actor has a name, or nobody has it: the raylets of this machine answer by that."""
        encode = msgspec.msgpack.encode
        changed = g.NameChanged(encode(name), encode(found) if found.actor_id else b"")
        self.tell_near(g.NAME_CHANGED, encode(changed))

    def group_is_removed(self, group_id: bytes) -> bool | None:
        """Whether nothing can run in a group any more; None if it is not known."""
        return self._groups.is_removed(group_id)

    def group_created(self) -> None:
        """Groups can be used: actors that wait for one are placed."""
        self._actors.placement.nodes_changed()

    def group_removed(self, group_id: bytes) -> None:
        """The actors of a group end."""
        self._actors.group_removed(group_id)
