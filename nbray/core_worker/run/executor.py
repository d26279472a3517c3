"""The worker's side of a task: queue, run, reply.

The main thread runs user code and, between tasks, drives the sockets itself. Replies are
queued and leave at the next turn; while a long task runs, the background thread makes those
turns. A task that blocks in `get`, or runs for long, must not hold up those queued behind it:
they are given back to their submitters, which also rules out a deadlock between a task and
one queued behind it.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType

from nbray.common.config import Config
from nbray.common.ids import creation_id
from nbray.core_worker.cancelling import Cancelling
from nbray.core_worker.identity import Identity
from nbray.core_worker.peers import Peers
from nbray.core_worker.run.actor_exit import ActorExit, exit_status
from nbray.core_worker.run.actor_host import ActorHost, Host
from nbray.core_worker.run.replies import Replies
from nbray.core_worker.run.surroundings import Surroundings
from nbray.core_worker.run.task_runner import TaskRunner
from nbray.core_worker.values.arguments import ArgumentsLost
from nbray.wire import messages as m
from nbray.wire.connection import Connection
from nbray.wire.lease_messages import AskIdle, WorkerIdle
from nbray.wire.records import ActorSpec, TaskSpec
from nbray.wire.waiting import Waiter
from nbray.wire.watching_messages import ProcessLeaves

logger = logging.getLogger(__name__)

_LONG_S = 0.02
_TORN_S = 0.002
_NEXT_TURN_S = 0.001


MakeHost = Callable[[ActorSpec, Host], ActorHost]


class Executor:
    """Runs the tasks that are pushed to this worker.

    Attributes:
        exit_status: of this process, when it is to end as if it crashed.
    """

    def __init__(
        self, config: Config, me: Identity, peers: Peers, cancelling: Cancelling,
        runner: TaskRunner, replies: Replies, surroundings: Surroundings, make_host: MakeHost,
        is_needed: Callable[[bool], bool],
    ) -> None:  # fmt: skip
        """``make_host`` makes the host of an actor.

        ``is_needed``: others need this process, also if it is worn out, as it takes.
        """
        self._me = me
        self._peers = peers
        self._reactor = peers.reactor
        self._cancelling = cancelling
        self._runner = runner
        self._replies = replies
        self._reply = replies.add
        self._surroundings = surroundings
        self._make_host = make_host
        self._is_needed = is_needed
        self._patience_s = config.graceful_exit_s
        self._main = threading.get_ident()
        self._queue: deque[tuple[Connection, TaskSpec]] = deque()
        self._waiter: Waiter | None = None
        self._current: bytes = b""
        self._cancelled: bytes = b""
        self._started = 0.0
        self._leaving = False
        self._is_new = True
        self._calls: dict[bytes, int] = {}
        self._blocked: dict[bytes, int] = {}  # how many threads of a task wait
        self._worn_out = False
        self._watched = False  # whether a timer looks for what stands behind a long task
        self._becoming: tuple[Connection, m.BecomeActor] | None = None
        self._actor: ActorHost | None = None
        self._elsewhere: ActorHost | None = None  # the same, when calls run in other threads
        self._direct: ActorHost | None = None  # the same, when they need not pass this thread
        self.exit = ActorExit(
            me, self._reactor, peers, self._patience_s, self._is_busy, self._crash
        )
        self.exit_status: int | None = None
        self._runner.waiting_functions = lambda: [spec.function_id for _, spec in list(self._queue)]
        peers.handlers[m.PushTask] = self._on_push
        peers.handlers[AskIdle] = self._on_ask_idle
        for kind in (m.CancelTask, m.BecomeActor, m.ExitWorker):
            peers.handlers[kind] = self._on_message

    def forget_in_fork(self) -> None:
        """A fork that comes back to `run` runs none of the tasks."""
        self._queue.clear()

    def is_leaving(self) -> bool:
        """Whether user code ends this process."""
        return self.exit.leaving is not None

    # --- under the baton --------------------

    def _on_message(self, connection: Connection, message: m.Message) -> None:
        match message:
            case m.CancelTask():
                self._cancel(message)
            case m.BecomeActor():
                self._becoming = (connection, message)
            case m.ExitWorker(actor_ended=True):
                self._queue.clear()
                self._leaving = True
            case m.ExitWorker():
                if self._is_needed(self._worn_out):
                    self._peers.to_raylet(m.WorkerStays())
                else:
                    self._leaving = True
            case _:
                raise AssertionError(f"not a message for an executor: {message!r}")
        if self._waiter is not None:
            self._waiter.complete_one()

    def _on_ask_idle(self, raylet: Connection, message: AskIdle) -> None:
        idle = self._waiter is not None and not self._queue
        raylet.send(WorkerIdle(message.lease_id, idle, self._started))

    def _on_push(self, connection: Connection, message: m.PushTask) -> None:
        if self._actor is None:
            # Of the lease before, no task is left: the variables are nobody else's.
            around = self._surroundings
            if message.devices or around.devices.ids or message.threads != around.threads.count:
                around.for_lease(message.devices, message.threads)
        if message.function is not None:
            self._runner.functions.learn(message.spec.function_id, message.function)
        if self._worn_out:
            connection.send(m.TasksReturned([message.spec.task_id]))
            return
        if self.exit.leaving is not None:
            return  # its caller hears of the end of this process
        actor, spec = self._actor, message.spec
        if spec.concurrency_group and actor is not None and actor.refuses(connection, spec):
            return
        if self._direct is not None:
            self._direct.takes(connection, spec)
            return
        self._queue.append((connection, spec))
        waiter = self._waiter
        if waiter is not None:
            waiter.complete_one()
        if not self._watched and self._actor is None:
            self._watched = True
            self._reactor.call_later(_LONG_S, self._return_if_long)

    def _cancel(self, message: m.CancelTask) -> None:
        if message.recursive:
            self._cancelling.children(message.task_id, message.force, message.interrupt)
        if not message.task_id:
            return  # no task has this id, and an idle worker runs none
        if message.force and message.task_id == self._current:
            # In the next turn: what was said to its children leaves with this one.
            self._reactor.call_later(_NEXT_TURN_S, partial(self._exit, message.task_id))
            return
        self._cancelling.note(message.task_id)
        for waiting in list(self._queue):  # from which the main thread may take one now
            if waiting[1].task_id == message.task_id:
                try:
                    self._queue.remove(waiting)
                except (ValueError, IndexError):
                    break  # it did, and finds the note
                self._reply(*waiting, self._runner.cancelled(waiting[1]))
                return
        if self._actor is not None:
            self._actor.cancel(message.task_id)
        if message.task_id == self._current:
            self._cancelled = message.task_id
            if self._actor is None or message.interrupt:
                self._interrupt(message.task_id)

    def _exit(self, task_id: bytes) -> None:
        if task_id == self._current:
            raylet = self._peers.raylet
            raylet.send(
                ProcessLeaves("INTENDED_USER_EXIT", "The worker was ended by `nbray.cancel`.")
            )
            raylet.flush()
            os._exit(1)

    def _return_if_long(self) -> None:
        """Give back what stands behind a task that takes long, also if all came at once."""
        self._watched = False
        if not self._queue or self._actor is not None:
            return
        if self._current and time.monotonic() - self._started >= _LONG_S * 0.9:
            self._return_queue()
        else:
            self._watched = True
            self._reactor.call_later(_LONG_S, self._return_if_long)

    def _return_queue(self) -> None:
        back: dict[Connection, list[bytes]] = {}
        with suppress(IndexError):  # none is left: the main thread may have taken the last one
            while True:
                connection, spec = self._queue.popleft()
                back.setdefault(connection, []).append(spec.task_id)
        for connection, task_ids in back.items():
            connection.send(m.TasksReturned(task_ids))

    def before_blocking(self, patience: float) -> Callable[[], None]:
        """The running task waits for others: make way for them, if it waits for long enough."""
        reactor, peers = self._reactor, self._peers
        if self._actor is not None or not self._current:
            return lambda: None
        waits, told = True, False
        task_id, blocked_threads = self._current, self._blocked

        def blocked() -> None:
            nonlocal told
            if waits:
                told = True
                self._return_queue()
                blocked_threads[task_id] = count = blocked_threads.get(task_id, 0) + 1
                if count == 1:
                    peers.to_raylet(m.WorkerBlocked())

        def goes_on() -> None:
            if told:
                left = blocked_threads.pop(task_id) - 1
                if left:  # others of its threads wait still
                    blocked_threads[task_id] = left
                else:
                    peers.to_raylet(m.WorkerUnblocked())

        def resume() -> None:
            nonlocal waits
            waits = False
            reactor.post(goes_on)

        if patience:
            reactor.inbox.append(lambda: reactor.call_later(patience, blocked))
        else:
            reactor.inbox.append(blocked)
        return resume

    # --- the main thread --------------------

    def run(self) -> None:
        """Serve until the raylet says to leave."""
        on_interrupt = self._on_interrupt  # raises nothing while no task runs
        signal.signal(signal.SIGINT, on_interrupt)
        reactor = self._reactor
        unsent = 0
        while True:
            if self._is_new and (self._becoming is not None or self._queue):
                self._is_new = False
                self._surroundings.before_the_first()
            if self._becoming is not None:
                self._become_actor(*self._becoming)
                self._becoming = None
            if not self._queue or self._worn_out:
                unsent = 0
                if self._leaving and not self._replies:
                    return
                self._waiter = Waiter()
                if self._queue or self._leaving or self._becoming:  # it came at this moment
                    reactor.inbox.append(self._wake_if_work)
                if self._direct is None:
                    reactor.wait(self._waiter, harmless=on_interrupt)
                else:
                    reactor.rest(self._waiter)
                self._waiter = None
                continue
            try:
                connection, spec = self._queue.popleft()
            except IndexError:
                continue  # it was given back at this moment
            if self._elsewhere is not None:
                self._elsewhere.takes(connection, spec)
                continue
            self.run_here(connection, spec)
            unsent += 1
            if unsent >= 32:
                unsent = 0
                reactor.try_turn()

    def _wake_if_work(self) -> None:
        if self._waiter is not None and (
            (self._queue and not self._worn_out) or self._leaving or self._becoming
        ):
            self._waiter.complete_one()

    def _on_interrupt(self, _signal: int, frame: FrameType | None) -> None:
        task_id = self._cancelled
        if not task_id or task_id != self._current:
            return
        if self._runner.is_interruptible(frame):
            raise KeyboardInterrupt("The task was cancelled while it ran.")
        reactor = self._reactor
        reactor.post(lambda: reactor.call_later(_TORN_S, partial(self._interrupt, task_id)))

    def _interrupt(self, task_id: bytes) -> None:
        if task_id == self._current:
            signal.pthread_kill(self._main, signal.SIGINT)

    def run_here(self, connection: Connection, spec: TaskSpec) -> None:
        """Run a task in the main thread and queue its reply."""
        if spec.function_id and spec.function_id not in self._runner.functions:
            self._ask_for_function(connection, spec)
            return
        self._started = time.monotonic()
        self._current = spec.task_id
        cancelled = self._cancelling.noted
        if cancelled and spec.task_id in cancelled:  # when it was neither here nor there
            self._current = b""
            self._reply(connection, spec, self._runner.cancelled(spec))
            return
        try:
            done = self._runner.run(connection, spec)
        except SystemExit as leaving:
            self._current = b""
            self.leave(leaving)
            return
        except ArgumentsLost as lost:
            self._current = b""
            if self._cancelled != spec.task_id:
                self._return_without_arguments(connection, spec, lost)
                return
            done = self._runner.cancelled(spec)
        self._current = b""
        if self._cancelled == spec.task_id:
            if self._actor is not None:
                self._runner.end_cancelled(spec, done)
            done.retry = False
        self._cancelled = b""
        if spec.max_calls:
            self._count_call(spec, done)
        if self.exit.leaving is not None:
            self.reply(connection, spec, done)
        else:
            self._reply(connection, spec, done)

    def _return_without_arguments(
        self, connection: Connection, spec: TaskSpec, lost: ArgumentsLost
    ) -> None:
        """Give a task back until its arguments are there: their makers may need this worker."""
        self._replies.give_back(spec)
        self._reactor.post(lambda: connection.send(m.TasksReturned([spec.task_id], lost.tried)))

    def _ask_for_function(self, connection: Connection, spec: TaskSpec) -> None:
        """Give a task back whose function was dropped since its submitter sent it."""
        returned = m.TasksReturned([spec.task_id], forgotten=[spec.function_id])
        self._reactor.post(lambda: connection.send(returned))

    def _count_call(self, spec: TaskSpec, done: m.TaskDone) -> None:
        calls = self._calls[spec.function_id] = self._calls.get(spec.function_id, 0) + 1
        if calls >= spec.max_calls:
            self._worn_out = done.leaving = True
            self._reactor.post(self._return_queue)

    def reply(self, connection: Connection, spec: TaskSpec, done: m.TaskDone) -> None:
        """Queue the reply of a task that ran in another thread, or that may be the last one."""
        if self.exit.leaving is None:
            self._reply(connection, spec, done)
            self._reactor.notify()
            return
        if self.exit.is_asked_by(spec.task_id):  # and caught the exception
            self._replies.drop(spec, done)
        else:
            self._reply(connection, spec, done)
        self.exit.call_ended()

    def leave(self, leaving: SystemExit) -> None:
        """User code ends this process: see `ActorExit`; a task's worker as if it crashed."""
        if self._actor is None:
            os._exit(exit_status(leaving))  # which sends what is left
        self._queue.clear()
        self.exit.begin(leaving)

    def _is_busy(self) -> bool:
        return bool(self._current) or (self._actor is not None and bool(self._actor.running))

    def _crash(self, status: int) -> None:
        if self._is_busy():  # for too long
            os._exit(status)
        self._reactor.call_later(self._patience_s, lambda: os._exit(status))
        self.exit_status, self._leaving = status, True
        if self._waiter is not None:
            self._waiter.complete_one()

    def end(self) -> None:
        """The last of this process: the actor's own end, and what was registered with `atexit`."""
        if self._actor is not None:
            self._actor.end()
        atexit._run_exitfuncs()

    def _become_actor(self, connection: Connection, message: m.BecomeActor) -> None:
        self._surroundings.for_actor(message)
        self._actor = self._make_host(message.spec, self)
        self._current = creation_id(message.spec.actor_id)
        created: m.ActorCreated | None = self._actor.create()
        self._current = b""
        if self.exit.leaving is not None:
            created = self.exit.end_of_constructor()
        if self._actor.runs_elsewhere():
            self._elsewhere = self._actor
        if self._actor.drives():
            self._direct = self._actor
        if created is not None:
            if self._me.actor_shown != message.spec.class_name:
                created.shown = self._me.actor_shown
            self._reactor.post(lambda: connection.send(created))
