"""Actors on this node: started for the GCS, and asked for by its processes.

The GCS may be killed at any moment, and asks again when it is back. So a creation does not depend
on the call that asked for it, an attempt at an actor has one process however often it is asked
for, and what became of it is kept for the next who asks.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec.structs import replace

from nbray.raylet.delivery import deliver
from nbray.raylet.exits import GROUP_REMOVED, PLACED_ANEW, Exit, of_constructor
from nbray.raylet.process import Handlers, Process
from nbray.raylet.workers.memory import Candidate
from nbray.raylet.workers.pending import PendingRequest
from nbray.raylet.workers.resource_set import Allocation, ResourceSet
from nbray.raylet.workers.worker import Worker
from nbray.raylet.workers.worker_life import Event
from nbray.runtime_env.setup import EnvError, EnvManager, Prepared
from nbray.scheduling.policy import Demand
from nbray.wire import gcs_messages as g
from nbray.wire import messages as m
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.grpc_service import GrpcClient, RefusedError, RpcError

logger = logging.getLogger(__name__)

_WATCH_S = 3600.0
_ENDED_KEPT = 1000
_MOST_SHOWN = 100


_UNANSWERED = Cause(CauseKind.KILLED, "the GCS did not say in time that it had registered it")
_GROUP_GONE = Cause(CauseKind.GROUP_REMOVED, "its placement group was removed", again=True)
_NEWER = Cause(CauseKind.SUPERSEDED, "A newer attempt is here.", again=True)
_ENDED_MEANWHILE = Cause(
    CauseKind.SUPERSEDED, "It was ended while it was being started.", again=True
)


class _NotCreated(Exception):
    """An actor has no process."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(eq=False)
class _Attempt:
    """One attempt at an actor: its creation, then its worker, then how it ended."""

    actor_id: bytes
    number: int
    waits_for: str = ""
    since: float = field(default_factory=time.monotonic)
    creation: asyncio.Task[g.ActorStarted] | None = None
    worker: Worker | None = None
    has_room: bool = False
    ended: Cause | None = None
    end: Exit | None = None


class Resources(Protocol):
    """The resources of this node, in the queue of all requests."""

    def submit(self, request: PendingRequest, placed: bool = False) -> None: ...

    def withdraw(self, request: PendingRequest) -> bool: ...

    def give_back(self, taken: Allocation) -> None: ...


class Workers(Protocol):
    """What actors need of the pool of workers; see `WorkerPool`."""

    def want(
        self, job_id: bytes, use: Callable[[Worker | None], None],
        refuse: Callable[[Cause], None], *, env: Prepared, resources: Mapping[str, int],
        fresh: bool,
    ) -> Callable[[], bool]: ...  # fmt: skip

    def give_back(self, worker_id: bytes) -> None: ...

    def end(self, worker_id: bytes, why: Exit | None) -> None: ...

    def ask_to_leave(self, worker: Worker, why: Exit, *, actor_ended: bool) -> None: ...


class ActorManager:
    """Gives actors their workers, and carries messages about actors to the GCS.

    Args:
        gcs: hears of them.
        resources: what they take.
        workers: gives and ends their processes.
        envs: sets runtime environments up.
        worker_of: a worker that has not ended, by its id.
        why_none: why who waits for a worker gets none, in words.

    Attributes:
        started_ever: how many were given room here.
    """

    def __init__(
        self, gcs: GrpcClient, resources: Resources, workers: Workers, envs: EnvManager,
        worker_of: Callable[[bytes], Worker | None], why_none: Callable[[], str],
    ) -> None:  # fmt: skip
        self._gcs = gcs
        self._resources = resources
        self._workers = workers
        self._worker_of = worker_of
        self._why_none = why_none
        self._envs = envs
        self._taken: dict[bytes, Allocation] = {}
        self._candidates: dict[bytes, Candidate] = {}
        self._starting: dict[bytes, asyncio.Future[m.ActorCreated]] = {}
        self._attempts: dict[bytes, _Attempt] = {}
        self._ended: deque[_Attempt] = deque()
        self._registering: dict[bytes, asyncio.Event] = {}
        self.started_ever = 0
        self._asked_to_end: set[asyncio.Future[None]] = set()

    def handlers(self) -> Handlers:
        """What processes ask and say of actors."""
        return {
            m.CreateActor: self.create,
            m.ActorReady: self.ready,
            m.WatchActor: self.watch,
            m.KillActor: self.kill,
            m.ActorCreated: self.created,
            m.ActorWaits: self.waits,
        }

    # --- for the GCS --------------------

    async def start(self, request: g.StartActor) -> g.ActorStarted:
        """Have an attempt at an actor created, or say what became of it."""
        actor_id = request.spec.actor_id
        attempt = self._attempts.get(actor_id)
        if attempt is not None and attempt.number < request.attempt:
            self._end(attempt, PLACED_ANEW)
            attempt = None
        if attempt is None:
            attempt = self._attempts[actor_id] = _Attempt(actor_id, request.attempt)
            attempt.creation = asyncio.get_running_loop().create_task(
                self._create(attempt, request)
            )
        if attempt.number > request.attempt:
            return g.ActorStarted(None, _NEWER)
        if attempt.ended:
            return g.ActorStarted(None, replace(attempt.ended, again=True))
        assert attempt.creation is not None
        try:
            return await asyncio.shield(attempt.creation)
        except asyncio.CancelledError:
            if not attempt.creation.cancelled():
                raise
            return g.ActorStarted(None, _ENDED_MEANWHILE)

    async def _create(self, attempt: _Attempt, request: g.StartActor) -> g.ActorStarted:
        """Give an actor its resources and a worker, and have it created.

        Whatever fails, somebody hears why: the answer to an attempt is the same for ever.
        """
        try:
            started = await self._create_in_turn(attempt, request)
        except Exception as error:
            logger.exception("Actor %s was not created", request.spec.class_name)
            cause = Cause(CauseKind.FAULT, f"Its raylet could not create it: {error!r}")
            started = g.ActorStarted(None, cause)
        if started.cause is not None:
            self._keep_ended(attempt)
        return started

    async def _create_in_turn(self, attempt: _Attempt, request: g.StartActor) -> g.ActorStarted:
        spec = request.spec
        options = spec.options
        attempt.waits_for = "its runtime environment to be set up"
        try:
            env = await self._envs.prepare(options.runtime_env)
        except EnvError as error:
            return g.ActorStarted(None, Cause(CauseKind.RUNTIME_ENV, str(error)))
        attempt.waits_for = "resources"
        taken = await self._take(
            Demand(options.resources, options.strategy, options.selector), request
        )
        if taken is None:
            if self._attempts.get(attempt.actor_id) is attempt:
                del self._attempts[attempt.actor_id]  # it may be asked for again
            return g.ActorStarted(None, busy=True)
        attempt.has_room = True
        self.started_ever += 1
        created: asyncio.Future[m.ActorCreated] = asyncio.get_running_loop().create_future()
        given: list[Worker] = []

        def use(worker: Worker | None) -> None:
            if taken.source.retired and not created.done():
                created.set_exception(_NotCreated(_GROUP_GONE))
            if worker is None or created.done():  # it was ended meanwhile
                if worker is not None:
                    self._workers.give_back(worker.worker_id)
                self._resources.give_back(taken)
                return
            given.append(worker)
            attempt.worker = worker
            attempt.waits_for = f"its constructor, which runs in worker pid {worker.pid}"
            worker.actor_id = spec.actor_id
            worker.move(Event.BECAME_ACTOR, spec.class_name)
            self._taken[worker.worker_id] = taken
            self._candidates[worker.worker_id] = Candidate(
                worker.worker_id, spec.owner.worker_id, spec.options.max_restarts != 0,
                time.monotonic(),
            )  # fmt: skip
            self._starting[worker.worker_id] = created
            assert worker.connection is not None
            worker.connection.send(m.BecomeActor(spec, request.job, taken.device_ids()))

        def refuse(cause: Cause) -> None:
            self._resources.give_back(taken)
            if not created.done():
                created.set_exception(_NotCreated(cause))

        attempt.waits_for = "a worker"
        withdraw = self._workers.want(
            spec.job_id, use, refuse, fresh=True, env=env, resources=options.resources
        )
        try:
            result = await created
        except _NotCreated as error:
            return g.ActorStarted(None, error.cause)
        except asyncio.CancelledError:
            for worker in given:
                self._workers.end(worker.worker_id, attempt.end or PLACED_ANEW)
            if withdraw():
                self._resources.give_back(taken)
            raise
        if result.again:
            self._workers.end(given[0].worker_id, PLACED_ANEW)
            attempt.worker = None  # the end of its process is no news
            if self._attempts.get(attempt.actor_id) is attempt:
                del self._attempts[attempt.actor_id]
            return g.ActorStarted(None, busy=True)
        if result.cause is not None:
            why = of_constructor(result.cause)
            self._workers.ask_to_leave(given[0], why, actor_ended=True)
            attempt.worker = None  # the end of its process is no news
            return g.ActorStarted(None, result.cause)
        return g.ActorStarted(given[0].address, pid=given[0].pid, shown=result.shown)

    def _end(self, attempt: _Attempt, why: Exit, graceful: bool = False) -> None:
        """End what there is of an attempt."""
        attempt.end = why
        if self._attempts.get(attempt.actor_id) is attempt:
            del self._attempts[attempt.actor_id]
        if attempt.creation is not None and not attempt.creation.done():
            attempt.creation.cancel()
        elif attempt.worker is not None:
            if graceful:
                self._workers.ask_to_leave(attempt.worker, why, actor_ended=True)
            else:
                self._workers.end(attempt.worker.worker_id, why)

    def _keep_ended(self, attempt: _Attempt) -> None:
        """Keep how an attempt ended for a GCS that has not heard of it."""
        self._ended.append(attempt)
        if len(self._ended) > _ENDED_KEPT:
            oldest = self._ended.popleft()
            if self._attempts.get(oldest.actor_id) is oldest:
                del self._attempts[oldest.actor_id]

    async def _take(self, demand: Demand, request: g.StartActor) -> Allocation | None:
        """What the actor needs, taken in the queue of all requests; None after ``wait_s``."""
        granted: asyncio.Future[Allocation] = asyncio.get_running_loop().create_future()

        since = time.monotonic() - request.waited_s
        pending = PendingRequest(self, demand, granted.set_result, since=since)
        self._resources.submit(pending, placed=True)
        try:
            async with asyncio.timeout(request.wait_s):
                return await asyncio.shield(granted)
        except TimeoutError:
            if self._resources.withdraw(pending):
                return None
            return granted.result()
        except asyncio.CancelledError:
            if not self._resources.withdraw(pending):
                self._resources.give_back(granted.result())
            raise

    def end_in(self, bundles: list[ResourceSet]) -> None:
        """End the actors in bundles that were released."""
        for worker_id, taken in list(self._taken.items()):
            if taken.source in bundles:
                self._workers.end(worker_id, GROUP_REMOVED)

    def created(self, process: Process, message: m.ActorCreated) -> None:
        """A worker says how the constructor of its actor ended."""
        starting = self._starting.pop(process.worker_id, None)
        if starting is not None and not starting.done():
            starting.set_result(message)

    def waits(self, process: Process, _message: m.ActorWaits) -> None:
        """An actor's constructor waits for a lost argument, whose maker may need what it has.

        It gives all back, and is to be placed anew when the argument is there.
        """
        taken = self._taken.pop(process.worker_id, None)
        worker = self._worker_of(process.worker_id)
        if taken is None or worker is None:
            return
        attempt = self._attempts.get(worker.actor_id)
        if attempt is not None:
            attempt.waits_for = "a lost argument of its constructor, which is made again"
        self._resources.give_back(taken)

    def waiting(self) -> dict[bytes, str]:
        """What the actors wait for that are being started, or the first of them."""
        now = time.monotonic()
        starting = (
            attempt
            for attempt in self._attempts.values()
            if attempt.creation is not None and not attempt.creation.done()
        )
        workers = self._why_none()
        return {
            attempt.actor_id: f"It has waited {now - attempt.since:.0f} s for {attempt.waits_for}."
            + (f" {workers}" if attempt.waits_for == "a worker" else "")
            for attempt in itertools.islice(starting, _MOST_SHOWN)
        }

    def alive(self) -> int:
        """How many actors are here, or are being started."""
        return sum(
            attempt.has_room and not attempt.creation.done()
            if attempt.creation is not None and attempt.worker is None
            else self._has_worker(attempt)
            for attempt in self._attempts.values()
        )

    def _has_worker(self, attempt: _Attempt) -> bool:
        """Whether its worker has not ended."""
        worker = attempt.worker
        return worker is not None and self._worker_of(worker.worker_id) is not None

    def candidates(self) -> list[Candidate]:
        """Who may be ended when memory runs out."""
        return list(self._candidates.values())

    async def worker_gone(self, worker: Worker, cause: Cause) -> None:
        """The worker of an actor ended: whoever waits for it hears, and so does the GCS."""
        self._candidates.pop(worker.worker_id, None)
        taken = self._taken.pop(worker.worker_id, None)
        if taken is not None:
            self._resources.give_back(taken)
        starting = self._starting.pop(worker.worker_id, None)
        if starting is not None and not starting.done():
            starting.set_exception(_NotCreated(replace(cause, again=True)))
            return
        attempt = self._attempts.get(worker.actor_id)
        if attempt is None or attempt.worker is not worker:
            return  # the GCS had it ended
        if not attempt.ended:
            attempt.ended = cause
            self._keep_ended(attempt)
        await self._report(g.WorkerDied(worker.worker_id, cause, worker.actor_id, attempt.number))

    async def owner_gone(self, worker: Worker, cause: Cause) -> None:
        """A worker ended that had created actors: they end with it."""
        await self._report(g.WorkerDied(worker.worker_id, cause))

    async def _report(self, died: g.WorkerDied) -> None:
        await deliver(self._gcs, "WorkerDied", died, "The death of a worker", g.Empty)

    async def end(self, request: g.EndActor) -> g.Empty:
        """End the process of an attempt, or do not start it."""
        attempt = self._attempts.get(request.actor_id)
        if attempt is not None and attempt.number == request.attempt:
            why = Exit("INTENDED_SYSTEM_EXIT", f"The actor was ended: {request.cause}.")
            self._end(attempt, why, request.graceful)
        return g.Empty()

    async def here(self, _request: g.Empty) -> g.ActorsHere:
        """The attempts that are being started, or live, or of whose end nobody may have heard."""
        rows = [
            g.ActorHere(attempt.actor_id, attempt.number, attempt.ended)
            for attempt in self._attempts.values()
            if (attempt.creation is not None and not attempt.creation.done())
            or self._has_worker(attempt)
            or attempt.ended
        ]
        return g.ActorsHere(rows)

    # --- for drivers and workers --------------------

    async def create(self, process: Process, message: m.CreateActor) -> None:
        """Register an actor at the GCS."""
        creator = self._worker_of(process.worker_id)
        if creator is not None:
            creator.made_actors = True
        actor_id = message.spec.actor_id
        registered = self._registering[actor_id] = asyncio.Event()
        try:
            if message.spec.options.name:
                await self.settled()
            request = g.CreateActorRequest(message.spec, message.job, message.waits)
            outcome = await self._gcs.call("CreateActor", request, g.Outcome)
            is_unknown = False
        except RpcError as error:
            outcome = g.Outcome(str(error))
            is_unknown = not isinstance(error, RefusedError)
        finally:
            del self._registering[actor_id]
            registered.set()
        process.send(m.ActorRegistered(message.spec.actor_id, outcome.error, outcome.taken))
        if is_unknown:  # the GCS may have made it before it fell silent, and nobody would have it
            await self.kill(process, m.KillActor(actor_id, _UNANSWERED))

    async def ready(self, _process: Process, message: m.ActorReady) -> None:
        """Have an actor placed whose arguments are there."""
        await self._registered(message.actor_id)
        request = g.ActorReadyRequest(message.actor_id, message.dependencies)
        what = "That an actor has its arguments"
        await deliver(self._gcs, "ActorReady", request, what, g.Empty)

    async def _registered(self, actor_id: bytes) -> None:
        """Until the GCS has answered what it was asked first about an actor."""
        registering = self._registering.get(actor_id)
        if registering is not None:
            await registering.wait()

    async def watch(self, process: Process, message: m.WatchActor) -> None:
        """Send the next news of an actor; asks as long as the process is there."""
        request = g.WaitActor(message.actor_id, message.after)
        while not process.closed:
            try:
                state = await self._gcs.call("WaitActor", request, m.ActorState, _WATCH_S)
            except Exception as error:  # who waits for it waits on, whatever this call ran into
                logger.warning("An actor's state is not known: %r", error)
                await asyncio.sleep(0.5)
                continue
            process.send(state)
            return

    def kill(self, _process: Process, message: m.KillActor) -> Coroutine[Any, Any, None]:
        """Have an actor ended by the GCS; what is asked from now on comes after it."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked_to_end.add(told)
        return self._kill(message, told)

    async def _kill(self, message: m.KillActor, told: asyncio.Future[None]) -> None:
        graceful = message.cause.kind is not CauseKind.KILLED
        request = g.KillActorRequest(
            message.actor_id, message.no_restart, message.cause, os.urandom(8), graceful
        )
        try:
            await self._registered(message.actor_id)
            await deliver(self._gcs, "KillActor", request, "The end of an actor", g.Empty)
        finally:
            self._asked_to_end.discard(told)
            told.set_result(None)

    @property
    def is_settled(self) -> bool:
        """Whether the GCS has heard of all ends that were asked for."""
        return not self._asked_to_end

    async def settled(self) -> None:
        """Until the GCS has heard of the ends that were asked for: their names are free then."""
        if self._asked_to_end:
            await asyncio.wait(self._asked_to_end.copy())
