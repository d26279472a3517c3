"""The server of the GCS: its rooms, what ends with what, and the process that it is."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvloop

from nbray.common.background import Background
from nbray.common.config import Config
from nbray.common.ids import JobID
from nbray.common.process import allow_many_files, leave_in_time, report_ready, watch_parent
from nbray.common.session import Session
from nbray.gcs.actors.table import ActorTable
from nbray.gcs.groups.table import GroupTable
from nbray.gcs.kv.packages import PackageTable
from nbray.gcs.kv.space import KeyValueSpace
from nbray.gcs.nodes.table import NodeTable
from nbray.gcs.state import StateTables
from nbray.gcs.storage import StorageError, Store, Table, open_store
from nbray.wire import gcs_messages as g
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.credentials import read_identity
from nbray.wire.grpc_service import RpcError, serve
from nbray.wire.messages import ActorState
from nbray.wire.records import JobConfig, NodeInfo

logger = logging.getLogger(__name__)


class GcsServer:
    """The tables, and the methods that raylets call.

    Every table is on the store, and read from it at the start: after a crash the cluster goes on
    where it was. What is acknowledged is durable. Every method may be repeated, since a raylet
    whose call broke off cannot know whether it was heard.
    """

    def __init__(self, token: bytes, config: Config, store: Store) -> None:
        self._store = store
        self._counters = Table(store, "counters", int)
        self._jobs = self._counters.all().get(b"jobs", 0)
        self.kv = KeyValueSpace(store)
        self.packages = PackageTable(self.kv, store, self._job_lives, config)
        self._background = Background()
        self.nodes = NodeTable(token, config, store)
        self.actors = ActorTable(
            self.nodes.all, self.nodes.client, store,
            lambda job_id: self.state.job_is_over(job_id), self._warn,
        )  # fmt: skip
        self.groups = GroupTable(
            self.nodes.ready, self.nodes.client, store,
            lambda job_id: self.state.job_is_over(job_id), self._warn,
        )  # fmt: skip
        self.groups.end_actors = self.actors.group_removed
        self.groups.actor_may_live = self.actors.may_live
        self.groups.on_created = self.actors.placement.nodes_changed
        self.actors.on_dead = self.groups.actor_died
        self.actors.on_restart = partial(self.groups.actor_died, restarts=True)
        self.actors.group_is_removed = self.groups.is_removed
        self.state = StateTables(
            self.nodes.all, self.actors, self.nodes.client, time.time, store,
            self.kv, self.nodes.health.silence_s,
        )  # fmt: skip
        self.nodes.on_room = self._room_changed
        self.nodes.on_back = self._node_is_back
        self.nodes.on_gone = self._node_gone
        self.nodes.on_failed = self.state.node_failed

    def _job_lives(self) -> Callable[[bytes], bool]:
        """Whether a job has its driver, or an actor, at this moment."""
        of_actors = self.actors.living_jobs()
        return lambda job_id: job_id in of_actors or not self.state.job_is_over(job_id)

    async def resume(self) -> None:
        """Go on with what the store told of; called once, when raylets can call."""
        await self.nodes.resume()
        self.actors.resume()
        self.groups.resume()

    async def _warn(self, job: JobConfig, text: str) -> None:
        """Show a driver why something of its job waits."""
        logger.warning("%s", text)
        node = self.nodes.get(job.driver.node_id)
        if node is None or not node.alive:
            return
        try:
            await self.nodes.client(node).call("WarnJob", g.WarnJob(job.job_id, text), g.Empty)
        except RpcError as error:
            logger.warning("The driver of job %s was not warned: %s", job.job_id.hex(), error)

    def _room_changed(self) -> None:
        self.actors.placement.nodes_changed()
        self.groups.nodes_changed()

    async def _node_is_back(self, node: NodeInfo) -> None:
        """A node that was known from the store reports for the first time."""
        self._background.start(self.actors.reconcile(node))
        await self.groups.reconcile(node)

    async def report(self, request: g.Report) -> g.Reported:
        """A raylet's row and load."""
        reported = await self.nodes.report(request)
        if request.load is not None and not reported.rejected:
            self.state.reported(request.node.node_id, request.load)
        return reported

    async def register_job(self, request: g.RegisterJob) -> g.JobId:
        """A number for a new driver."""
        for job in self.state.running_jobs():
            if job.driver_id == request.driver.worker_id:
                return g.JobId(job.job_id)
        self._jobs += 1
        self._counters.put(b"jobs", self._jobs)
        logger.info("Job %d: %s (pid %d).", self._jobs, request.entrypoint, request.pid)
        job_id = JobID.from_int(self._jobs).binary()
        self.state.job_began(job_id, request)
        await self._store.durable()
        return g.JobId(job_id)

    async def finish_job(self, request: g.JobId) -> g.Empty:
        """A driver has gone."""
        await self.actors.finish_job(request.job_id)
        self.state.job_ended(request.job_id)
        await self.actors.finish_job(request.job_id)  # those that came meanwhile
        await self.groups.finish_job(request.job_id)
        self.packages.look(time.monotonic())
        await self._store.durable()
        return g.Empty()

    async def wait_actor(self, request: g.WaitActor) -> ActorState:
        """The next news of an actor."""
        return await self.actors.wait(request.actor_id, request.after)

    async def actor_ready(self, request: g.ActorReadyRequest) -> g.Empty:
        """The arguments of an actor's constructor are there."""
        await self.actors.ready(request)
        return g.Empty()

    async def kill_actor(self, request: g.KillActorRequest) -> g.Empty:
        """End an actor."""
        await self.actors.kill(request)
        return g.Empty()

    async def worker_died(self, request: g.WorkerDied) -> g.Empty:
        """A raylet lost a worker."""
        await self.actors.worker_died(request)
        return g.Empty()

    async def _node_gone(self, node_id: bytes, cause: str) -> None:
        """The actors of a node, and the jobs whose drivers were there, end with it."""
        self.groups.node_died(node_id)
        died = Cause(CauseKind.NODE_DIED, cause, node_id=node_id)
        await self.actors.node_died(node_id, died)
        for job in self.state.running_jobs():
            if job.node_id == node_id:
                await self.finish_job(g.JobId(job.job_id))


async def _main(args: argparse.Namespace) -> None:
    session = Session(Path(args.session_dir))
    token = session.token
    read_identity(session)
    try:
        store = open_store(session.storage, session.path)
        gcs = GcsServer(token, Config.from_env(), store)
        server, port = await serve(
            args.host, args.port, token,
            {
                "Report": (g.Report, gcs.report),
                "WatchNodes": (g.WatchNodes, gcs.nodes.watch),
                "ListNodes": (g.Empty, gcs.nodes.list_all),
                "RegisterJob": (g.RegisterJob, gcs.register_job),
                "FinishJob": (g.JobId, gcs.finish_job),
                "CreateActor": (g.CreateActorRequest, gcs.actors.create),
                "WaitActor": (g.WaitActor, gcs.wait_actor),
                "KillActor": (g.KillActorRequest, gcs.kill_actor),
                "ActorReady": (g.ActorReadyRequest, gcs.actor_ready),
                "FindActor": (g.NamedActor, gcs.actors.find),
                "WorkerDied": (g.WorkerDied, gcs.worker_died),
                **gcs.state.services(),
                **gcs.kv.services(),
                **gcs.packages.services(),
                **gcs.groups.services(),
            },
        )  # fmt: skip
    except (OSError, StorageError, ValueError) as error:
        report_ready(args.ready_fd, {"error": f"The GCS could not start: {error}."})
        raise SystemExit(1) from error
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    store.on_broken = lambda _reason: stopped.set()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    if args.parent_fd is not None:
        watch_parent(loop, args.parent_fd, stopped.set)
    await gcs.resume()
    report_ready(args.ready_fd, {"port": port})
    watching = [loop.create_task(gcs.nodes.health.run()), loop.create_task(gcs.packages.watch())]
    await stopped.wait()
    leave_in_time(loop)
    for task in watching:
        task.cancel()
    await server.stop(None)
    await store.close()


def main() -> None:
    """Run the GCS until SIGTERM or the end of its parent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    allow_many_files()
    uvloop.run(_main(parser.parse_args()))
