"""What user code writes in a worker: kept in the worker's log, and sent to its driver.

Python's ``sys.stdout`` and ``sys.stderr`` write to the log at once and into a `Batch`. What is
written below Python (by C code, by subprocesses) goes straight to the log, since descriptors 1 and
2 are the log files: no pipe that dies with the process, so that a crash leaves its last words.
It is found by reading the log's tail, from which Python's own writes are left out: they are made
through a file description of their own that appends, so its offset tells where each one ended.

The batch leaves every `output_batch_s`, and before the reply of a task that has printed. While
the driver does not read, nothing more is sent: the batch keeps its bounds, and what comes on top
is counted.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from typing import Any

from nbray.common.config import Config
from nbray.common.displays import as_json
from nbray.core_worker.context import running, set_origin_finder
from nbray.core_worker.identity import Identity
from nbray.core_worker.peers import Peers
from nbray.core_worker.ports import Inbox
from nbray.core_worker.run.log_file import LogFile
from nbray.core_worker.run.output_batch import Batch
from nbray.core_worker.run.worker_streams import LogOnly, WorkerStream
from nbray.wire.connection import Connection
from nbray.wire.records import OutputSource
from nbray.wire.watching_messages import OutputDisplay

logger = logging.getLogger(__name__)

_MAX_SOURCES = 1000
_QUIET_LOOKS = 4
_CHILDREN_LOOK_S = 0.5
_current: WorkerOutput | None = None


class WorkerOutput:
    """The output of one worker; its methods may be called from any thread."""

    def __init__(
        self, config: Config, me: Identity, inbox: Inbox, peers: Peers, log_path: str
    ) -> None:
        """The logs are ``log_path`` with .out and .err."""
        self._me = me
        self._inbox = inbox
        self._peers = peers
        self._period_s = config.output_batch_s
        self._batch = Batch(config.output_batch_lines, config.output_batch_bytes)
        self.lock = threading.RLock()
        self._logs = {
            name: LogFile(
                f"{log_path}.{name[3:]}", config.rotation_max_bytes,
                config.rotation_backup_count,
            )
            for name in ("stdout", "stderr")
        }  # fmt: skip
        self._both = tuple(self._logs.values())
        self._streams: tuple[Any, Any] = (None, None)
        self._sources: dict[bytes, OutputSource] = {}
        self._scheduled = False
        self._watching = False
        self._busy = 0
        self._quiet = 0
        self._connection: Connection | None = None
        # What a fork of this worker writes is found in the log, as that of other programs is.
        self.forked = False

    def forget_in_fork(self) -> None:
        """This process is a fork of the worker, some of whose threads may have been printing."""
        self.forked = True

    def ends(self) -> tuple[int, int]:
        """The places in both logs behind what was written last, out and err."""
        return self._logs["stdout"].end(), self._logs["stderr"].end()

    def install(self) -> None:
        """Take what is written from now on."""
        me = self._me
        # Also the originals: `sys.stdout = sys.__stdout__` is how programs undo a redirection.
        module: Any = sys
        module.stdout = module.__stdout__ = WorkerStream(self, "stdout", self._logs["stdout"])
        module.stderr = module.__stderr__ = WorkerStream(self, "stderr", self._logs["stderr"])
        self._streams = (sys.stdout, sys.stderr)
        for handler in logging.getLogger("nbray").handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(LogOnly(self._logs["stderr"], lambda: self.forked))
        set_origin_finder(lambda: 0 if me.newest_task is None else me.newest_task.origin)

    # --- what user code does (any thread) --------------------

    def written(self, stream: str, text: str) -> None:
        """Text was printed, and is in the log; with the lock held."""
        source = self._source()
        if source is not None:
            self._batch.write(source, stream, text)
            self._schedule()

    def flush(self, stream: str) -> None:
        """A line may be unfinished, and is to be seen."""
        with self.lock:
            source = self._source()
            if source is not None:
                self._batch.flush(source, stream)
                self._schedule()

    def display(self, kind: str, content: dict[str, Any]) -> None:
        """Something rich was displayed: one of Jupyter's messages."""
        if self.forked:
            print(content["data"].get("text/plain", ""))
            return
        encoded = as_json(content).encode()
        with self.lock:
            source = self._source()
            if source is not None:
                self._batch.display(OutputDisplay(source, kind, encoded))
                self._schedule()

    def task_started(self) -> None:
        """A task begins: while it runs, and children of it do, the logs are looked at."""
        self._busy += 1
        if not self._watching:
            # Between the calls of a caller that waits for each, a look finds nobody busy: it is
            # some quiet looks in a row that end the watch, not the first.
            self._watching, self._quiet = True, 0
            self._inbox.post(self._watch)

    def task_ended(self) -> None:
        """The task of this thread or coroutine ends: its output goes before its reply."""
        self._busy -= 1
        if sys.stdout is not self._streams[0] or sys.stderr is not self._streams[1]:
            self._flush_others()
        if not self._sources:
            out, err = self._both
            if not (out.has_grown() or err.has_grown()):
                return  # as after most tasks
        with self.lock:
            self._read_logs()
            if not self._sources:
                return
            task = running.get()
            source = self._sources.pop(task.task_id, None) if task is not None else None
            if source is not None:
                self._batch.end(source)
            if self._batch:
                self._inbox.inbox.append(self._send)

    def _flush_others(self) -> None:
        """A task put other streams in the place of ours, which may keep what is not flushed."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception as error:  # the user's stream
                logger.info("A stream of the program could not be flushed: %s", error)

    def finish(self) -> None:
        """The worker leaves: what is left goes with its last turn."""
        with self.lock:
            self._read_logs()
        self._inbox.inbox.append(self._send)

    def close(self) -> None:
        """Nothing is written any more."""
        for log in self._both:
            log.close()

    # --- sources --------------------

    def source(self) -> OutputSource | None:
        """The task of this thread or coroutine, as its output has it."""
        with self.lock:
            return self._source()

    def driver(self) -> Connection:
        """Send what was printed; returns the connection to the driver. Under the baton."""
        self._send()
        if self._connection is None:
            self._connection = self._peers.connect(self._me.job.driver)
        return self._connection

    def _source(self) -> OutputSource | None:
        me = self._me
        task = running.get() or me.newest_task
        if task is None:
            return None
        source = self._sources.get(task.task_id)
        if source is None:
            if len(self._sources) >= _MAX_SOURCES:  # ended tasks whose threads print
                del self._sources[next(iter(self._sources))]
            source = self._sources[task.task_id] = OutputSource(
                task.task_id, me.actor_shown or task.name, task.origin, me.address.node_id,
                os.getpid(), self._logs["stdout"].path,
            )  # fmt: skip
        return source

    # --- sending (under the baton) --------------------

    def _schedule(self) -> None:
        if not self._scheduled and self._batch:
            self._scheduled = True
            inbox = self._inbox
            inbox.post(lambda: inbox.call_later(self._period_s, self._on_time))

    def _on_time(self) -> None:
        self._scheduled = False
        self._send()

    def _send(self) -> None:
        if self._connection is None and self._batch:
            self._connection = self._peers.connect(self._me.job.driver)
        connection = self._connection
        with self.lock:
            if connection is not None and not connection.closed and connection.congested:
                self._schedule()
                return
            messages = self._batch.take()
        # The connection of a driver that has left is closed: the log alone has the rest.
        if connection is not None and not connection.closed:
            for message in messages:
                connection.send(message)

    def _watch(self) -> None:
        with self.lock:
            found = self._read_logs()
        self._quiet = 0 if self._busy or found else self._quiet + 1
        if self._quiet < _QUIET_LOOKS:  # each of them later than the one before
            self._inbox.call_later(self._period_s * (1 << self._quiet), self._watch)
        elif _has_children():
            self._inbox.call_later(_CHILDREN_LOOK_S, self._watch)
        else:
            self._watching = False

    def _read_logs(self) -> bool:
        """Take what others have written; whether there was any."""
        found = False
        for stream, log in self._logs.items():
            text = log.read_others()
            source = self._source() if text else None
            if source is not None:
                self._batch.write(source, stream, text)
                self._batch.flush(source, stream)
                self._schedule()
            found = found or bool(text)
        return found


def _has_children() -> bool:
    """Whether the main thread has started processes that live, and may write."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return bool(file.read(1))
    except OSError:
        return False  # a kernel that does not tell


def _line_buffer_c_stdout() -> None:
    """C code's ``printf`` reaches a file line by line, as it would a terminal."""
    try:
        c = ctypes.CDLL(None)
        c.setvbuf(ctypes.c_void_p.in_dll(c, "stdout"), None, 1, 0)  # 1: _IOLBF
    except (AttributeError, OSError, ValueError) as error:
        logger.info("The C library's output stays buffered: %s.", error)


def set_up_streams() -> None:
    """What is the same for all forks of a template, and is done in it once."""
    _line_buffer_c_stdout()
    # nbray's own messages are for the log; the root logger is the user's.
    own, root = logging.getLogger("nbray"), logging.getLogger()
    own.propagate = False
    own.setLevel(root.level)
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        own.addHandler(handler)
    root.setLevel(logging.WARNING)


def capture_output(output: WorkerOutput) -> None:
    """Send what is written from now on."""
    global _current
    _current = output
    output.install()


def release_output() -> None:
    """This process goes on, and is no worker any more; its streams are whoever's who calls this."""
    global _current
    if _current is not None:
        _current.close()
        _current = None


def current_output() -> WorkerOutput | None:
    """The output of this worker; None in a driver."""
    return _current
