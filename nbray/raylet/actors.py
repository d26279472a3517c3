"""Actors on this node: started for the GCS, and asked for by its processes."""

from __future__ import annotations

import asyncio
import logging
import time

from nbray.raylet.leases import LeaseManager, Process, Wish
from nbray.raylet.memory_monitor import Candidate
from nbray.raylet.worker_pool import Worker, WorkerPool
from nbray.runtime_env.setup import EnvError
from nbray.wire import gcs_messages as g
from nbray.wire import messages as m
from nbray.wire.grpc_service import GrpcClient, RpcError

logger = logging.getLogger(__name__)

_WATCH_S = 3600.0


class ActorManager:
    """Gives actors their workers, and carries messages about actors to the GCS."""

    def __init__(self, gcs: GrpcClient, leases: LeaseManager, pool: WorkerPool) -> None:
        self._gcs = gcs
        self._leases = leases
        self._pool = pool
        self._resources: dict[bytes, dict[str, int]] = {}
        self._candidates: dict[bytes, Candidate] = {}
        self._starting: dict[bytes, asyncio.Future[m.ActorCreated]] = {}

    # --- for the GCS --------------------

    async def start(self, request: g.StartActor) -> g.ActorStarted:
        """Give an actor its resources and a worker, and have it created."""
        spec = request.spec
        demand = spec.options.resources
        try:
            env = await self._pool.envs.prepare(spec.options.runtime_env)
        except EnvError as error:
            return g.ActorStarted(None, str(error))
        await self._take(demand)
        created: asyncio.Future[m.ActorCreated] = asyncio.get_running_loop().create_future()
        given: list[Worker] = []

        def use(worker: Worker | None) -> None:
            if worker is None or created.done():  # the GCS has gone, and its call with it
                if worker is not None:
                    self._pool.give_back(worker)
                self._leases.give_back(demand)
                return
            given.append(worker)
            worker.actor_id = spec.actor_id
            self._resources[worker.worker_id] = demand
            self._candidates[worker.worker_id] = Candidate(
                worker.worker_id, spec.owner.worker_id, spec.options.max_restarts != 0,
                time.monotonic(),
            )  # fmt: skip
            self._starting[worker.worker_id] = created
            assert worker.connection is not None
            worker.connection.send(m.BecomeActor(spec, request.job))

        def refuse(text: str) -> None:
            self._leases.give_back(demand)
            if not created.done():
                created.set_exception(EnvError(text))

        self._pool.want(spec.job_id, use, fresh=True, env=env, refuse=refuse)
        try:
            result = await created
        except ConnectionError as error:
            return g.ActorStarted(None, str(error), retriable=True)
        except EnvError as error:
            return g.ActorStarted(None, str(error))
        except asyncio.CancelledError:
            for worker in given:
                self._pool.kill(worker)
            raise
        if result.error_text:
            self._pool.kill(given[0])
            return g.ActorStarted(None, result.error_text)
        return g.ActorStarted(given[0].address, pid=given[0].pid)

    async def _take(self, demand: dict[str, int]) -> None:
        """Wait, in the queue of all requests, until the actor's resources are taken."""
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def granted() -> None:
            if taken.cancelled():
                self._leases.give_back(demand)
            else:
                taken.set_result(None)

        wish = Wish(demand, granted)
        self._leases.submit(wish)
        try:
            await taken
        except asyncio.CancelledError:
            if not self._leases.withdraw(wish) and not taken.cancelled():
                self._leases.give_back(demand)
            raise

    def created(self, process: Process, message: m.ActorCreated) -> None:
        """A worker says how the constructor of its actor ended."""
        starting = self._starting.pop(process.worker_id, None)
        if starting is not None and not starting.done():
            starting.set_result(message)

    def candidates(self) -> list[Candidate]:
        """Who may be ended when memory runs out."""
        return list(self._candidates.values())

    async def worker_gone(self, worker: Worker, cause: str) -> None:
        """The worker of an actor ended: whoever waits for it hears, and so does the GCS."""
        self._candidates.pop(worker.worker_id, None)
        resources = self._resources.pop(worker.worker_id, None)
        if resources is not None:
            self._leases.give_back(resources)
        starting = self._starting.pop(worker.worker_id, None)
        if starting is not None and not starting.done():
            starting.set_exception(ConnectionError(cause))
            return
        try:
            await self._gcs.call("WorkerDied", g.WorkerDied(worker.worker_id, cause), g.Empty)
        except RpcError as error:
            logger.warning("The death of an actor's worker was not reported: %s", error)

    async def kill_worker(self, request: g.KillWorker) -> g.Empty:
        """End a worker's process."""
        worker = self._pool.workers.get(request.worker_id)
        if worker is not None:
            self._pool.kill(worker)
        return g.Empty()

    # --- for drivers and workers --------------------

    async def create(self, process: Process, message: m.CreateActor) -> None:
        """Register an actor at the GCS."""
        try:
            outcome = await self._gcs.call(
                "CreateActor", g.CreateActorRequest(message.spec, message.job), g.Outcome
            )
        except RpcError as error:
            outcome = g.Outcome(str(error))
        process.send(m.ActorRegistered(message.spec.actor_id, outcome.error))

    async def watch(self, process: Process, message: m.WatchActor) -> None:
        """Send the next news of an actor; asks as long as the process is there."""
        request = g.WaitActor(message.actor_id, message.after)
        while not process.closed:
            try:
                state = await self._gcs.call("WaitActor", request, m.ActorState, _WATCH_S)
            except RpcError as error:
                logger.warning("An actor's state is not known: %s", error)
                await asyncio.sleep(0.5)
                continue
            process.send(state)
            return

    async def kill(self, message: m.KillActor) -> None:
        """Have an actor ended by the GCS."""
        cause = message.cause or (
            "all its handles are gone" if message.out_of_scope else "nbray.kill ended it"
        )
        request = g.KillActorRequest(message.actor_id, message.no_restart, cause)
        try:
            await self._gcs.call("KillActor", request, g.Empty)
        except RpcError as error:
            logger.warning("An actor was not killed: %s", error)
