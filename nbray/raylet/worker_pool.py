"""The node's workers: forks of a template, each bound to one job at its first use."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbray.common.log_files import Log
from nbray.common.session import Session
from nbray.raylet.templates import Template
from nbray.runtime_env.setup import EnvManager, Prepared
from nbray.wire.aio import FrameConnection
from nbray.wire.messages import ExitWorker
from nbray.wire.records import Address

logger = logging.getLogger(__name__)

_FAILED_START_DELAY_S = 0.5
_FAILED_STARTS = 3
_OWNER_STAYS_S = 5.0
_TEMPLATE_IDLE_S = 60.0
_LOG_TAIL_BYTES = 16 << 10
PLAIN = Prepared()


@dataclass(eq=False)
class Worker:
    """One worker process."""

    worker_id: bytes
    log: str
    env: Prepared
    pid: int = 0
    address: Address | None = None
    connection: FrameConnection | None = None
    job_id: bytes = b""
    actor_id: bytes = b""
    made_actors: bool = False
    lost: bool = False
    end_intended: bool = False
    stays_until: float = 0.0
    last_lines: str = ""
    out_of_memory: str = ""
    retry: bool = False

    def story(self, cause: str) -> str:
        """How it ended, with the last lines that it wrote to stderr."""
        lines = self.last_lines.strip()
        return f"{cause}; its last lines of stderr:\n{lines}" if lines else cause


@dataclass(eq=False)
class _Want:
    job_id: bytes
    use: Callable[[Worker | None], None]
    fresh: bool
    env: Prepared
    refuse: Callable[[str], None]


class WorkerPool:
    """Starts, hands out and reaps workers. ``on_exit`` hears of every end, with its cause.

    Workers are kept by job and by runtime environment. An environment with an interpreter of its
    own has a template of its own.
    """

    def __init__(
        self,
        session: Session,
        socket_path: str,
        host: str,
        envs: EnvManager,
        graceful_exit_s: float,
    ) -> None:
        self._graceful_exit_s = graceful_exit_s
        self.envs = envs
        self._host = host
        self._session = session
        self._socket_path = socket_path
        self.on_exit: Callable[[Worker, str], None] = lambda worker, cause: None
        self.workers: dict[bytes, Worker] = {}
        self._idle: dict[tuple[bytes, str], list[Worker]] = {}
        self._wanted: deque[_Want] = deque()
        self._starting: Counter[str] = Counter()
        self._failed_starts: Counter[str] = Counter()
        self._templates: dict[str, Template] = {}

    def start(self, prestart: int) -> None:
        """Start the template, and ``prestart`` workers."""
        for _ in range(prestart):
            self._fork(PLAIN)

    def environments(self) -> set[str]:
        """The texts of those in which workers run, or are wanted."""
        return {w.env.text for w in self.workers.values()} | {w.env.text for w in self._wanted}

    def stop(self) -> None:
        """End the templates; the workers leave with the raylet."""
        self.envs.stop()
        for template in self._templates.values():
            template.stop()
        for worker in self.workers.values():
            if worker.pid:
                _kill(worker.pid)

    def _fork(self, env: Prepared) -> None:
        template = self._templates.get(env.python)
        if template is None:
            try:
                template = Template(
                    self._session, self._socket_path, env.python, self._on_template, self._on_end
                )
            except (OSError, ValueError) as error:
                if not env.python:
                    raise
                self._refuse(env.text, f"Its interpreter {env.python!r} does not start: {error}.")
                return
            self._templates[env.python] = template
        worker_id = os.urandom(28)
        log = str(self._session.log_path(f"worker-{worker_id.hex()[:12]}"))
        self.workers[worker_id] = Worker(worker_id, log, env)
        self._starting[env.text] += 1
        template.fork(
            {
                "fork": worker_id.hex(), "log": log, "host": self._host, "env": env.text,
                "env_vars": env.env_vars, "working_dir": env.working_dir, "sys_path": env.sys_path,
            }
        )  # fmt: skip

    def _on_end(self, template: Template) -> None:
        """A template ended by itself; without the raylet's own, nothing can go on."""
        if not template.python:
            logger.error("The worker template ended; see template.log. The raylet leaves.")
            os.kill(os.getpid(), signal.SIGTERM)
            return
        del self._templates[template.python]
        text = f"Its interpreter ended:\n{_last_lines(str(template.log))}"
        for worker in [w for w in self.workers.values() if w.env.python == template.python]:
            if worker.address is None:
                del self.workers[worker.worker_id]
                self._started(worker.env.text)
                self._refuse(worker.env.text, text)

    def _refuse(self, env: str, text: str) -> None:
        """Workers of an environment do not start: whoever waits for one hears why."""
        for want in [want for want in self._wanted if want.env.text == env]:
            self._wanted.remove(want)
            want.refuse(f"Failed to set up runtime environment.\n{text}")

    def _on_template(self, report: dict[str, Any]) -> None:
        worker = self.workers.get(bytes.fromhex(report.get("forked") or report.get("exited") or ""))
        if worker is None:
            return
        if "forked" in report:
            worker.pid = report["pid"]
            return
        status = report["status"]
        if os.WIFSIGNALED(status):
            how = f"signal {signal.Signals(os.WTERMSIG(status)).name}"
        else:
            how = f"exit status {os.WEXITSTATUS(status)}"
        cause = f"worker pid {worker.pid} ended with {how}, {report['max_rss_bytes'] >> 20} MB peak"
        worker.last_lines = _last_lines(worker.log + ".err")
        self._remove(worker)
        logger.info("%s", worker.story(worker.out_of_memory or cause))
        self.on_exit(worker, cause)

    def _remove(self, worker: Worker) -> None:
        self.workers.pop(worker.worker_id, None)
        for idle in self._idle.values():
            if worker in idle:
                idle.remove(worker)
        if worker.address is not None:
            self._satisfy()
            return
        env = worker.env.text
        self._started(env)
        logger.error("A worker ended before it was ready; see %s.err.", worker.log)
        self._failed_starts[env] += 1
        if env and self._failed_starts[env] >= _FAILED_STARTS:
            del self._failed_starts[env]
            self._refuse(env, worker.story("Its workers end before they are ready"))
        asyncio.get_running_loop().call_later(_FAILED_START_DELAY_S, self._satisfy)

    def _started(self, env: str) -> None:
        """One worker of the environment starts no more: it is ready, or has ended."""
        self._starting[env] -= 1
        if not self._starting[env]:
            del self._starting[env]

    def registered(self, worker: Worker) -> None:
        """A worker connected and is ready."""
        self._started(worker.env.text)
        self._failed_starts.pop(worker.env.text, None)
        self._idle.setdefault((b"", worker.env.text), []).append(worker)
        self._satisfy()

    def want(
        self,
        job_id: bytes,
        use: Callable[[Worker | None], None],
        fresh: bool = False,
        env: Prepared = PLAIN,
        refuse: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Call ``use`` with a worker of the job and environment, forked if none is idle.

        It is called with None if the job ends before. With ``fresh``, for an actor, only with
        a worker that has not run anything; that wish outlives the job, as detached actors do.
        ``refuse`` is called instead, with the cause, when the environment's workers do not start.
        """
        idle = [] if fresh else self._idle.get((job_id, env.text), [])
        if idle:
            use(idle.pop())
            return
        self._wanted.append(_Want(job_id, use, fresh, env, refuse))
        self._satisfy()

    def _satisfy(self) -> None:
        for want in list(self._wanted):
            unbound = self._idle.get((b"", want.env.text))
            if unbound and want in self._wanted:
                self._wanted.remove(want)
                worker = unbound.pop()
                worker.job_id = want.job_id
                want.use(worker)
        missing = Counter(want.env.text for want in self._wanted)
        envs = {want.env.text: want.env for want in self._wanted}
        for text, count in missing.items():
            for _ in range(count - self._starting[text]):
                self._fork(envs[text])

    def give_back(self, worker: Worker) -> None:
        """The worker is idle again, and stays with its job and environment."""
        if worker.worker_id in self.workers and not worker.actor_id:
            for want in self._wanted:
                same = want.job_id == worker.job_id and want.env.text == worker.env.text
                if same and not want.fresh:
                    self._wanted.remove(want)
                    want.use(worker)
                    return
            self._idle.setdefault((worker.job_id, worker.env.text), []).append(worker)

    def stays(self, worker: Worker) -> None:
        """A worker that was to leave owns what others need: it is idle again, for a while."""
        worker.end_intended = False
        worker.stays_until = time.monotonic() + _OWNER_STAYS_S
        self.give_back(worker)

    def kill(self, worker: Worker, intended: bool = True) -> None:
        """End a worker at once, unless it has ended: its pid may be somebody else's by now.

        ``intended``: by somebody's wish, and not because it was lost already.
        """
        if worker.worker_id not in self.workers:
            return
        if intended:
            worker.end_intended = worker.end_intended or not worker.lost
        else:
            worker.lost = True
        if worker.pid:
            _kill(worker.pid)

    def ask_to_leave(self, worker: Worker, *, actor_ended: bool = False) -> None:
        """Have a worker leave, after what its user registered for the end; kill it if it does not.

        Unless its ``actor_ended``, one that owns what others need may stay (`stays`).
        """
        if worker.worker_id not in self.workers or worker.connection is None:
            return
        worker.end_intended = True
        worker.connection.send(ExitWorker(actor_ended))

        def overdue() -> None:
            if worker.end_intended:
                self.kill(worker)

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
                self.kill(worker)
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
                self.ask_to_leave(worker)
            if not idle:
                del self._idle[key]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        logger.debug("Worker pid %d had ended already.", pid)


def _last_lines(path: str, most: int = 20) -> str:
    lines = Log(Path(path)).tail(_LOG_TAIL_BYTES).splitlines(keepends=True)[-most:]
    return b"".join(lines).decode(errors="replace")
