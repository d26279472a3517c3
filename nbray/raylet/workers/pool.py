"""The node's workers: who is idle, who waits for one. The first use binds a worker to one job."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from nbray.common.accelerators import DeviceIds
from nbray.raylet.exits import IDLE, JOB_OVER, WORN_OUT, Exit
from nbray.raylet.workers.forks import Starts
from nbray.raylet.workers.worker import Worker
from nbray.raylet.workers.worker_life import Event, State
from nbray.runtime_env.setup import PLAIN, Prepared
from nbray.wire.causes import Cause
from nbray.wire.messages import ExitWorker, Message
from nbray.wire.state_messages import WaitingShape

logger = logging.getLogger(__name__)

_MOST_STARTING = 64
_SHOWN_AFTER_S = 1.0
_OWNER_STAYS_S = 5.0
_IDLE_STAYS_S = 2.0
_WORN_STAYS_S = 1.0
_Kind = tuple[bytes, str, DeviceIds]


class Starter(Protocol):
    """Has workers started; see `Forks`."""

    workers: dict[bytes, Worker]

    def start(self, env: Prepared) -> None: ...

    def starting(self, env: str) -> int: ...

    def last_failure(self, env: str) -> str: ...

    def ready(self, worker: Worker) -> None: ...


def _kind_of(worker: Worker) -> _Kind:
    """What it can be used for again."""
    return worker.job_id, worker.env.text, worker.devices


@dataclass(eq=False)
class _Wanted:
    """Somebody has resources and waits for a worker; see `WorkerPool.want`."""

    job_id: bytes
    use: Callable[[Worker | None], None]
    refuse: Callable[[Cause], None]
    fresh: bool
    env: Prepared
    resources: Mapping[str, int]
    devices: DeviceIds
    since: float = field(default_factory=time.monotonic)

    @property
    def kind(self) -> _Kind:
        return self.job_id, self.env.text, self.devices


class WorkerPool:
    """Hands out workers and takes them back.

    Workers are kept by job, by runtime environment and by the accelerators that they were given,
    since libraries look for these once. At most `_MOST_STARTING` of an environment start at once,
    the others wait for their turn.

    Args:
        make_starter: makes what starts workers, and tells this pool how that goes.
        graceful_exit_s: how long a worker may take to leave.
        on_end: called with every worker that ended.
    """

    def __init__(
        self,
        make_starter: Callable[[Starts], Starter],
        graceful_exit_s: float,
        on_end: Callable[[Worker], None],
    ) -> None:
        self._starter = make_starter(self)
        self._graceful_exit_s = graceful_exit_s
        self._on_end = on_end
        self.workers = self._starter.workers
        self._idle: dict[_Kind, list[Worker]] = {}
        self._wanted: dict[str, dict[_Wanted, None]] = {}  # by environment, in their order
        self._ahead = 0

    def start(self, prestart: int) -> None:
        """Start the template, and ``prestart`` workers, as many as are ready for the next actors.

        Without them each actor would wait for a fork: they are started while the actors before
        them begin.
        """
        self._ahead = prestart
        self._start_missing(PLAIN, prestart)

    def _start_missing(self, env: Prepared, enough: int) -> None:
        """Start workers until ``enough`` of an environment are being started."""
        for _ in range(enough - self._starter.starting(env.text)):
            self._starter.start(env)

    def environments(self) -> set[str]:
        """The texts of those in which workers run, or are wanted."""
        return {w.env.text for w in self.workers.values()} | self._wanted.keys()

    # --- for whoever watches --------------------

    def ready(self) -> list[tuple[Worker, str]]:
        """The workers that are ready, and what each does: IDLE, BUSY or ACTOR."""
        return [
            (w, "ACTOR" if w.actor_id else "BUSY" if w.state is State.BUSY else "IDLE")
            for w in self.workers.values()
            if w.state is not State.STARTING
        ]

    def leaves(self, worker_id: bytes, why: Exit) -> None:
        """A worker says why it is about to end."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.exit = worker.exit or why

    def logs(self) -> set[str]:
        """The names of the logs of those that live, without suffix."""
        return {os.path.basename(worker.log) for worker in self.workers.values()}

    def waiting(self) -> list[WaitingShape]:
        """Who has resources and waits for a worker, for longer than one takes to start."""
        now = time.monotonic()
        found: dict[tuple[bool, str, tuple[tuple[str, int], ...]], list[_Wanted]] = {}
        for want in [want for want in self._all_wanted() if now - want.since > _SHOWN_AFTER_S]:
            shape = tuple(sorted(want.resources.items()))
            found.setdefault((want.fresh, want.env.text, shape), []).append(want)
        return [
            WaitingShape(
                dict(shape), len(wants), now - min(want.since for want in wants), fresh,
                why=self.why(wants[0].env),
            )
            for (fresh, _, shape), wants in found.items()
        ]  # fmt: skip

    def why(self, env: Prepared) -> str:
        """A sentence on what is done for those who wait for a worker of an environment."""
        wanted = len(self._wanted.get(env.text, ()))
        starting = self._starter.starting(env.text)
        text = f"{wanted} wait here for a worker; {starting} are being started."
        failure = self._starter.last_failure(env.text)
        return f"{text} The last one failed: {failure}" if failure else text

    # --- starts and ends --------------------

    def registered(self, worker: Worker) -> None:
        """A worker connected and is ready."""
        worker.move(Event.READY, f"pid {worker.pid}")
        self._starter.ready(worker)
        self._keep(worker)
        self.start_again()

    def not_started(self, env: str, cause: Cause) -> None:
        """Workers of an environment do not start: whoever waits for one is told why."""
        for want in self._wanted.pop(env, {}):
            want.refuse(cause)

    def worker_ended(self, worker: Worker) -> None:
        """A worker has ended, ready or not."""
        self._forget(worker)
        try:
            self.start_again()
        finally:  # whoever had it hears of its end, whether others get one or not
            self._on_end(worker)

    def start_again(self) -> None:
        """Give the workers that nobody has used to those who wait, and start what is missing."""
        for text in list(self._wanted):
            unbound, used_up = self._idle.get((b"", text, ())), False
            while unbound and text in self._wanted:
                worker, want = unbound.pop(), next(iter(self._wanted[text]))
                used_up = used_up or want.fresh
                self._drop(want)
                worker.job_id, worker.devices = want.job_id, want.devices
                self._hand_out(worker, want)
            wants = self._wanted.get(text)
            if wants:
                self._start_missing(next(iter(wants)).env, min(_MOST_STARTING, len(wants)))
            elif used_up and text == PLAIN.text:
                self._start_missing(PLAIN, self._ahead - len(unbound or ()))

    def _all_wanted(self) -> list[_Wanted]:
        return [want for wants in self._wanted.values() for want in wants]

    def _drop(self, want: _Wanted) -> bool:
        """Nobody waits for that any more; whether somebody did."""
        wants = self._wanted.get(want.env.text, {})
        if want not in wants:
            return False
        del wants[want]
        if not wants:
            del self._wanted[want.env.text]
        return True

    # --- handed out --------------------

    def want(
        self,
        job_id: bytes,
        use: Callable[[Worker | None], None],
        refuse: Callable[[Cause], None],
        *,
        env: Prepared,
        resources: Mapping[str, int],
        devices: DeviceIds = (),
        fresh: bool = False,
    ) -> Callable[[], bool]:
        """Call ``use`` with a worker of the job, environment and devices, forked if none is idle.

        It is called with None if the job ends before. With ``fresh``, for an actor, only with
        a worker that has not run anything; that outlives the job, as detached actors do.
        ``refuse`` is called instead, with the cause, when the environment's workers do not start.

        Returns:
            what gives up waiting; it says whether nothing had been called yet.
        """
        want = _Wanted(job_id, use, refuse, fresh, env, resources, devices)
        idle = [] if fresh else self._idle.get(want.kind, [])
        if idle:
            self._hand_out(idle.pop(), want)
            return lambda: False
        self._wanted.setdefault(env.text, {})[want] = None
        self.start_again()
        return lambda: self._drop(want)

    def _hand_out(self, worker: Worker, want: _Wanted) -> None:
        worker.move(Event.HANDED_OUT, f"job {want.job_id.hex()}")
        want.use(worker)

    def give_back(self, worker_id: bytes, worn: bool = False) -> None:
        """The worker is idle again, and stays with its job and environment; if worn, it leaves."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        worker.given_back()
        worker.worn = worker.worn or worn
        worker.move(Event.GIVEN_BACK)
        if worker.worn:
            self.ask_to_leave(worker, WORN_OUT)
        else:
            self._reuse(worker)

    def _reuse(self, worker: Worker) -> None:
        if worker.state is not State.IDLE:  # it was ended while somebody had it
            return
        for want in self._wanted.get(worker.env.text, ()):
            if want.kind == _kind_of(worker) and not want.fresh:
                self._drop(want)
                self._hand_out(worker, want)
                return
        # Tasks that block and those of several submitters by turns want it again soon.
        worker.stays_until = max(worker.stays_until, time.monotonic() + _IDLE_STAYS_S)
        self._keep(worker)

    def _keep(self, worker: Worker) -> None:
        self._idle.setdefault(_kind_of(worker), []).append(worker)

    def _forget(self, worker: Worker) -> None:
        """Nobody is to get a worker that ends."""
        idle = self._idle.get(_kind_of(worker), [])
        if worker in idle:
            idle.remove(worker)

    # --- sent away --------------------

    def stays(self, worker_id: bytes) -> None:
        """A worker that was to leave owns what others need: it is idle again, for a while."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        worker.move(Event.STAYED)
        if worker.state is not State.IDLE:
            return
        worker.exit = None
        if worker.worn:
            leave = partial(self.ask_to_leave, worker, WORN_OUT)
            asyncio.get_running_loop().call_later(_WORN_STAYS_S, leave)
            return
        worker.stays_until = time.monotonic() + _OWNER_STAYS_S
        worker.given_back()
        self._reuse(worker)

    def tell(self, worker_id: bytes, message: Message) -> None:
        """Say something to a worker, unless it has ended."""
        worker = self.workers.get(worker_id)
        if worker is not None and worker.connection is not None:
            worker.connection.send(message)

    def lives(self, worker_id: bytes) -> bool:
        """Whether it has not ended yet."""
        return worker_id in self.workers

    def end(self, worker_id: bytes, why: Exit | None) -> None:
        """End a worker at once, unless it has ended: its pid may be somebody else's by now.

        ``why``: by whose wish; None if it was lost already.
        """
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        if why is None:
            worker.move(Event.LOST)
        else:
            worker.move(Event.ENDED_BY_WISH, why.detail)
            if worker.state is State.ENDING:
                worker.exit = worker.exit or why
        self._forget(worker)
        worker.kill()

    def ask_to_leave(self, worker: Worker, why: Exit, *, actor_ended: bool = False) -> None:
        """Have a worker leave, after what its user registered for the end; kill it if it does not.

        Unless its ``actor_ended``, one that owns what others need may stay (`stays`).
        """
        if worker.worker_id not in self.workers or worker.connection is None:
            return
        worker.move(Event.ASKED, why.detail)
        if worker.state is not State.LEAVING:
            return
        worker.exit = worker.exit or why
        worker.connection.send(ExitWorker(actor_ended))

        def overdue() -> None:
            if worker.state is State.LEAVING:
                self.end(worker.worker_id, why)

        asyncio.get_running_loop().call_later(self._graceful_exit_s, overdue)

    def finish_job(self, job_id: bytes) -> None:
        """End all workers of a job but its actors, whose ends are the GCS's matter."""
        over = [want for want in self._all_wanted() if want.job_id == job_id and not want.fresh]
        for want in over:
            self._drop(want)
        for worker in list(self.workers.values()):
            if worker.job_id == job_id and not worker.actor_id:
                self.end(worker.worker_id, JOB_OVER)
        for want in over:
            want.use(None)

    def trim(self, most_idle: int) -> None:
        """Let idle workers above ``most_idle`` leave, those that are bound to a job first."""
        now = time.monotonic()
        surplus = sum(len(idle) for idle in self._idle.values()) - most_idle
        for key in sorted(self._idle, reverse=True):
            idle = self._idle[key]
            for worker in [worker for worker in idle if worker.stays_until < now]:
                if surplus <= 0:
                    break
                surplus -= 1
                idle.remove(worker)
                self.ask_to_leave(worker, IDLE)
            if not idle:
                del self._idle[key]
