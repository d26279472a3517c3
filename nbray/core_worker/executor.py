"""The worker's side of a task: queue, run, reply.

The main thread runs user code and, between tasks, drives the sockets itself. Replies are
queued and leave at the next turn; while a long task runs, the background thread makes those
turns. A task that blocks in `get`, or runs for long, must not hold up those queued behind it:
they are given back to their submitters, which also rules out a deadlock between a task and
one queued behind it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import cloudpickle

from nbray.common.ids import return_id
from nbray.core_worker.arguments import unpack
from nbray.core_worker.context import TaskContext, running
from nbray.core_worker.core import CoreWorker
from nbray.core_worker.serialization import deserialize, serialize
from nbray.exceptions import TaskCancelledError, TaskError
from nbray.wire import messages as m
from nbray.wire.reactor import Connection, Waiter

logger = logging.getLogger(__name__)

_LONG_S = 0.02


class ExitActor(BaseException):
    """Raised by a method to end its actor."""


class Executor:
    """Runs the tasks that are pushed to this worker."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._main = threading.get_ident()
        self._queue: deque[tuple[Connection, m.TaskSpec]] = deque()
        self._replies: deque[tuple[Connection, m.TaskSpec, m.TaskDone]] = deque()
        self._functions: dict[bytes, bytes | Callable[..., Any]] = {}
        self._waiter: Waiter | None = None
        self._current: bytes = b""
        self._cancelled: bytes = b""
        self._started = 0.0
        self._leaving = False
        self._becoming: tuple[Connection, m.BecomeActor] | None = None
        self._actor: Any = None
        self._actor_id = b""
        self._threads: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._limit: asyncio.Semaphore | None = None
        for kind in (m.PushTask, m.CancelTask, m.BecomeActor, m.ExitWorker):
            core.peers.handlers[kind] = self._on_message
        core.on_executor_turn = self._turn
        core.before_blocking = self._before_blocking

    # --- under the baton --------------------

    def _on_message(self, connection: Connection, message: m.Message) -> None:
        match message:
            case m.PushTask():
                if message.function is not None:
                    self._functions.setdefault(message.spec.function_id, message.function)
                self._queue.append((connection, message.spec))
                if self._current and not self._actor_id and len(self._queue) == 1:
                    self._core.reactor.call_later(_LONG_S, self._return_if_long)
            case m.CancelTask():
                self._cancel(message)
            case m.BecomeActor():
                self._becoming = (connection, message)
            case m.ExitWorker():
                self._leaving = True
            case _:
                raise AssertionError(f"not a message for an executor: {message!r}")
        if self._waiter is not None:
            self._waiter.complete_one()

    def _cancel(self, message: m.CancelTask) -> None:
        if message.force and message.task_id == self._current:
            os._exit(1)
        for connection, spec in self._queue:
            if spec.task_id == message.task_id:
                self._queue.remove((connection, spec))
                error = TaskCancelledError(f"Task {spec.name} was cancelled.")
                self._reply(connection, spec, self._error_values(spec, error), 0.0)
                return
        if message.task_id == self._current:
            self._cancelled = message.task_id
            signal.pthread_kill(self._main, signal.SIGINT)

    def _turn(self) -> None:
        while self._replies:
            connection, spec, done = self._replies.popleft()
            done.borrowed = self._kept_arguments(spec)
            held = [ref.object_id for value in done.values for ref in value.contained]
            if held:
                self._core.references.hand_over(spec.task_id, held)
            connection.send(done)

    def _kept_arguments(self, spec: m.TaskSpec) -> list[bytes]:
        kept = []
        arguments = {d.object_id for d in spec.dependencies}
        arguments.update(ref.object_id for ref in spec.contained)
        for object_id in arguments:
            entry = self._core.table.get(object_id)
            if entry is not None and entry.owner is not None and entry.local > 0:
                entry.registered += 1
                kept.append(object_id)
        return kept

    def _return_if_long(self) -> None:
        if not self._queue or not self._current:
            return
        if time.monotonic() - self._started >= _LONG_S * 0.9:
            self._return_queue()
        else:
            self._core.reactor.call_later(_LONG_S, self._return_if_long)

    def _return_queue(self) -> None:
        back: dict[Connection, list[bytes]] = {}
        while self._queue:
            connection, spec = self._queue.popleft()
            back.setdefault(connection, []).append(spec.task_id)
        for connection, task_ids in back.items():
            connection.send(m.TasksReturned(task_ids))

    def _before_blocking(self) -> Callable[[], None]:
        """The running task waits for others: make way for them."""
        core = self._core
        if self._actor_id or not self._current:
            return lambda: None

        def blocked() -> None:
            self._return_queue()
            core.peers.raylet.send(m.WorkerBlocked())

        core.reactor.inbox.append(blocked)
        return lambda: core.reactor.post(lambda: core.peers.raylet.send(m.WorkerUnblocked()))

    # --- the main thread --------------------

    def run(self) -> None:
        """Serve until the raylet says to leave."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        reactor = self._core.reactor
        unsent = 0
        while True:
            if self._becoming is not None:
                self._become_actor(*self._becoming)
                self._becoming = None
            if not self._queue:
                unsent = 0
                if self._leaving and not self._replies:
                    return
                self._waiter = Waiter()
                reactor.inbox.append(self._wake_if_work)
                reactor.wait(self._waiter)
                self._waiter = None
                continue
            connection, spec = self._queue.popleft()
            if self._threads is not None:
                self._threads.submit(self._run_one, connection, spec)
            elif self._loop is not None:
                asyncio.run_coroutine_threadsafe(self._run_async(connection, spec), self._loop)
            else:
                self._run_one(connection, spec)
                unsent += 1
                if unsent >= 32:
                    unsent = 0
                    reactor.try_turn()

    def _wake_if_work(self) -> None:
        if self._waiter is not None and (self._queue or self._leaving or self._becoming):
            self._waiter.complete_one()

    def _on_interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        if self._cancelled and self._cancelled == self._current:
            self._cancelled = b""
            raise TaskCancelledError("The task was cancelled while it ran.")

    def _run_one(self, connection: Connection, spec: m.TaskSpec) -> None:
        started = self._started = time.monotonic()
        main = threading.get_ident() == self._main
        if main:
            self._current = spec.task_id
        retry = False
        token = running.set(TaskContext(spec.task_id, spec.name, spec.actor_id, spec.attempt))
        try:
            function = self._function(spec)
            args, kwargs = unpack(self._core, spec)
            result = function(*args, **kwargs)
            del args, kwargs
            values = self._values(spec, result)
            del result
        except ExitActor:
            os._exit(0)
        except BaseException as error:
            retry = True
            values = self._error_values(spec, error)
        finally:
            running.reset(token)
            if main:
                self._current = b""
        self._reply(connection, spec, values, time.monotonic() - started, retry)

    async def _run_async(self, connection: Connection, spec: m.TaskSpec) -> None:
        assert self._limit is not None
        async with self._limit:
            started = time.monotonic()
            running.set(TaskContext(spec.task_id, spec.name, spec.actor_id, spec.attempt))
            try:
                args, kwargs = unpack(self._core, spec)
                result = self._function(spec)(*args, **kwargs)
                if inspect.isawaitable(result):
                    result = await result
                values = self._values(spec, result)
            except ExitActor:
                os._exit(0)
            except BaseException as error:
                values = self._error_values(spec, error)
            self._reply(connection, spec, values, time.monotonic() - started)
            self._core.reactor.notify()

    def _function(self, spec: m.TaskSpec) -> Callable[..., Any]:
        if spec.actor_id:
            if spec.method == "__nbray_ready__":
                return lambda: True
            bound: Callable[..., Any] = getattr(self._actor, spec.method)
            return bound
        known = self._functions[spec.function_id]
        if isinstance(known, bytes):
            known = self._functions[spec.function_id] = cloudpickle.loads(known)
        return known

    def _values(self, spec: m.TaskSpec, result: Any) -> list[m.Value]:
        if spec.num_returns == 0:
            return []
        results = [result]
        if spec.num_returns > 1:
            results = list(result)
            if len(results) != spec.num_returns:
                raise ValueError(
                    f"{spec.name} has num_returns={spec.num_returns} but returned "
                    f"{len(results)} objects."
                )
        values = []
        for index, item in enumerate(results):
            packed = serialize(item)
            # Held until the receiver has registered them: `HandoverDone` takes this back.
            for ref in packed.contained:
                self._core.released.append((ref.object_id, 1))
            values.append(
                self._core.values.store(
                    return_id(spec.task_id, index), packed, self._core.job.driver.worker_id
                )
            )
        return values

    def _error_values(self, spec: m.TaskSpec, error: BaseException) -> list[m.Value]:
        text = str(error)
        if isinstance(error, TaskError):
            # An argument's task failed: its error is this task's too, as it stands.
            wrapped: BaseException = TaskError(
                error.function_name, error.traceback_text, error.cause, error.pid
            )
        elif isinstance(error, TaskCancelledError):
            wrapped = error
        else:
            text = _user_traceback(error)
            wrapped = TaskError(spec.name, text, error, os.getpid())
        try:
            data = serialize(wrapped).to_bytes()
            deserialize(data, None)
        except Exception:
            logger.info("The exception of %s cannot be sent; its text is.", spec.name)
            data = serialize(TaskError(spec.name, text, None, os.getpid())).to_bytes()
        return [m.Value(data, None, True)] * spec.num_returns

    def _reply(
        self,
        connection: Connection,
        spec: m.TaskSpec,
        values: list[m.Value],
        seconds: float,
        retry: bool = False,
    ) -> None:
        self._replies.append(
            (connection, spec, m.TaskDone(spec.task_id, values, seconds, [], retry))
        )
        if self._threads is not None:
            self._core.reactor.notify()

    # --- becoming an actor --------------------

    def _become_actor(self, connection: Connection, message: m.BecomeActor) -> None:
        spec = message.spec
        self._core.set_job(message.job)
        enter_job(message.job)
        self._actor_id = spec.actor_id
        creation = m.TaskSpec(
            b"", spec.job_id, b"", f"{spec.class_name}.__init__", spec.args, spec.dependencies,
            spec.contained,
        )  # fmt: skip
        token = running.set(TaskContext(b"", creation.name, spec.actor_id, 0))
        try:
            actor_class = cloudpickle.loads(spec.class_pickle)
            args, kwargs = unpack(self._core, creation)
            self._actor = actor_class(*args, **kwargs)
        except BaseException as error:
            text = f"its constructor raised:\n{_user_traceback(error)}"
            created = m.ActorCreated(spec.actor_id, None, text)
        else:
            created = m.ActorCreated(spec.actor_id)
        finally:
            running.reset(token)
        options = spec.options
        if options.is_async:
            self._loop = asyncio.new_event_loop()
            self._limit = asyncio.Semaphore(options.max_concurrency or 1000)
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
        elif options.max_concurrency > 1:
            self._threads = ThreadPoolExecutor(options.max_concurrency)
        self._core.reactor.post(lambda: connection.send(created))


def enter_job(job: m.JobConfig) -> None:
    """Make the driver's modules importable and its working directory ours."""
    for entry in reversed(job.sys_path):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    if os.path.isdir(job.working_dir):
        os.chdir(job.working_dir)


def _user_traceback(error: BaseException) -> str:
    """The traceback without the frames of this module."""
    frames = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = frames
    while part is not None:
        part.stack = traceback.StackSummary.from_list(
            [frame for frame in part.stack if frame.filename != __file__]
        )
        part = part.__cause__ or part.__context__
    return "".join(frames.format())
