"""The node's workers: forks of a template, each bound to one job at its first use."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nbray.common.session import Session
from nbray.wire.aio import FrameConnection
from nbray.wire.messages import Address, ExitWorker

logger = logging.getLogger(__name__)

_FAILED_START_DELAY_S = 0.5
_LOG_TAIL_BYTES = 16 << 10


@dataclass(eq=False)
class Worker:
    """One worker process."""

    worker_id: bytes
    log: str
    pid: int = 0
    address: Address | None = None
    connection: FrameConnection | None = None
    job_id: bytes = b""
    actor_id: bytes = b""
    lost: bool = False
    end_intended: bool = False
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


class WorkerPool:
    """Starts, hands out and reaps workers. ``on_exit`` hears of every end, with its cause."""

    def __init__(self, session: Session, socket_path: str, host: str) -> None:
        self._host = host
        self._session = session
        self._socket_path = socket_path
        self.on_exit: Callable[[Worker, str], None] = lambda worker, cause: None
        self.workers: dict[bytes, Worker] = {}
        self._idle: dict[bytes, list[Worker]] = {b"": []}
        self._wanted: deque[_Want] = deque()
        self._starting = 0
        self._control: socket.socket
        self._template: subprocess.Popen[bytes]
        self._input = b""

    def start(self, prestart: int) -> None:
        """Start the template, and ``prestart`` workers."""
        mine, theirs = socket.socketpair()
        env = dict(os.environ)
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            env.setdefault(name, "1")
        with open(self._session.log_path("template.log"), "ab") as log:
            self._template = subprocess.Popen(
                [
                    sys.executable, "-m", "nbray.core_worker.template",
                    "--session-dir", str(self._session.path),
                    "--raylet-socket", self._socket_path,
                    "--control-fd", str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=env,
            )  # fmt: skip
        theirs.close()
        mine.setblocking(False)
        self._control = mine
        asyncio.get_running_loop().add_reader(mine.fileno(), self._read_control)
        for _ in range(prestart):
            self._fork()

    def stop(self) -> None:
        """End the template; the workers leave with it."""
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        try:
            self._template.wait(5.0)
        except subprocess.TimeoutExpired:
            self._template.kill()
            self._template.wait()
        for worker in self.workers.values():
            _kill(worker.pid)

    def _fork(self) -> None:
        worker_id = os.urandom(28)
        log = str(self._session.log_path(f"worker-{worker_id.hex()[:12]}"))
        self.workers[worker_id] = Worker(worker_id, log)
        self._starting += 1
        line = json.dumps({"fork": worker_id.hex(), "log": log, "host": self._host}) + "\n"
        self._control.sendall(line.encode())

    def _read_control(self) -> None:
        try:
            data = self._control.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            logger.error("The worker template ended; see template.log. The raylet leaves.")
            os.kill(os.getpid(), signal.SIGTERM)
            return
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self._on_template(json.loads(line))

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
        if worker.address is None:
            self._starting -= 1
            logger.error("A worker ended before it was ready; see %s.err.", worker.log)
            asyncio.get_running_loop().call_later(_FAILED_START_DELAY_S, self._satisfy)
        else:
            self._satisfy()

    def registered(self, worker: Worker) -> None:
        """A worker connected and is ready."""
        self._starting -= 1
        self._idle[b""].append(worker)
        self._satisfy()

    def want(
        self, job_id: bytes, use: Callable[[Worker | None], None], fresh: bool = False
    ) -> None:
        """Call ``use`` with a worker of the job, forked if none is idle.

        It is called with None if the job ends before. With ``fresh``, for an actor, only with
        a worker that has not run anything; that wish outlives the job, as detached actors do.
        """
        idle = [] if fresh else self._idle.get(job_id, [])
        if idle:
            use(idle.pop())
            return
        self._wanted.append(_Want(job_id, use, fresh))
        self._satisfy()

    def _satisfy(self) -> None:
        unbound = self._idle[b""]
        while self._wanted and unbound:
            want = self._wanted.popleft()
            worker = unbound.pop()
            worker.job_id = want.job_id
            want.use(worker)
        while len(self._wanted) > self._starting:
            self._fork()

    def give_back(self, worker: Worker) -> None:
        """The worker is idle again, and stays with its job."""
        if worker.worker_id in self.workers and not worker.actor_id:
            for want in self._wanted:
                if want.job_id == worker.job_id and not want.fresh:
                    self._wanted.remove(want)
                    want.use(worker)
                    return
            self._idle.setdefault(worker.job_id, []).append(worker)

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

    def finish_job(self, job_id: bytes) -> None:
        """End all workers of a job but its actors, whose ends are the GCS's matter."""
        self._idle.pop(job_id, None)
        over = [want for want in self._wanted if want.job_id == job_id and not want.fresh]
        for want in over:
            self._wanted.remove(want)
        for worker in list(self.workers.values()):
            if worker.job_id == job_id and not worker.actor_id:
                self.kill(worker)
        for want in over:
            want.use(None)

    def trim(self, most_idle: int) -> None:
        """Let idle workers above ``most_idle`` leave, those that are bound to a job first."""
        surplus = sum(len(idle) for idle in self._idle.values()) - most_idle
        for job_id in sorted(self._idle, reverse=True):
            idle = self._idle[job_id]
            while surplus > 0 and idle:
                surplus -= 1
                worker = idle.pop(0)
                worker.end_intended = True
                if worker.connection is not None:
                    worker.connection.send(ExitWorker())
            if job_id and not idle:
                del self._idle[job_id]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        logger.debug("Worker pid %d had ended already.", pid)


def _last_lines(path: str, most: int = 20) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
            return b"".join(deque(file, most)).decode(errors="replace")
    except FileNotFoundError:
        return ""
