"""Workers that start, and how they end: forks of templates, one template per interpreter."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import time
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from nbray.common.own_time import OwnTime
from nbray.common.pids import kill_sessions
from nbray.common.session import Session
from nbray.common.shortages import is_shortage
from nbray.common.sparing_log import SparingLog
from nbray.raylet.workers.templates import ForkedTemplate, Report, Template
from nbray.raylet.workers.worker import Worker, last_lines
from nbray.raylet.workers.worker_life import State
from nbray.runtime_env.setup import Prepared
from nbray.wire.causes import Cause, CauseKind

logger = logging.getLogger(__name__)
_shortages = SparingLog(logger)

_FAILED_START_DELAY_S = 0.5
_FAILED_STARTS = 3
_CAUSE_KNOWN_IN_S = 1.0
_LOOK_AGAIN_S = 0.2
_TEMPLATE_IDLE_S = 60.0
_IMPORTS_LONGER = 10
_FILES_EACH = 2  # its connection, and what tells of its end
_FILES_KEPT = 64


class Starts(Protocol):
    """Who has workers started, and is told how that goes."""

    def worker_ended(self, worker: Worker) -> None:
        """A worker has ended, ready or not."""

    def not_started(self, env: str, cause: Cause) -> None:
        """The workers of an environment do not start: it is in vain to wait for one."""

    def start_again(self) -> None:
        """A start failed a while ago, and may be tried again."""


@dataclass
class _Trouble:
    """The last starts of an environment's workers failed: so many, since when, and why.

    ``last``: when one failed the last time. A start that began long after that is none of these.
    """

    since: float
    last: float
    text: str = ""
    count: int = 0


class Forks:
    """The processes of workers. A start that fails is tried again, until that has failed too long.

    An environment with an interpreter of its own has a template of its own.

    Args:
        session: with the folder of the logs.
        socket_path: where workers connect.
        host: this node's address.
        starts: is told how starts go.
        start_timeout_s: how long starts of an environment may go on failing.
        register_timeout_s: how long one worker may take until it is ready.

    Attributes:
        workers: those that live, or are being started.
    """

    def __init__(
        self,
        session: Session,
        socket_path: str,
        host: str,
        starts: Starts,
        start_timeout_s: float,
        register_timeout_s: float,
    ) -> None:
        self.workers: dict[bytes, Worker] = {}
        self._session = session
        self._socket_path = socket_path
        self._host = host
        self._starts = starts
        self._start_timeout_s = start_timeout_s
        self._register_timeout_s = register_timeout_s
        self._starting: Counter[str] = Counter()
        self._troubles: dict[str, _Trouble] = {}
        self._templates: dict[str, Template] = {}
        self._orphans: list[Worker] = []
        self._template_ends = 0
        self._ends_since = 0.0
        self._clock = OwnTime(_FAILED_START_DELAY_S)

    def stop(self) -> None:
        """End the templates and the workers, with all that these have started."""
        done = {template for template in self._templates.values() if template.stop()}
        left = [worker for worker in self.workers.values() if worker.template not in done]
        for worker in left:
            worker.kill()
        if left:
            kill_sessions({worker.pid: worker.started for worker in left if worker.pid})

    # --- starts --------------------

    def start(self, env: Prepared) -> None:
        """Have a worker started; why it does not is kept with the environment."""
        worker_id = os.urandom(28)
        log = str(self._session.log_path(f"worker-{worker_id.hex()[:12]}"))
        worker = self.workers[worker_id] = Worker(worker_id, log, env)
        worker.begun = worker.ordered = self._clock.now()
        self._starting[env.text] += 1
        limit = self._limit_of_files()
        if limit:
            asyncio.get_running_loop().call_soon(self._start_failed, worker, limit)
            return
        try:
            worker.template = self._template(env.python)
        except (OSError, ValueError) as error:
            text = f"Its interpreter was not started: {error}"
            enough = 1
            if isinstance(error, OSError) and is_shortage(error):
                enough = 0  # which is no fault of the environment's
                _shortages.warning("%s", text)
            asyncio.get_running_loop().call_soon(self._start_failed, worker, text, enough)
            return
        worker.template.fork(
            {
                "fork": worker_id.hex(), "log": log, "raylet": self._socket_path,
                "host": self._host, "env": env.text, "env_vars": env.env_vars,
                "working_dir": env.working_dir, "sys_path": env.sys_path,
            }
        )  # fmt: skip

    def _limit_of_files(self) -> str:
        """Why there can be no more workers, if this process can soon open no more files.

        Without files it could neither report to the GCS nor serve the workers that it has, so some
        are kept for that. They are counted when workers may have taken a good part of them.
        """
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if most == resource.RLIM_INFINITY or 2 * _FILES_EACH * len(self.workers) < most:
            return ""
        try:
            open_now = len(os.listdir("/proc/self/fd"))
        except OSError:  # there are none left
            open_now = most
        promised = _FILES_EACH * self._starting.total()
        if open_now + promised + min(_FILES_KEPT, most // 4) <= most:
            return ""
        return (
            f"A worker was not started: the node's raylet may have {most} files open, and each of "
            f"its {len(self.workers)} workers takes {_FILES_EACH}. Raise the limit (`ulimit -n`)."
        )

    def starting(self, env: str) -> int:
        """How many workers of an environment are being started."""
        return self._starting[env]

    def last_failure(self, env: str) -> str:
        """Why the last worker of an environment did not start; empty if it did."""
        trouble = self._troubles.get(env)
        return trouble.text if trouble is not None else ""

    def ready(self, worker: Worker) -> None:
        """A worker connected."""
        self._started(worker.env.text)
        self._troubles.pop(worker.env.text, None)
        if not worker.env.python:
            self._template_ends = 0

    def _started(self, env: str) -> None:
        """One worker of the environment starts no more: it is ready, or has ended."""
        self._starting[env] -= 1
        if not self._starting[env]:
            del self._starting[env]

    def _start_failed(self, worker: Worker, text: str, enough: int = 0) -> None:
        """Try again after a while, unless it is in vain: then whoever waits for it is told why.

        It is in vain after ``start_timeout_s`` without a worker, and after ``enough`` failures
        where the fault may be the runtime environment's; not while one is under way that was
        ordered earlier and may come up yet.
        """
        if self.workers.pop(worker.worker_id, None) is None:
            return
        worker.gone()
        env = worker.env.text
        self._started(env)
        now = self._clock.now()
        trouble = self._troubles.get(env)
        if trouble is None or worker.begun - trouble.last > self._start_timeout_s:
            trouble = self._troubles[env] = _Trouble(now, now)
        trouble.text, trouble.last = text, now
        trouble.count += 1
        too_often = bool(env) and 0 < enough <= trouble.count
        too_long = trouble.count >= _FAILED_STARTS and now - trouble.since > self._start_timeout_s
        if too_often or (too_long and not self._is_older_under_way(worker)):
            del self._troubles[env]
            self._starts.not_started(env, _in_vain(env, text))
        asyncio.get_running_loop().call_later(_FAILED_START_DELAY_S, self._starts.start_again)

    def _is_older_under_way(self, failed: Worker) -> bool:
        """Whether a worker of the same environment is being started that was ordered earlier."""
        return any(
            worker.state is State.STARTING
            and worker.env.text == failed.env.text
            and worker.begun < failed.begun
            for worker in self.workers.values()
        )

    def look_after(self) -> None:
        """End what does not come up: templates that do not fork, workers that do not register.

        To be called every second or more often. Only the time that this process has seen counts,
        for each step anew; a template's imports may take longer, on a machine that others keep
        busy, since to begin them again would help nobody.
        """
        now = self._clock.now()
        for worker in list(self.workers.values()):
            if worker.state is not State.STARTING:
                continue
            imports = worker.template is not None and not worker.template.serves
            patience_s = self._register_timeout_s * (_IMPORTS_LONGER if imports else 1)
            if now - worker.ordered < patience_s:
                continue
            if worker.pid:
                logger.error("Worker pid %d was not ready in time; it is ended.", worker.pid)
                worker.kill()
            elif worker.template is not None:
                logger.error("The template pid %d does not fork; it is ended.", worker.template.pid)
                worker.template.kill()

    # --- templates --------------------

    def _template(self, python: str) -> Template:
        template = self._templates.get(python)
        if template is None:
            template = Template(self._session, python, self._on_report, self._on_template_end)
            self._templates[python] = template
        return template

    def adopt(self, forked: ForkedTemplate) -> None:
        """Take a template that this process has forked before it was a raylet."""
        self._templates[""] = Template(
            self._session, "", self._on_report, self._on_template_end, forked
        )

    def trim(self) -> None:
        """End the templates of interpreters that had no worker for a while."""
        now = time.monotonic()
        for python, template in list(self._templates.items()):
            if not python or any(w.env.python == python for w in self.workers.values()):
                template.used = now
            elif now - template.used > _TEMPLATE_IDLE_S:
                del self._templates[python]
                template.stop()

    def _on_template_end(self, template: Template) -> None:
        """A template ended by itself: another is started, and its workers live on without it.

        One that fails each time will fail again; one that somebody kills may come up yet.
        """
        if self._templates.get(template.python) is template:
            del self._templates[template.python]
        text = f"Its interpreter ended:\n{last_lines(str(template.log))}"
        if not template.python:
            logger.error("The worker template, pid %d, ended; see template.log.", template.pid)
            now = self._clock.now()
            if not self._template_ends:
                self._ends_since = now
            self._template_ends += 1  # no worker came up in between
            may_come = template.was_killed and now - self._ends_since <= self._start_timeout_s
            if self._template_ends > _FAILED_STARTS and not may_come:
                logger.error("It ends again and again: the raylet leaves.")
                os.kill(os.getpid(), signal.SIGTERM)
                return
        enough = 1 if template.python else 0 if template.was_killed else _FAILED_STARTS
        for worker in [w for w in self.workers.values() if w.template is template]:
            worker.template = None
            if worker.state is State.STARTING:
                worker.kill()
                self._start_failed(worker, text, enough)
            else:  # it may have been up before its template could tell of it
                self._watch(worker)

    def _on_report(self, template: Template, report: Report) -> None:
        now = self._clock.now()
        if "ready" in report:
            for waiting in self.workers.values():
                if waiting.template is template:
                    waiting.ordered = now
            return
        name = next(report[kind] for kind in ("forked", "refused", "exited") if kind in report)
        worker = self.workers.get(bytes.fromhex(name))
        if worker is None:
            return
        if "forked" in report:
            worker.ordered = now
            worker.pid, worker.started = report["pid"], report["started"]
            self._watch(worker)
        elif "refused" in report:
            self._start_failed(worker, f"A worker was not started: {report['error']}")
        else:
            worker.status, worker.peak_bytes = report["status"], report["max_rss_bytes"]
            self._ended(worker)

    # --- ends --------------------

    def _watch(self, worker: Worker) -> None:
        """Hear of its end from the kernel, as soon as there is a descriptor for that."""
        if worker.worker_id not in self.workers:
            return
        try:
            lives = worker.watch(self._on_end_seen)
        except OSError as error:
            _shortages.warning("The end of worker pid %d is not watched yet: %s", worker.pid, error)
            asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._watch, worker)
            return
        if not lives:
            self._on_end_seen(worker)

    def _on_end_seen(self, worker: Worker) -> None:
        """The kernel says that a worker has ended; its parent, if it can, says how."""
        wait = 0.0 if worker.template is None else _CAUSE_KNOWN_IN_S
        asyncio.get_running_loop().call_later(wait, self._overdue, worker)

    def _overdue(self, worker: Worker) -> None:
        if worker.worker_id in self.workers:
            if not self._orphans:
                asyncio.get_running_loop().call_soon(self._end_orphans)
            self._orphans.append(worker)

    def _end_orphans(self) -> None:
        """Workers of whose ends no parent tells have ended, with what is left of their sessions.

        That is looked for among all processes of the machine: once for all who ended together.
        """
        orphans = [worker for worker in self._orphans if worker.worker_id in self.workers]
        try:
            kill_sessions({worker.pid: worker.started for worker in orphans})
        except OSError as error:  # no descriptor is left
            text = "What %d dead workers left is not ended yet: %s"
            _shortages.warning(text, len(orphans), error)
            asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._end_orphans)
            return
        self._orphans = []
        for worker in orphans:
            self._ended(worker)

    def _ended(self, worker: Worker) -> None:
        worker.read_last_lines()
        if worker.state is State.STARTING:
            logger.error("A worker ended before it was ready; see %s.err.", worker.log)
            text = "Its workers end before they are ready"
            early = Cause(CauseKind.ENDED, text, last_lines=worker.last_lines)
            self._start_failed(worker, str(early), _FAILED_STARTS)
        else:
            del self.workers[worker.worker_id]
            worker.gone()
        self._starts.worker_ended(worker)


def _in_vain(env: str, text: str) -> Cause:
    if env:
        return Cause(CauseKind.RUNTIME_ENV, f"Failed to set up runtime environment.\n{text}")
    return Cause(CauseKind.NO_WORKER, f"No worker could be started.\n{text}", again=True)
