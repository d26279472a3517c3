"""The node's workers: forks of a template, each bound to one job at its first use."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nbray.common.accelerators import DeviceIds
from nbray.common.own_time import OwnTime
from nbray.common.pids import kill_sessions
from nbray.common.session import Session
from nbray.raylet.exits import IDLE, JOB_OVER, WORN_OUT, Exit
from nbray.raylet.workers.templates import Report, Template
from nbray.raylet.workers.worker import Worker, last_lines
from nbray.runtime_env.setup import EnvManager, Prepared
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.messages import ExitWorker
from nbray.wire.state_messages import WaitingShape

__all__ = ["PLAIN", "Worker", "WorkerPool"]

logger = logging.getLogger(__name__)

_MOST_STARTING = 64
_FAILED_START_DELAY_S = 0.5
_FAILED_STARTS = 3
_CAUSE_KNOWN_IN_S = 1.0
_SHOWN_AFTER_S = 1.0
_OWNER_STAYS_S = 5.0
_WORN_STAYS_S = 1.0
_TEMPLATE_IDLE_S = 60.0
PLAIN = Prepared()
NONE: Mapping[str, int] = {}
_Kind = tuple[bytes, str, DeviceIds]


def _kind_of(worker: Worker) -> _Kind:
    """What it can be used for again."""
    return worker.job_id, worker.env.text, worker.devices


@dataclass(eq=False)
class _Want:
    job_id: bytes
    use: Callable[[Worker | None], None]
    fresh: bool
    env: Prepared
    refuse: Callable[[Cause], None]
    resources: Mapping[str, int]
    devices: DeviceIds
    since: float = field(default_factory=time.monotonic)


@dataclass
class _Trouble:
    """The last starts of an environment's workers failed: so many, since when, and why."""

    since: float
    text: str = ""
    count: int = 0


class WorkerPool:
    """Starts, hands out and reaps workers. ``on_exit`` hears of every end.

    Workers are kept by job, by runtime environment and by the accelerators that they were given,
    since libraries look for these once. An environment with an interpreter of its own has a
    template of its own. At most `_MOST_STARTING` of one start at once, the others wait
    for their turn; a start that fails is tried again, until that has failed for too long.
    """

    def __init__(
        self,
        session: Session,
        socket_path: str,
        host: str,
        envs: EnvManager,
        graceful_exit_s: float,
        start_timeout_s: float = 30.0,
        register_timeout_s: float = 60.0,
    ) -> None:
        self._graceful_exit_s = graceful_exit_s
        self._start_timeout_s = start_timeout_s
        self._register_timeout_s = register_timeout_s
        self.envs = envs
        self._host = host
        self._session = session
        self._socket_path = socket_path
        self.on_exit: Callable[[Worker], None] = lambda worker: None
        self.workers: dict[bytes, Worker] = {}
        self._idle: dict[_Kind, list[Worker]] = {}
        self._wanted: deque[_Want] = deque()
        self._starting: Counter[str] = Counter()
        self._troubles: dict[str, _Trouble] = {}
        self._templates: dict[str, Template] = {}
        self._template_ends = 0
        self._clock = OwnTime(_FAILED_START_DELAY_S)

    def start(self, prestart: int) -> None:
        """Start the template, and ``prestart`` workers."""
        for _ in range(prestart):
            self._fork(PLAIN)

    def environments(self) -> set[str]:
        """The texts of those in which workers run, or are wanted."""
        return {w.env.text for w in self.workers.values()} | {w.env.text for w in self._wanted}

    def stop(self) -> None:
        """End the templates and the workers, with all that these have started."""
        self.envs.stop()
        for template in self._templates.values():
            template.stop()
        for worker in self.workers.values():
            worker.kill()
        kill_sessions(
            {worker.pid: worker.started for worker in self.workers.values() if worker.pid}
        )

    # --- for whoever watches --------------------

    def ready(self) -> list[tuple[Worker, str]]:
        """The workers that are ready, and what each does: IDLE, BUSY or ACTOR."""
        idle = {id(worker) for workers in self._idle.values() for worker in workers}
        return [
            (w, "ACTOR" if w.actor_id else "IDLE" if id(w) in idle else "BUSY")
            for w in self.workers.values()
            if w.address is not None
        ]

    def leaves(self, worker_id: bytes, why: Exit) -> None:
        """A worker says why it is about to end."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.exit = worker.exit or why

    def logs(self) -> set[str]:
        """The names of the logs of those that live, without suffix."""
        return {os.path.basename(worker.log) for worker in self.workers.values()}

    # --- forks --------------------

    def _fork(self, env: Prepared) -> None:
        """Have a worker started; why it does not is kept with the environment."""
        worker_id = os.urandom(28)
        log = str(self._session.log_path(f"worker-{worker_id.hex()[:12]}"))
        worker = self.workers[worker_id] = Worker(worker_id, log, env, ordered=self._clock.now())
        self._starting[env.text] += 1
        try:
            worker.template = self._template(env.python)
        except (OSError, ValueError) as error:
            asyncio.get_running_loop().call_soon(
                self._start_failed, worker, f"Its interpreter was not started: {error}", 1
            )
            return
        worker.template.fork(
            {
                "fork": worker_id.hex(), "log": log, "host": self._host, "env": env.text,
                "env_vars": env.env_vars, "working_dir": env.working_dir, "sys_path": env.sys_path,
            }
        )  # fmt: skip

    def _template(self, python: str) -> Template:
        template = self._templates.get(python)
        if template is None:
            template = self._templates[python] = Template(
                self._session, self._socket_path, python, self._on_report, self._on_template_end
            )
        return template

    def _on_template_end(self, template: Template) -> None:
        """A template ended by itself: another is started, and its workers live on without it."""
        if self._templates.get(template.python) is template:
            del self._templates[template.python]
        text = f"Its interpreter ended:\n{last_lines(str(template.log))}"
        if not template.python:
            logger.error("The worker template, pid %d, ended; see template.log.", template.pid)
            self._template_ends += 1
            if self._template_ends > _FAILED_STARTS:  # no worker came up in between
                logger.error("It ends again and again: the raylet leaves.")
                os.kill(os.getpid(), signal.SIGTERM)
                return
        for worker in [w for w in self.workers.values() if w.template is template]:
            worker.template = None
            if worker.address is None:
                worker.kill()
                self._start_failed(worker, text, 1 if template.python else _FAILED_STARTS)
            elif worker.descriptor is None:  # nobody would hear of its end
                worker.kill()
                self._on_end_seen(worker)

    def _on_report(self, template: Template, report: Report) -> None:
        name = next(report[kind] for kind in ("forked", "refused", "exited") if kind in report)
        worker = self.workers.get(bytes.fromhex(name))
        if worker is None:
            return
        if "forked" in report:
            worker.forked(report["pid"], report["started"], self._on_end_seen)
            if worker.lost or worker.end_intended:
                worker.kill()
        elif "refused" in report:
            self._start_failed(worker, f"A worker was not started: {report['error']}")
        else:
            worker.status, worker.peak_bytes = report["status"], report["max_rss_bytes"]
            self._ended(worker)

    def _on_end_seen(self, worker: Worker) -> None:
        """The kernel says that a worker has ended; its parent, if it can, says how."""

        def overdue() -> None:
            if worker.worker_id in self.workers:
                kill_sessions({worker.pid: worker.started})
                self._ended(worker)

        wait = 0.0 if worker.template is None else _CAUSE_KNOWN_IN_S
        asyncio.get_running_loop().call_later(wait, overdue)

    def _ended(self, worker: Worker) -> None:
        worker.read_last_lines()
        self._remove(worker)
        self.on_exit(worker)

    def _remove(self, worker: Worker) -> None:
        if worker.address is None:
            logger.error("A worker ended before it was ready; see %s.err.", worker.log)
            text = "Its workers end before they are ready"
            early = Cause(CauseKind.ENDED, text, last_lines=worker.last_lines)
            self._start_failed(worker, str(early), _FAILED_STARTS)
            return
        self.workers.pop(worker.worker_id, None)
        worker.ended()
        for idle in self._idle.values():
            if worker in idle:
                idle.remove(worker)
        self._satisfy()

    def _start_failed(self, worker: Worker, text: str, enough: int = 0) -> None:
        """Try again after a while, unless it is in vain: then whoever waits for it hears why.

        It is in vain after ``start_timeout_s`` without a worker, and after ``enough`` failures
        where the fault may be the runtime environment's.
        """
        if self.workers.pop(worker.worker_id, None) is None:
            return
        worker.ended()
        env = worker.env.text
        self._started(env)
        now = self._clock.now()
        trouble = self._troubles.setdefault(env, _Trouble(now))
        trouble.text = text
        trouble.count += 1
        too_often = bool(env) and 0 < enough <= trouble.count
        if too_often or (
            trouble.count >= _FAILED_STARTS and now - trouble.since > self._start_timeout_s
        ):
            del self._troubles[env]
            self._refuse(env, text)
        asyncio.get_running_loop().call_later(_FAILED_START_DELAY_S, self._satisfy)

    def _refuse(self, env: str, text: str) -> None:
        """Workers of an environment do not start: whoever waits for one hears why."""
        if env:
            cause = Cause(CauseKind.RUNTIME_ENV, f"Failed to set up runtime environment.\n{text}")
        else:
            cause = Cause(CauseKind.NO_WORKER, f"No worker could be started.\n{text}", again=True)
        for want in [want for want in self._wanted if want.env.text == env]:
            self._wanted.remove(want)
            want.refuse(cause)

    def _started(self, env: str) -> None:
        """One worker of the environment starts no more: it is ready, or has ended."""
        self._starting[env] -= 1
        if not self._starting[env]:
            del self._starting[env]

    def look_after(self) -> None:
        """End what does not come up: templates that do not fork, workers that do not register.

        To be called every second or more often. Only the time that this process has seen counts.
        """
        now = self._clock.now()
        for worker in list(self.workers.values()):
            if worker.address is not None or now - worker.ordered < self._register_timeout_s:
                continue
            if worker.pid:
                logger.error("Worker pid %d was not ready in time; it is ended.", worker.pid)
                worker.kill()
            elif worker.template is not None:
                logger.error("The template pid %d does not fork; it is ended.", worker.template.pid)
                worker.template.kill()

    # --- handed out --------------------

    def registered(self, worker: Worker) -> None:
        """A worker connected and is ready."""
        self._started(worker.env.text)
        self._troubles.pop(worker.env.text, None)
        if not worker.env.python:
            self._template_ends = 0
        self._idle.setdefault(_kind_of(worker), []).append(worker)
        self._satisfy()

    def want(
        self,
        job_id: bytes,
        use: Callable[[Worker | None], None],
        fresh: bool = False,
        env: Prepared = PLAIN,
        refuse: Callable[[Cause], None] = lambda cause: None,
        resources: Mapping[str, int] = NONE,
        devices: DeviceIds = (),
    ) -> Callable[[], bool]:
        """Call ``use`` with a worker of the job, environment and devices, forked if none is idle.

        It is called with None if the job ends before. With ``fresh``, for an actor, only with
        a worker that has not run anything; that wish outlives the job, as detached actors do.
        ``refuse`` is called instead, with the cause, when the environment's workers do not start.

        Returns:
            what takes the wish back; it says whether nothing had been called yet.
        """
        idle = [] if fresh else self._idle.get((job_id, env.text, devices), [])
        if idle:
            use(idle.pop())
            return lambda: False
        want = _Want(job_id, use, fresh, env, refuse, resources, devices)
        self._wanted.append(want)
        self._satisfy()

        def withdraw() -> bool:
            waits = want in self._wanted
            if waits:
                self._wanted.remove(want)
            return waits

        return withdraw

    def _satisfy(self) -> None:
        for want in list(self._wanted):
            unbound = self._idle.get((b"", want.env.text, ()))
            if unbound and want in self._wanted:
                self._wanted.remove(want)
                worker = unbound.pop()
                worker.job_id, worker.devices = want.job_id, want.devices
                want.use(worker)
        missing = Counter(want.env.text for want in self._wanted)
        envs = {want.env.text: want.env for want in self._wanted}
        for text, count in missing.items():
            room = _MOST_STARTING - self._starting[text]
            for _ in range(min(room, count - self._starting[text])):
                self._fork(envs[text])

    def waiting(self) -> list[WaitingShape]:
        """Who has resources and waits for a worker, for longer than one takes to start."""
        now = time.monotonic()
        found: dict[tuple[bool, str, tuple[tuple[str, int], ...]], list[_Want]] = {}
        for want in [want for want in self._wanted if now - want.since > _SHOWN_AFTER_S]:
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
        wanted = sum(want.env.text == env.text for want in self._wanted)
        text = f"{wanted} wait here for a worker; {self._starting[env.text]} are being started."
        trouble = self._troubles.get(env.text)
        return text if trouble is None else f"{text} The last one failed: {trouble.text}"

    def give_back(self, worker: Worker) -> None:
        """The worker is idle again, and stays with its job and environment; if worn, it leaves."""
        worker.given_back()
        if worker.worn:
            self.ask_to_leave(worker, WORN_OUT)
        elif worker.worker_id in self.workers and not worker.actor_id:
            for want in self._wanted:
                kind = (want.job_id, want.env.text, want.devices)
                if kind == _kind_of(worker) and not want.fresh:
                    self._wanted.remove(want)
                    want.use(worker)
                    return
            self._idle.setdefault(_kind_of(worker), []).append(worker)

    def stays(self, worker_id: bytes) -> None:
        """A worker that was to leave owns what others need: it is idle again, for a while."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        worker.end_intended, worker.exit = False, None
        if worker.worn:
            asyncio.get_running_loop().call_later(
                _WORN_STAYS_S, self.ask_to_leave, worker, WORN_OUT
            )
            return
        worker.stays_until = time.monotonic() + _OWNER_STAYS_S
        self.give_back(worker)

    def lose(self, worker_id: bytes) -> None:
        """A worker is lost: whatever is left of it is ended."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            self.kill(worker, None)

    def kill(self, worker: Worker, why: Exit | None) -> None:
        """End a worker at once, unless it has ended: its pid may be somebody else's by now.

        ``why``: by whose wish; None if it was lost already.
        """
        if worker.worker_id not in self.workers:
            return
        if why is not None:
            worker.end_intended = worker.end_intended or not worker.lost
            if worker.end_intended:
                worker.exit = worker.exit or why
        else:
            worker.lost = True
        worker.kill()

    def ask_to_leave(self, worker: Worker, why: Exit, *, actor_ended: bool = False) -> None:
        """Have a worker leave, after what its user registered for the end; kill it if it does not.

        Unless its ``actor_ended``, one that owns what others need may stay (`stays`).
        """
        if worker.worker_id not in self.workers or worker.connection is None:
            return
        worker.end_intended = True
        worker.exit = worker.exit or why
        worker.connection.send(ExitWorker(actor_ended))

        def overdue() -> None:
            if worker.end_intended:
                self.kill(worker, why)

        asyncio.get_running_loop().call_later(self._graceful_exit_s, overdue)

    def finish_job(self, job_id: bytes) -> None:
        """End all workers of a job but its actors, whose ends are the GCS's matter."""
        for key in [key for key in self._idle if key[0] == job_id]:
            del self._idle[key]
        over = [want for want in self._wanted if want.job_id == job_id and not want.fresh]
        for want in over:
            self._wanted.remove(want)
        for worker in list(self.workers.values()):
            if worker.job_id == job_id and not worker.actor_id:
                self.kill(worker, JOB_OVER)
        for want in over:
            want.use(None)

    def trim(self, most_idle: int) -> None:
        """Let idle workers above ``most_idle`` leave, those that are bound to a job first.

        And the templates of environments that had no worker for a while.
        """
        now = time.monotonic()
        for python, template in list(self._templates.items()):
            if not python or any(w.env.python == python for w in self.workers.values()):
                template.used = now
            elif now - template.used > _TEMPLATE_IDLE_S:
                del self._templates[python]
                template.stop()
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
