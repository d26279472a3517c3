"""``python -m nbray.gcs``: the process of the GCS."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path

import uvloop
from msgspec import structs

from nbray.common.background import Background
from nbray.common.config import Config
from nbray.common.ids import JobID
from nbray.common.process import allow_many_files, leave_in_time, report_ready, watch_parent
from nbray.common.session import Session
from nbray.gcs.actors import ActorTable
from nbray.gcs.groups import GroupTable
from nbray.gcs.health import NodeHealth
from nbray.gcs.kv import KeyValueSpace
from nbray.gcs.packages import PackageTable
from nbray.gcs.state import StateTables
from nbray.gcs.storage import StorageError, Store, Table, open_store
from nbray.wire import gcs_messages as g
from nbray.wire.credentials import read_identity
from nbray.wire.grpc_service import GrpcClient, RpcError, serve
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
        self._token = token
        self._config = config
        self._store = store
        self._node_table = Table(store, "nodes", NodeInfo)
        self._nodes = self._node_table.all()
        self.health = NodeHealth(config, self._raylet, self._node_died)
        self._clients: dict[bytes, GrpcClient] = {}
        self._counters = Table(store, "counters", int)
        self._jobs = self._counters.all().get(b"jobs", 0)
        self.kv = KeyValueSpace(store)
        self.packages = PackageTable(self.kv, store, self._job_lives, config)
        self._unreconciled = {node_id for node_id, node in self._nodes.items() if node.alive}
        self._background = Background()
        self.actors = ActorTable(
            lambda: list(self._nodes.values()), self._raylet, store,
            lambda job_id: self.state.job_is_over(job_id), self._warn,
        )  # fmt: skip
        self.groups = GroupTable(
            lambda: [
                n for n in self._nodes.values()
                if n.alive and n.node_id not in self._unreconciled
            ],
            self._raylet, store, lambda job_id: self.state.job_is_over(job_id), self._warn,
        )  # fmt: skip
        self.groups.end_actors = self.actors.group_removed
        self.groups.actor_may_live = self.actors.may_live
        self.groups.on_created = self.actors.placement.nodes_changed
        self.actors.on_dead = self.groups.actor_died
        self.actors.group_is_removed = self.groups.is_removed
        self.state = StateTables(
            lambda: list(self._nodes.values()), self.actors, self._raylet, time.time, store,
            self.kv, self.health.silence_s,
        )  # fmt: skip

    def _job_lives(self) -> Callable[[bytes], bool]:
        """Whether a job has its driver, or an actor, at this moment."""
        of_actors = self.actors.living_jobs()
        return lambda job_id: job_id in of_actors or not self.state.job_is_over(job_id)

    def _raylet(self, node: NodeInfo) -> GrpcClient:
        client = self._clients.get(node.node_id)
        if client is None:
            client = GrpcClient(f"{node.host}:{node.grpc_port}", self._token)
            self._clients[node.node_id] = client
        return client

    async def resume(self) -> None:
        """Go on with what the store told of; called once, when raylets can call."""
        for node in list(self._nodes.values()):
            if node.alive:
                self.health.watch(node)
            else:
                await self._node_gone(node.node_id, "its node died")
        self.actors.resume()
        self.groups.resume()

    async def _warn(self, job: JobConfig, text: str) -> None:
        """Show a driver why something of its job waits."""
        logger.warning("%s", text)
        node = self._nodes.get(job.driver.node_id)
        if node is None or not node.alive:
            return
        try:
            await self._raylet(node).call("WarnJob", g.WarnJob(job.job_id, text), g.Empty)
        except RpcError as error:
            logger.warning("The driver of job %s was not warned: %s", job.job_id.hex(), error)

    async def report(self, request: g.Report) -> g.Nodes:
        """A raylet's row; the first one registers it."""
        node = request.node
        known = self._nodes.get(node.node_id)
        if known is not None and not known.alive:
            return g.Nodes([], rejected=True)
        if known is None:
            logger.info("Node %s joined from %s.", node.node_id.hex()[:8], node.host)
        self._nodes[node.node_id] = node
        if known is None or known.available != node.available:
            self.actors.placement.nodes_changed()
            self.groups.nodes_changed()
        if node.alive:
            self.health.heard(node)
        else:
            self.health.forget(node.node_id)
        if known is None or not node.alive:
            self._node_table.put(node.node_id, structs.replace(node, stats={}))
        if node.node_id in self._unreconciled and node.alive:
            self._unreconciled.discard(node.node_id)
            self._background.start(self.actors.reconcile(node))
            await self.groups.reconcile(node)
        if request.load is not None:
            self.state.reported(node.node_id, request.load)
        if known is None:
            # When its starter hears that the node is there, every raylet knows it.
            await self._tell_raylets(but=node.node_id)
        if not node.alive:
            await self._node_gone(node.node_id, "its node has left the cluster")
        if known is None or not node.alive:
            await self._store.durable()
        return g.Nodes(list(self._nodes.values()))

    async def _tell_raylets(self, but: bytes) -> None:
        """Send the node table to the raylets, which else have it from their next report."""
        rows = g.Nodes(list(self._nodes.values()))
        others = [n for n in rows.nodes if n.alive and n.node_id != but]
        results = await asyncio.gather(
            *(self._raylet(n).call("NodesChanged", rows, g.Empty, 1.0) for n in others),
            return_exceptions=True,
        )
        for node, result in zip(others, results, strict=True):
            if isinstance(result, RpcError):
                logger.info("Node %s was not told: %s", node.node_id.hex()[:8], result)
            elif isinstance(result, BaseException):
                raise result

    async def nodes(self, _request: g.Empty) -> g.Nodes:
        """All rows, with how long each node has been silent."""
        for node_id, node in self._nodes.items():
            node.silent_s = self.health.silence_s(node_id)
        return g.Nodes(list(self._nodes.values()))

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
        await self.actors.node_died(node_id, cause)
        for job in self.state.running_jobs():
            if job.node_id == node_id:
                await self.finish_job(g.JobId(job.job_id))

    async def _node_died(self, node_id: bytes, cause: str) -> None:
        """A node is dead, and stays so: its raylet, if it comes back, is told to leave."""
        node = self._nodes[node_id]
        if not node.alive:
            return
        logger.warning("Node %s is dead: %s.", node_id.hex()[:8], cause)
        node.alive = False
        node.death_cause = cause
        self._node_table.put(node_id, structs.replace(node, stats={}))
        self.state.node_failed(node, cause)
        await self._node_gone(node_id, "its node died")


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
                "ListNodes": (g.Empty, gcs.nodes),
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
    watching = [loop.create_task(gcs.health.run()), loop.create_task(gcs.packages.watch())]
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


if __name__ == "__main__":
    main()
